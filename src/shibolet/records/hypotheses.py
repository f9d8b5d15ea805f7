"""The lines of `hypotheses.jsonl`: what a system heard in each utterance of a set, in the set's order."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shibolet.records.files import write_jsonl
from shibolet.records.reading import read_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class HypothesisLine:
    """An utterance and its hypothesis, both texts as they came; fields in the file's order."""

    id: str
    reference: str
    hypothesis: str  # empty where recognition failed
    duration_s: float
    domain: str | None
    recording: str | None = None  # older files have nothing from here on
    speaker: str | None = None
    source: str | None = None
    snr_db: float | None = None  # None: nobody looked at the audio
    written_again: bool = False  # the model looped at first, and this is what it wrote in another way


def write_hypothesis_lines(path: Path, lines: Iterable[HypothesisLine]) -> None:
    """Write the file, whole or not at all."""
    write_jsonl(path, map(asdict, lines))


def read_hypothesis_lines(path: Path) -> list[HypothesisLine]:
    """The lines of a file, whichever version wrote it; DataError names the line that is none."""
    return read_lines(path, HypothesisLine, "'shibolet evaluate RECIPE' makes it again")
