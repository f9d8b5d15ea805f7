"""What the audit said of each utterance, and a person after it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shibolet.records.audited import Audited, AuditedRows
from shibolet.records.review import Answer


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The audit's row of an utterance, with a person's answer on the same text, where there is one that is sure."""

    row: Audited
    review: Literal["good", "bad"] | None = None

    @property
    def is_low_quality(self) -> bool:
        """'good' takes low quality back, but no failure."""
        return self.row.is_low_quality and (self.review != "good" or self.row.failure is not None)


class ReviewedRows(Mapping[str, Reviewed]):
    """Rows by utterance id, from the audit's tables and a person's answers."""

    def __init__(self, tables: Iterable[Path], answers: Mapping[str, Answer]) -> None:
        self._rows, self._answers = AuditedRows(tables), answers

    @property
    def corrected(self) -> dict[str, Answer]:
        """By id the answers that give another text than the utterance has."""
        return {id: one for id, one in self._answers.items() if one.corrected is not None}

    def __getitem__(self, id: str) -> Reviewed:
        return reviewed(self._rows[id], self._answers.get(id))

    def among(self, ids: Sequence[str]) -> dict[str, Reviewed]:
        """Those of some ids, which are read together."""
        known = [id for id in ids if id in self._rows]
        rows = zip(known, self._rows.rows(known), strict=True)
        return {id: reviewed(row, self._answers.get(id)) for id, row in rows}

    def __contains__(self, id: object) -> bool:
        return id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def reviewed(row: Audited, answer: Answer | None) -> Reviewed:
    """The row with what a person said of the same text."""
    if answer is None or answer.text != row.text or answer.verdict == "unsure":
        return Reviewed(row)
    return Reviewed(row, answer.verdict)
