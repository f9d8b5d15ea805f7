"""What the pages on which people judge show of one utterance; `utterance.js` reads these names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shibolet.records.audited import Audited
from shibolet.report.recipe import ShownAudit
from shibolet.report.wording import sentence
from shibolet.scoring.counts import align_words
from shibolet.speech.text.language import Language
from shibolet.speech.text.reading import number_aware

MAX_WORDS = 400  # of one utterance
_OF_SOUND = ("sound", "wave", "silent")


@dataclass(slots=True, kw_only=True)
class Entry:
    """What a page shows of one utterance."""

    id: str
    domain: str
    recording: str | None
    speaker: str | None
    seconds: float
    text: str
    low: bool
    suspect: str | None
    kinds: list[str]  # of reasons
    why: list[str]  # sentences
    coverage: float | None
    confidence: float | None
    probability: float | None
    snr_db: int | None
    words: Sequence[str]
    times: list[float]  # start and end of each word
    diff: list  # see `_difference`
    flags: Sequence[str] | None
    rest: bool  # not of the sample
    draw: int | None  # its place in the random draw
    sound: int | None = None  # its line of MP3; it has this and the envelope, or a reason why it is silent, or no room
    wave: str | None = None
    silent: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what is not known of its sound."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None or name not in _OF_SOUND}


def worst_first(id: str, is_low: bool, confidence: float | None) -> tuple:
    """Flagged before passed, the least credible first; what could not be heard after what could."""
    return not is_low, 2.0 if confidence is None else confidence, id


def brief_of(row: Audited, is_rest: bool, limits: ShownAudit, draw: Mapping[str, int]) -> dict[str, Any]:
    """What a list of utterances is filtered and sorted by; it costs little of one."""
    return {
        "id": row.id, "domain": row.domain, "recording": row.recording, "speaker": row.speaker,
        "seconds": round(row.duration_s, 2), "text": row.text, "low": row.is_low_quality,
        "suspect": row.suspect or row.failure, "kinds": _kinds(row, limits), "coverage": _rounded(row.coverage),
        "confidence": _rounded(row.confidence), "probability": _rounded(row.probability), "flags": row.flags,
        "rest": is_rest, "draw": draw.get(row.id),
    }  # fmt: skip


def entry_of(row: Audited, is_rest: bool, limits: ShownAudit, language: Language, draw: Mapping[str, int]) -> Entry:
    times = [t for span in zip(row.starts_s, row.ends_s) for t in span]
    return Entry(
        **brief_of(row, is_rest, limits, draw),
        why=[sentence(reason) for reason in row.reasons],
        snr_db=None if row.snr_db is None else round(row.snr_db),
        words=row.words[:MAX_WORDS],
        times=[round(t, 2) for t in times[: 2 * MAX_WORDS]],
        diff=[] if row.failure else _difference(*number_aware(row.text, row.hypothesis, language))[:MAX_WORDS],
    )


def _kinds(row: Audited, limits: ShownAudit) -> list[str]:
    """Kinds of reasons for which a row is of low quality."""
    if not row.is_low_quality:
        return []
    holds = {
        "failed": row.failure is not None,
        "fit": row.confidence is not None and row.confidence < limits.min_confidence,
        "words": row.coverage is not None and row.coverage < limits.min_coverage,
        "length": bool(row.length_mismatch),
    }
    return [kind for kind, is_so in holds.items() if is_so]


def _difference(said: str, heard: str) -> list:
    """Words of the text and of what was heard: a word where they agree, else [written or null, heard or null]."""
    return [word if op == "hit" else [word, other] for op, word, other in align_words(said, heard)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
