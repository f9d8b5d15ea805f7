"""Hypotheses that were made elsewhere, by any engine: a JSONL file of {"id": ..., "hypothesis": ...}, one a line."""

from collections.abc import Sequence
from pathlib import Path

from shibolet.errors import DataError
from shibolet.listen.protocols import Hearing
from shibolet.records.files import hash_file, read_jsonl


class RecordedHypotheses:
    """`ByName`: it knows utterances by their ids and hears nothing, so it has no likelihood and no times."""

    def __init__(self, path: Path) -> None:
        self.identity = hash_file(path)
        self._path = path
        self._said: dict[str, str] = {}
        for number, row in enumerate(read_jsonl(path), 1):
            if not isinstance(row.get("id"), str) or not isinstance(row.get("hypothesis"), str):
                raise DataError(f"{path}, line {number}: expected an object with the texts 'id' and 'hypothesis'")
            if self._said.setdefault(row["id"], row["hypothesis"]) != row["hypothesis"]:
                raise DataError(f"{path}, line {number}: id '{row['id']}' stands there twice with different hypotheses")

    def look_up(self, ids: Sequence[str]) -> list[Hearing | None]:
        """What was heard in each utterance; None where the file has nothing of it."""
        return [Hearing(hypothesis=self._said[i], text_score=None) if i in self._said else None for i in ids]
