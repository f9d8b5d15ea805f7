"""Stage: what a model hears in a set of recordings, scored, on disk. Which sets and which models is for others to say.

<out_dir>/hypotheses.jsonl  one line an utterance, in the set's order, texts as they came
          listing.txt       every utterance word by word, aligned as sclite does it
          scores.json       WER and CER in all and by slice, kinds of errors, what failed, what all of it was made from
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shibolet.errors import DataError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.describe import describe
from shibolet.evaluate.hear import Change, Heard, Hearer, Progress, hear, snr_db
from shibolet.listen.lazy import Engines
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.scores import Failure, Overlap, Scores
from shibolet.records.files import hash_json, write_bytes
from shibolet.records.hypotheses import HypothesisLine, read_hypothesis_lines, write_hypothesis_lines
from shibolet.records.ledger import LedgerLine
from shibolet.records.manifest import manifest_hash
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.sclite import Entry, align_weighted, listing
from shibolet.scoring.slices import error_line
from shibolet.speech.text import Language, get_language
from shibolet.speech.text.terms import words_of

HYPOTHESES, LISTING, SCORES = "hypotheses.jsonl", "listing.txt", "scores.json"
NO_HYPOTHESIS = "no_hypothesis"
# Settings that change nothing in the scores of a set.
NOT_OF_A_SET = {"sets", "audit_sets", "dev_utterances", "expected_beam_points", "non_speech"}


def evaluate_set(
    transcriber: Hearer | Engines,
    utterances: Sequence[Utterance],
    *,
    set_name: str,
    language: str,
    config: EvaluateConfig,
    out_dir: Path,
    named: Named,
    identity: str,
    ledger: Sequence[LedgerLine] = (),
    overlap: Overlap | None = None,
    change: Change | None = None,
    on_progress: Progress | None = None,
) -> Scores:
    """Transcribe and score a set, write its files into `out_dir`, and return the scores.

    An utterance that cannot be decoded is scored as an empty hypothesis and listed under "failures"; so are rows of
    `ledger`, which never became utterances, where their text is known, and the others are listed under
    "unreadable_rows". `overlap` is what the set shares with the model's training data, None where these are not known.
    What `change` makes of a clip is heard in its place; `identity` has to tell it apart.
    A result that `out_dir` already holds for the same model identity, data and settings is returned as it is.
    """
    scored = _ScoredSet(set_name, get_language(language), config, out_dir, named, identity, utterances, ledger, overlap)
    return scored.found() or scored.write(hear(transcriber, utterances, config, on_progress, change))


def score_hypotheses(
    hypotheses: Mapping[str, str],
    utterances: Sequence[Utterance],
    *,
    set_name: str,
    language: str,
    config: EvaluateConfig,
    out_dir: Path,
    named: Named,
    identity: str,
    ledger: Sequence[LedgerLine] = (),
    on_progress: Progress | None = None,
) -> Scores:
    """The same files for hypotheses by utterance id that another system made; one without is a failure, and empty."""
    scored = _ScoredSet(set_name, get_language(language), config, out_dir, named, identity, utterances, ledger)
    if found := scored.found():
        return found
    failures, snrs_db = [], []
    for number, utterance in enumerate(utterances, 1):
        if utterance.id not in hypotheses:
            detail = "the file of hypotheses has none for it"
            failures.append(Failure(id=utterance.id, reason=NO_HYPOTHESIS, detail=detail))
        snrs_db.append(snr_db(utterance))
        if on_progress is not None:
            on_progress(number, len(utterances))
    return scored.write(Heard([hypotheses.get(utterance.id, "") for utterance in utterances], failures, snrs_db))


@dataclass(frozen=True)
class _ScoredSet:
    """One candidate on one set, on disk."""

    set_name: str
    language: Language
    config: EvaluateConfig
    out_dir: Path
    named: Named
    identity: str
    utterances: Sequence[Utterance]
    ledger: Sequence[LedgerLine]
    overlap: Overlap | None = None

    def __post_init__(self) -> None:
        if not self.utterances:
            raise DataError(f"set '{self.set_name}' has no utterances")
        if repeated := [id for id, times in Counter(u.id for u in self.utterances).items() if times > 1]:
            raise DataError(f"set '{self.set_name}': utterance id '{repeated[0]}' occurs twice; ids must be unique")

    @cached_property
    def unreadable(self) -> list[Failure]:
        """Rows of which nothing can be counted."""
        return [_failure(line) for line in self.ledger if line.text is None]

    @cached_property
    def unheard(self) -> list[LedgerLine]:
        """Rows whose text is known and whose audio is not: their words count as deleted."""
        return [line for line in self.ledger if line.text is not None]

    @cached_property
    def terms(self) -> frozenset[str]:
        """Words that are counted apart, in the recipe's language alone."""
        given = self.config.context
        return words_of(given.terms(), self.language.to_scoring) if given else frozenset()

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "data": hash_json([manifest_hash(self.utterances, whole=True), [asdict(line) for line in self.ledger]]),
            "language": self.language.name,
            "normaliser": self.language.scoring_version,
            "config": self.config.identity(NOT_OF_A_SET),
            "overlap": None if self.overlap is None else hash_json(self.overlap.model_dump(mode="json")),
        }

    def found(self) -> Scores | None:
        """What was written before from the same inputs, by this version."""
        try:
            found = Scores.read(self.out_dir / SCORES)
        except DataError:
            return None
        return found if found.inputs == self.inputs else None

    def write(self, heard: Heard) -> Scores:
        lines = [
            _line(utterance, text, snr, place in heard.written_again)
            for place, (utterance, text, snr) in enumerate(
                zip(with_files(self.utterances), heard.hypotheses, heard.snrs_db, strict=True)
            )
        ] + [_line(_unheard(line), "", None) for line in self.unheard]
        rows = [_row(line, self.set_name, self.language) for line in lines]
        scores = Scores(
            label=self.named.label,
            title=self.named.title,
            identity=self.identity,
            set=self.set_name,
            **dict(describe(rows, self.language, self.config.buckets_s, self.terms)),
            failures=[*heard.failures, *map(_failure, self.unheard)],
            unreadable_rows=self.unreadable,
            overlap=self.overlap,
            inputs=self.inputs,
        )
        write_hypothesis_lines(self.out_dir / HYPOTHESES, lines)
        write_bytes(self.out_dir / LISTING, _listing(rows, self.named.label, self.language).encode())
        scores.write(self.out_dir / SCORES)  # last: where it is, all are whole
        return scores


def _failure(line: LedgerLine) -> Failure:
    return Failure(id=line.id, reason=line.rule, detail=line.detail)


def _unheard(line: LedgerLine) -> Utterance:
    return Utterance(
        id=line.id, audio=AudioRef(path=""), text=line.text or "", duration_s=line.duration_s or 0.0,
        source=line.source, recording=line.recording, speaker=line.speaker, domain=line.domain,
    )  # fmt: skip


def with_files(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The same, with a file that several of them lie in as the recording of those whose own is not known."""
    place = lambda u: (u.audio.path, u.audio.row)  # noqa: E731
    times = Counter(map(place, utterances))
    return [
        replace(u, recording=Path(u.audio.path).name + ("" if u.audio.row is None else f" row {u.audio.row}"))
        if u.recording is None and times[place(u)] > 1
        else u
        for u in utterances
    ]


def _listing(rows: Sequence[ScoredRow], label: str, language: Language) -> str:
    words = sum((row.words for row in rows), EditCounts())
    header = (
        f";; {label}: {error_line(words)}\n"
        f";; That is the shortest edit, of words normalised as {language.scoring_version}. The alignments below have\n"
        ";; sclite's weights (substitution 4, deletion 3, insertion 3): another split, at times a larger total.\n"
    )
    return listing((Entry(row.id, align_weighted(row.said.split(), row.heard.split())) for row in rows), header)


def read_rows(out_dir: Path) -> list[ScoredRow]:
    """The scored utterances of an evaluated set, in its order; DataError when it is not there or scored otherwise."""
    scores = Scores.read(out_dir / SCORES)
    spoken = get_language(scores.language)
    if scores.normaliser != spoken.scoring_version:
        raise DataError(
            f"{out_dir}: scored with normaliser '{scores.normaliser}', this version has '{spoken.scoring_version}'; "
            "run 'shibolet evaluate' again"
        )
    return [_row(line, scores.set, spoken) for line in read_hypothesis_lines(out_dir / HYPOTHESES)]


def _row(line: HypothesisLine, set_name: str, language: Language) -> ScoredRow:
    utterance = Utterance(
        id=line.id, audio=AudioRef(path=""), text=line.reference, duration_s=line.duration_s, domain=line.domain,
        source=line.source or set_name, recording=line.recording, speaker=line.speaker,
    )  # fmt: skip
    return score_row(
        utterance, line.hypothesis, set=set_name, normaliser=language.to_scoring, snr_db=line.snr_db,
        written_again=line.written_again,
    )  # fmt: skip


def _line(utterance: Utterance, hypothesis: str, snr_db: float | None, written_again: bool = False) -> HypothesisLine:
    return HypothesisLine(
        id=utterance.id, reference=utterance.text, hypothesis=hypothesis, duration_s=utterance.duration_s,
        domain=utterance.domain, recording=utterance.recording, speaker=utterance.speaker, source=utterance.source,
        snr_db=snr_db, written_again=written_again,
    )  # fmt: skip
