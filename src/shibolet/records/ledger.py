"""Every row or utterance that left, by which rule and with which number."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shibolet.records.files import write_jsonl
from shibolet.records.reading import read_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerLine:
    """One row or utterance that left the data, or one that was changed on the way."""

    id: str
    source: str
    stage: str  # "read", "audit", "prepare", "train"
    rule: str  # short and stable: "missing_file", "undecodable", "empty_text", "low_quality:wrong_text", "too_long"
    detail: str = ""  # the sentence for a person, with the number that decided
    duration_s: float | None = None
    text: str | None = None  # of a row whose audio cannot be read: evaluation counts its words
    recording: str | None = None  # of such a row, where they are known
    speaker: str | None = None
    domain: str | None = None


def write_ledger(path: Path, lines: Iterable[LedgerLine]) -> None:
    write_jsonl(path, (asdict(line) for line in lines))


def read_ledger(path: Path) -> list[LedgerLine]:
    """The lines of what `prepare` wrote; DataError names the line that is none."""
    return read_lines(path, LedgerLine, "'shibolet prepare RECIPE' makes it again")


def count_by_rule(lines: Iterable[LedgerLine]) -> dict[str, int]:
    """Lines per rule, the most frequent first."""
    return dict(Counter(line.rule for line in lines).most_common())
