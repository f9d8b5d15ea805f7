"""Hypotheses that were made elsewhere, by any engine: the rows of a file, and what an audit asks of it.

.jsonl        one object a line, also as .jsonl.gz
.csv, .tsv    a header and cells, as `speech.cells` reads them
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from shibolet.errors import DataError
from shibolet.listen.protocols import Hearing
from shibolet.records.files import hash_file
from shibolet.speech import cells
from shibolet.speech.text import strip_official_prefix
from shibolet.speech.textfiles import (
    BadRow,
    explained,
    one_line,
    parse_object,
    read_lines,
    require_one_object_a_line,
)  # fmt: skip

ID_KEYS = ("id", "utterance_id", "audio_filepath", "audio")
TEXT_KEYS = ("hypothesis", "pred_text", "predicted_text", "prediction")  # nothing but a hypothesis is called so
EITHER_KEYS = ("text", "transcription", "transcript")  # a reference, or a hypothesis

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Where each row stands, and its values under names without spaces and capitals; DataError names what is no row."""
    is_table = path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
    with explained(f"hypotheses {path}"):
        for number, row in _table(path) if is_table else _objects(path):
            if isinstance(row, BadRow):
                raise DataError(f"{path}, line {number}: {row.detail}")
            yield f"line {number}", row


def _objects(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    for place, (number, line) in enumerate(read_lines(path)):
        if place == 0:
            require_one_object_a_line(line, str(path))
        row = parse_object(line)
        yield number, row if isinstance(row, BadRow) else {key.strip().lower(): value for key, value in row.items()}


def _table(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    first = next((line for _, line in read_lines(path)), "")
    known = {*ID_KEYS, *TEXT_KEYS, *EITHER_KEYS, "reference_text"}
    headers = [
        cells.Header(tuple(name.lower() for name in header.names), header.delimiter) for header in cells.headers(first)
    ]
    if isinstance(first, BadRow) or not headers:
        reason = first.detail if isinstance(first, BadRow) else "its first line is not a header of several columns"
        raise DataError(f"{path}: {reason}")
    header = max(headers, key=lambda header: len(known.intersection(header.names)))
    if twice := next((name for name in known if header.names.count(name) > 1), None):
        raise DataError(f"{path} has {header.names.count(twice)} columns named '{twice}': rename all but one")
    yield from cells.rows(read_lines(path), header, None)  # an empty hypothesis may be left out


def id_of(row: Row) -> str | None:
    """What a row calls its utterance, as `same_id` writes it; None where it has no id."""
    value = next((row[key] for key in ID_KEYS if row.get(key) is not None), None)
    return None if value is None else same_id(str(value))


def same_id(id: str) -> str:
    """An id for comparing: systems differ in how they write accented letters in the names of files."""
    return unicodedata.normalize("NFC", id)


def text_key(row: Row, where: str) -> str | None:
    """The key of a row's hypothesis; None where it has none, DataError where two could be it."""
    named, either = _keys(tuple(row))
    if len(named) > 1 and any(row[key] != row[named[0]] for key in named):
        raise DataError(f"{where}: '{named[0]}' and '{named[1]}' differ, and either may be the hypothesis: leave one")
    if not named and len(either) > 1:
        raise DataError(
            f"{where}: '{either[0]}' or '{either[1]}' is the hypothesis, and the other the reference: call them "
            "'hypothesis' and 'reference'"
        )
    return next(iter((*named, *either)), None)


@lru_cache(256)
def _keys(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the names of a row, those of hypotheses, and those that may be of references."""
    return tuple(key for key in TEXT_KEYS if key in names), tuple(key for key in EITHER_KEYS if key in names)


class RecordedHypotheses:
    """`ByName`: it knows utterances by their ids and hears nothing, so it has no likelihood and no times.

    A hypothesis must be called one: a `text` could as well be what the audit is to judge.
    """

    def __init__(self, path: Path) -> None:
        self.identity = hash_file(path)
        self._path = path
        self._said: dict[str, str] = {}
        for where, row in read_rows(path):
            id, key = id_of(row), text_key(row, f"{path}, {where}")
            if id is None or key not in TEXT_KEYS or not isinstance(row[key], str):
                raise DataError(f"{path}, {where}: expected the texts 'id' and 'hypothesis' (or {TEXT_KEYS[1:]})")
            text = strip_official_prefix(row[key])[1]
            if self._said.setdefault(id, text) != text:
                raise DataError(f"{path}, {where}: id '{one_line(id)}' occurs twice with different hypotheses")

    def look_up(self, ids: Sequence[str]) -> list[Hearing | None]:
        """What was heard in each utterance; None where the file has nothing of it."""
        said = [self._said.get(same_id(id)) for id in ids]
        return [None if text is None else Hearing(hypothesis=text, text_score=None) for text in said]
