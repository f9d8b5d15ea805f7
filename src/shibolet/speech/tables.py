"""Tables of encoded audio, Parquet or Arrow, read one batch or one cell at a time.

What comes out is still encoded; decoding is `speech.audio`'s.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.errors import AudioError, DataError
from shibolet.records.files import open_regular
from shibolet.records.objects import local_file
from shibolet.records.store import below, is_url, parent_of
from shibolet.speech.textfiles import BadRow

BATCH_ROWS = 64  # 30 s slices are about 0.2 MB encoded: a batch stays near 10 MB


class ParquetTable:
    """A Parquet file; keeps the audio column of the row group that was read last."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        self.num_rows = metadata.num_rows
        self.schema = self._file.schema_arrow
        self._group_starts = [0, *accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))]
        self._last: tuple[int, str, pa.ChunkedArray] | None = None
        self._lock = Lock()  # pyarrow's readers break when two threads read from one file object

    def cell(self, row: int, column: str) -> object:
        group = bisect_right(self._group_starts, row) - 1
        with self._lock:
            if self._last is None or self._last[:2] != (group, column):
                values = self._file.read_row_group(group, columns=[column]).column(0)
                self._require_rows(len(values), self._group_starts[group + 1] - self._group_starts[group])
                self._last = (group, column, values)
            return self._last[2][row - self._group_starts[group]].as_py()

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        num_read = 0
        for batch in self._file.iter_batches(BATCH_ROWS, columns=columns):
            num_read += batch.num_rows
            yield batch
        self._require_rows(num_read, self.num_rows)

    @staticmethod
    def _require_rows(found: int, promised: int) -> None:
        """ValueError where a page of a column is damaged so that pyarrow passes over it in silence."""
        if found != promised:
            raise ValueError(f"it is damaged, {found:,} of {promised:,} rows can be read")


class ArrowTable:
    """An Arrow file or stream (the `datasets` cache writes streams), memory-mapped: only what is asked for is read."""

    def __init__(self, path: Path) -> None:
        mapped = pa.memory_map(str(path))
        is_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        self._table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped).read_all()
        self.num_rows = self._table.num_rows
        self.schema = self._table.schema

    def cell(self, row: int, column: str) -> object:
        return self._table.column(column)[row].as_py()

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        return iter(self._table.select(columns).to_batches(BATCH_ROWS))


def open_table(place: str | Path) -> ParquetTable | ArrowTable:
    """The table at a path or URL, from a small cache that notices a changed file; DataError if it cannot be read."""
    path = local_file(place)
    with _reading(place):
        with open_regular(path):  # a pipe would never end
            stat = path.stat()
        return _open(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _open(path: Path, mtime_ns: int, size: int) -> ParquetTable | ArrowTable:
    table = ParquetTable(path) if path.suffix == ".parquet" else ArrowTable(path)
    _ = table.schema.names  # those of a damaged file are no text: known here, where it is told
    return table


@contextmanager
def _reading(place: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise DataError(f"table {place} cannot be read: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Of what an error says; libraries write many."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def read_cell(place: str | Path, row: int, column: str) -> bytes | str:
    """The encoded audio of one row, or the path or URL of the file that the row points to."""
    table = open_table(place)
    if column not in table.schema.names:
        raise DataError(f"table {place} has no column '{column}'; it has {', '.join(table.schema.names)}")
    if not 0 <= row < table.num_rows:
        raise DataError(f"table {place} has {table.num_rows:,} rows, row {row:,} was asked for")
    with _reading(place):
        cell = table.cell(row, column)
    return encoded_audio(cell, place)


def read_foreign_batches(place: str | Path, columns: list[str]) -> Iterator[list[dict | BadRow]]:
    """The rows of a table as plain dicts, `BATCH_ROWS` at a time, with these columns only.

    Others wrote it: its text may be no UTF-8, its times none of a calendar.
    """
    with _reading(place):
        for batch in open_table(place).batches(columns):
            try:
                batch.validate(full=True)  # what a damaged file says of lengths must not be believed
                rows = batch.to_pylist()
            except (ValueError, OverflowError):
                rows = [_row_or_reason(batch, row) for row in range(batch.num_rows)]
            yield rows


def _row_or_reason(batch: pa.RecordBatch, row: int) -> dict | BadRow:
    try:
        own = batch.slice(row, 1)
        own.validate(full=True)
        return own.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        is_text = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        return BadRow("not_utf8" if is_text else "not_a_row", first_line(error))


def encoded_audio(cell: object, table: Path | str) -> bytes | str:
    """What an audio cell holds: its bytes, or a path or URL (relative to the table's folder); AudioError if neither."""
    if isinstance(cell, dict):
        cell = (cell.get("path") or None) if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return below(parent_of(table) if is_url(table) else Path(table).parent, cell)
    raise AudioError("the audio column holds neither bytes nor a path", "missing_audio")
