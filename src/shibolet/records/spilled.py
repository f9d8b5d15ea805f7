"""Lists and dictionaries that may be larger than memory: they lie in temporary files (TMPDIR), and are read in parts.

The files have no name, so they end with the process. A list of fewer rows than a batch has no file.
"""

import os
import pickle
import sqlite3
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar, overload

from shibolet.errors import DiskError
from shibolet.records.files import disk_errors

BATCH_ROWS = 1024  # that are written together
KEPT_BATCHES = 16  # that were read last, of all lists, are in memory
FEW_KEYS = 1 << 17  # of a dictionary that is in memory, some 200 bytes each
_NEW_TABLE = ("PRAGMA cache_size=-32768", "BEGIN", "CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

Row = TypeVar("Row")


class SpilledList(Sequence[Row], Generic[Row]):
    """A list that can be read and appended to; memory holds its last rows, and batches that were read last.

    Rows are of one frozen dataclass with slots. A row is made anew each time that it is asked for: what comes is equal
    to what was put in, and another object. A row takes 3 us where a list is read in its order, else up to 1 ms.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._batches: list[_Batch | list[Row]] = []
        self._starts = [0]  # of each batch, and where the next one will begin
        self._end: list[Row] = []
        self._file: BinaryIO | None = None
        self.extend(rows)

    @classmethod
    def joined(cls, parts: Iterable[Sequence[Row]]) -> "SpilledList[Row]":
        """Lists one after the other, without a copy; they are not appended to from then on."""
        whole = cls()
        for part in parts:
            batches = [*part._batches, part._end] if isinstance(part, SpilledList) else [part]
            for batch in batches:
                if len(batch):
                    whole._add(batch)
        return whole

    def append(self, row: Row) -> None:
        self._end.append(row)
        if len(self._end) == BATCH_ROWS:
            self._add(self._put(self._end))
            self._end = []

    def extend(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.append(row)

    def _add(self, batch: "_Batch | list[Row]") -> None:
        self._batches.append(batch)
        self._starts.append(self._starts[-1] + len(batch))

    def _put(self, rows: list[Row]) -> "_Batch":
        content = zlib.compress(pickle.dumps(_to_columns(rows), pickle.HIGHEST_PROTOCOL), 1)
        with disk_errors(Path(tempfile.gettempdir())):
            self._file = self._file or tempfile.TemporaryFile()
            batch = _Batch(self._file, self._file.tell(), len(content), len(rows))
            self._file.write(content)
            self._file.flush()
        return batch

    def __len__(self) -> int:
        return self._starts[-1] + len(self._end)

    def __iter__(self) -> Iterator[Row]:
        for batch in self._batches:
            yield from _to_rows(_read(batch)) if isinstance(batch, _Batch) else batch
        yield from self._end

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        places = range(len(self))[place]
        if isinstance(places, range):
            return [self._at(one) for one in places]
        return self._at(places)

    def _at(self, place: int) -> Row:
        number = bisect_right(self._starts, place) - 1
        batch = self._batches[number] if number < len(self._batches) else self._end
        place -= self._starts[number]
        return _to_row(_read(batch), place) if isinstance(batch, _Batch) else batch[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | SpilledList):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None


@dataclass(frozen=True, eq=False, slots=True)
class _Batch:
    """Where rows lie that were put on disk together."""

    file: BinaryIO  # open as long as a list has a batch of it
    offset: int
    num_bytes: int
    num_rows: int

    def __len__(self) -> int:
        return self.num_rows


_Columns = tuple[type, list]  # of what, and the values of each field, or their columns


@lru_cache(KEPT_BATCHES)
def _read(batch: _Batch) -> _Columns:
    content = os.pread(batch.file.fileno(), batch.num_bytes, batch.offset)  # threads may read at once
    return pickle.loads(zlib.decompress(content))


def _to_columns(rows: list) -> _Columns:
    """By columns writing takes a seventh of the time that it takes by rows, and reading a sixth."""
    kind, columns = type(rows[0]), []
    for field in fields(kind):
        values = list(map(attrgetter(field.name), rows))
        is_nested = is_dataclass(values[0]) and len(set(map(type, values))) == 1
        columns.append(_to_columns(values) if is_nested else values)
    return kind, columns


def _to_rows(columns: _Columns) -> Iterator:
    """One after the other: a thousand at once would have Python's collector of garbage go through all that there is."""
    kind, columns = columns
    put = _setters(kind)
    for values in zip(*(_to_rows(own) if isinstance(own, tuple) else own for own in columns), strict=True):
        row = object.__new__(kind)
        for set_field, value in zip(put, values):
            set_field(row, value)
        yield row


def _to_row(columns: _Columns, place: int) -> object:
    """One of them."""
    kind, columns = columns
    row = object.__new__(kind)
    for set_field, own in zip(_setters(kind), columns, strict=True):
        set_field(row, _to_row(own, place) if isinstance(own, tuple) else own[place])
    return row


@lru_cache
def _setters(kind: type) -> list[Callable]:
    """What puts a value in each field: the class is frozen."""
    return [getattr(kind, field.name).__set__ for field in fields(kind)]


class SpilledDict:
    """A dictionary of texts that can only grow: beyond `FEW_KEYS` it lies in a temporary SQLite database.

    Memory holds up to 32 MiB of that. SQLite lets other threads run at each call: beside twenty of them one took 84 us
    in place of 3.
    """

    def __init__(self) -> None:
        self._few: dict[str, str] = {}
        self._database: sqlite3.Connection | None = None  # which has all of them, once it is there

    def __contains__(self, key: str) -> bool:
        return self._found(key) is not None

    def __getitem__(self, key: str) -> str:
        if (found := self._found(key)) is None:
            raise KeyError(key)
        return found

    def _found(self, key: str) -> str | None:
        if self._database is None:
            return self._few.get(key)
        row = self._database.execute("SELECT v FROM t WHERE k = ?", (_bytes_of(key),)).fetchone()
        return row and row[0].decode("utf-8", "surrogatepass")

    def add(self, key: str, value: str) -> bool:
        """Put it in where the key is new; whether it was."""
        if self._database is not None:
            return _insert(self._database, [(key, value)]) == 1
        if key in self._few:
            return False
        self._few[key] = value
        if len(self._few) >= FEW_KEYS:
            database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            _insert(database, sorted(self._few.items()), first=_NEW_TABLE)
            self._database, self._few = database, {}
        return True


def _insert(database: sqlite3.Connection, rows: Sequence[tuple[str, str]], first: Sequence[str] = ()) -> int:
    """How many of the keys were new."""
    found = ((_bytes_of(key), _bytes_of(value)) for key, value in rows)
    try:
        for line in first:
            database.execute(line)
        return database.executemany("INSERT OR IGNORE INTO t VALUES (?, ?)", found).rowcount
    except sqlite3.OperationalError as error:
        raise DiskError(f"a temporary file could not be written: {error}; make room (TMPDIR)") from error


def _bytes_of(text: str) -> bytes:
    """Names of files may have bytes that are no text."""
    return text.encode("utf-8", "surrogatepass")
