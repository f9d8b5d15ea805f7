"""Rows of the audit's tables: of each utterance that was heard, and of each row of the data that never became one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from pathlib import Path

from shibolet.audit.calibration import confidence, confidence_at, each_logit
from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.probability import probability_at
from shibolet.audit.signals import Signals
from shibolet.audit.verdict import Verdict, is_foreign, judge
from shibolet.records.audited import BATCH_ROWS, UNREADABLE, Audited
from shibolet.records.documents.calibration import Calibration
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language
from shibolet.speech.text.language import Language, Words

Judged = tuple[Utterance, Clip | None, Evidence]  # the clip of what has signals
_SIGNALS = [field.name for field in fields(Signals)]
_values_of = attrgetter(*_SIGNALS)


def rows_of(
    judged: Iterable[Judged], calibration: Calibration, config: AuditConfig, language: str, run_dir: Path
) -> Iterator[Audited]:
    """What the table says of utterances, in their order; audio below `run_dir` is named relative to it."""
    rules, judged = get_language(language), iter(judged)
    while batch := list(islice(judged, BATCH_ROWS)):
        present = [evidence.signals for _, _, evidence in batch if evidence.signals]
        logits, curve = each_logit(calibration, present), calibration.recalibration
        scores = iter(confidence_at(logits).tolist())
        chances = iter([None] * len(present) if curve is None else probability_at(curve, logits).tolist())
        for u, clip, evidence in batch:
            if evidence.signals is None:
                yield Audited(**_known(u, evidence, run_dir), is_low_quality=True, reasons=(evidence.detail,))
                continue
            verdict = judge(evidence.signals, next(scores), calibration, config)
            found = _found(evidence, verdict, Words(clip.words, clip.verifiable), next(chances), rules)
            yield Audited(**_known(u, evidence, run_dir), **found)


def _known(u: Utterance, evidence: Evidence, run_dir: Path) -> dict:
    return {
        "id": u.id, "source": u.source, "recording": u.recording, "speaker": u.speaker, "domain": u.domain,
        "text": u.text, "duration_s": u.duration_s, "audio": u.audio.from_folder(run_dir), "flags": u.flags,
        "failure": evidence.failure, "hypothesis": evidence.hypothesis, "starts_s": evidence.starts_s,
        "ends_s": evidence.ends_s,
    }  # fmt: skip


def _found(evidence: Evidence, verdict: Verdict, said: Words, chance: float | None, rules: Language) -> dict:
    foreign = verdict.suspect and (is_foreign(said) or is_foreign(rules.to_words(evidence.hypothesis)))
    return dict(zip(_SIGNALS, _values_of(evidence.signals))) | {
        "is_low_quality": verdict.low_quality,
        "suspect": "other_language" if foreign else verdict.suspect,
        "reasons": verdict.reasons,
        "coverage": None if verdict.coverage is None else round(verdict.coverage, 5),
        "confidence": round(verdict.confidence, 5),
        "probability": None if chance is None else round(chance, 5),
        "length_mismatch": verdict.length_mismatch,
        "words": said.tokens,
    }


def unreadable_row(line: LedgerLine) -> Audited:
    """A row of the data that never became an utterance."""
    return Audited(
        id=line.id, source=line.source, domain=UNREADABLE, text="", duration_s=line.duration_s or 0.0,
        failure=line.rule, is_low_quality=True, reasons=(line.detail,),
    )  # fmt: skip


def judge_all(signals: Sequence[Signals | None], calibration: Calibration, config: AuditConfig) -> list[Verdict | None]:
    """Verdicts in order; None where nothing could be heard."""
    present = [s for s in signals if s]
    scores = iter(confidence(calibration, present) if present else ())
    return [judge(s, float(next(scores)), calibration, config) if s else None for s in signals]
