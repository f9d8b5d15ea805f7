"""Rows of the audit's tables: of each utterance that was heard, and of each row of the data that never became one."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from shibolet.audit.calibration import confidence, probability
from shibolet.audit.clip import Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.signals import Signals
from shibolet.audit.verdict import Verdict, is_foreign, judge
from shibolet.records.audited import UNREADABLE, Audited
from shibolet.records.documents.calibration import Calibration
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language


def row_of(
    u: Utterance, evidence: Evidence, calibration: Calibration, config: AuditConfig, language: str, run_dir: Path
) -> Audited:
    """What the table says of an utterance; audio below `run_dir` is named relative to it."""
    verdict, rules = judge_all([evidence.signals], calibration, config)[0], get_language(language)
    known = {
        "id": u.id, "source": u.source, "recording": u.recording, "speaker": u.speaker, "domain": u.domain,
        "text": u.text, "duration_s": u.duration_s, "audio": u.audio.from_folder(run_dir), "flags": u.flags,
        "failure": evidence.failure, "hypothesis": evidence.hypothesis, "starts_s": evidence.starts_s,
        "ends_s": evidence.ends_s,
    }  # fmt: skip
    if verdict is None:
        return Audited(is_low_quality=True, reasons=(evidence.detail,), **known)
    said, is_likely = rules.to_words(u.text), probability(calibration, [evidence.signals])
    foreign = verdict.suspect and (is_foreign(said) or is_foreign(rules.to_words(evidence.hypothesis)))
    return Audited(
        **known,
        **asdict(evidence.signals)
        | {
            "is_low_quality": verdict.low_quality,
            "suspect": "other_language" if foreign else verdict.suspect,
            "reasons": verdict.reasons,
            "coverage": None if verdict.coverage is None else round(verdict.coverage, 5),
            "confidence": round(verdict.confidence, 5),
            "probability": None if is_likely is None else round(float(is_likely[0]), 5),
            "length_mismatch": verdict.length_mismatch,
            "words": said.tokens,
        },
    )


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
