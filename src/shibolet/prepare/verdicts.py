"""What the audit said of each utterance, and a person after it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.records.review import Answer

Verdict = Mapping  # a row of the audit's utterances.parquet: COLUMNS, and "review" where a person answered
COLUMNS = (
    "id", "text", "failure", "is_low_quality", "suspect", "reasons", "coverage", "hypothesis", "words", "starts_s",
    "ends_s",
)  # fmt: skip


class AuditedRows(Mapping[str, Verdict]):
    """Rows of the audit's tables by utterance id, made one at a time: lists are large in Python."""

    def __init__(self, tables: Iterable[Path], answers: Mapping[str, Answer]) -> None:
        self._table = pa.concat_tables([pq.read_table(path, columns=list(COLUMNS)) for path in tables]).combine_chunks()
        self._place_of = {id: place for place, id in enumerate(self._table["id"].to_pylist())}
        self._answers = answers

    def __getitem__(self, id: str) -> Verdict:
        return reviewed(self._table.slice(self._place_of[id], 1).to_pylist()[0], self._answers.get(id))

    def __contains__(self, id: object) -> bool:
        return id in self._place_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._place_of)

    def __len__(self) -> int:
        return len(self._place_of)


def reviewed(row: Verdict, answer: Answer | None) -> Verdict:
    """The row with what a person said of the same text; 'good' takes low quality back, but no failure."""
    if answer is None or answer.text != row["text"] or answer.verdict == "unsure":
        return row
    is_low = row["is_low_quality"] and (answer.verdict == "bad" or row["failure"] is not None)
    return {**row, "review": answer.verdict, "is_low_quality": is_low}
