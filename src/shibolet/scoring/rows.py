"""One scored utterance, the row that slices, comparisons and listings are made of."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from shibolet.records.groups import connected, keys_of
from shibolet.records.utterance import Utterance
from shibolet.scoring.counts import EditCounts, count_chars, count_words


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRow:
    """What was said, what was heard, and the edits between the two once normalised."""

    id: str
    set: str
    domain: str | None
    recording: str | None
    speaker: str | None
    duration_s: float
    reference: str  # as given, not normalised; so is the hypothesis
    hypothesis: str  # empty where recognition failed: every word is then deleted
    said: str  # the reference as it was counted: normalised
    heard: str  # the hypothesis as it was counted
    words: EditCounts
    chars: EditCounts
    snr_db: float | None = None  # None: nobody looked at the audio
    written_again: bool = False  # the model looped at first, and this is what it wrote in another way

    def to_json(self) -> dict:
        """A JSON object; `ScoredRow.from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict) -> "ScoredRow":
        return cls(**{**row, "words": EditCounts(**row["words"]), "chars": EditCounts(**row["chars"])})


def score_row(
    utterance: Utterance,
    hypothesis: str,
    *,
    set: str,
    normaliser: Callable[[str], str],
    snr_db: float | None = None,
    written_again: bool = False,
) -> ScoredRow:
    """The row of one utterance: counts on normalised texts, the texts themselves as they came."""
    said, heard = normaliser(utterance.text), normaliser(hypothesis)
    return ScoredRow(
        id=utterance.id,
        set=set,
        domain=utterance.domain,
        recording=utterance.recording,
        speaker=utterance.speaker,
        duration_s=utterance.duration_s,
        reference=utterance.text,
        hypothesis=hypothesis,
        said=said,
        heard=heard,
        words=count_words(said, heard),
        chars=count_chars(said, heard),
        snr_db=snr_db,
        written_again=written_again,
    )


def groups_of(rows: Iterable[ScoredRow]) -> list[str]:
    """The group of each row: rows of one speaker, or of one recording, share their fate in intervals."""
    return connected([keys_of(f"{row.set}/{row.id}", row.recording, row.speaker) for row in rows])
