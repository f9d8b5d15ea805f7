"""Prepared utterances as Parquet that `datasets` reads with an Audio column; each shard is whole or absent."""

import json
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.prepare.pieces import Piece
from shibolet.records import shards
from shibolet.records.files import hash_file, remember_hash, sync_dir
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.tables import BATCH_ROWS

OPEN_SHARDS = 3  # of a split, written at once: rows come faster than one thread writes and syncs them
GROUPS_AHEAD = 8  # of one of them that wait in memory, about 10 MB each

_OF_UTTERANCE = (
    "id", "text", "duration_s", "domain", "recording", "speaker", "language", "source", "previous", "timed_text",
)  # fmt: skip
_OF_PIECE = ("sha256", "origin_id", "origin_sha256", "origin_offset_s", "text_by")
# What `datasets` writes beside a table, without that library, whose import takes longer than a small corpus.
_FEATURES = {
    field.name: {"sampling_rate": SAMPLE_RATE_HZ, "_type": "Audio"}
    if field.name == "audio"
    else {"dtype": "float64" if field.type == pa.float64() else "string", "_type": "Value"}
    for field in shards.SCHEMA
}
_AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SCHEMA = pa.schema(
    [(field.name, _AUDIO if field.name == "audio" else field.type) for field in shards.SCHEMA],
    {"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)

Row = tuple[Piece, bytes | memoryview]  # with its FLAC


class ShardWriter:
    """Writes `<split>-00000.parquet` and so on in groups of `BATCH_ROWS` rows: as much as a reader of one row loads.

    Each shard has a thread that writes it: one ends while the next ones begin.
    """

    def __init__(self, out_dir: Path, split: str, shard_utterances: int) -> None:
        self.paths: list[Path] = []  # in order, the open one too
        self._out_dir, self._split, self._shard_utterances = out_dir, split, shard_utterances
        self._num_rows = shard_utterances  # of the last shard
        self._rows: list[Row] = []  # of them those not yet handed over
        self._open: deque[_Shard] = deque()  # in order

    def add(self, piece: Piece, flac: bytes | memoryview) -> Utterance:
        """Write a row; what comes back is the utterance with its audio in the shard."""
        if self._num_rows == self._shard_utterances:
            self._begin()
        # Blocks of a chunk are large, and few rows of a chunk are of another split.
        self._rows.append((piece, flac if self._split == "train" else bytes(flac)))
        placed = replace(piece.utterance, audio=AudioRef(path=str(self.paths[-1]), row=self._num_rows))
        self._num_rows += 1
        if len(self._rows) == BATCH_ROWS or self._num_rows == self._shard_utterances:
            self._hand_over()
        return placed

    def abort(self) -> None:
        """Write no more of what was handed over; nothing where all shards are finished."""
        for shard in self._open:
            shard.abort()

    def close(self) -> None:
        """Finish the last shard; raises what kept a thread from writing."""
        if self._rows:
            self._hand_over()
        if self._open and self._num_rows < self._shard_utterances:
            self._open[-1].finish()
        while self._open:
            self._open.popleft().wait()

    def _begin(self) -> None:
        while len(self._open) >= OPEN_SHARDS:
            self._open.popleft().wait()
        self.paths.append(self._out_dir / f"{self._split}-{len(self.paths):05d}.parquet")
        self._open.append(_Shard(self.paths[-1]))
        self._num_rows = 0

    def _hand_over(self) -> None:
        """Have the rows written, and the shard finished where they are its last."""
        self._open[-1].write(self._rows)
        self._rows = []
        if self._num_rows == self._shard_utterances:
            self._open[-1].finish()


class _Shard:
    """A file that a thread of its own writes, groups in the order in which they come."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._thread = ThreadPoolExecutor(1)
        self._tasks: deque[Future[None]] = deque()  # of the thread, which are in memory
        self._file: pq.ParquetWriter | None = None
        self._is_broken = False

    def write(self, rows: Sequence[Row]) -> None:
        while len(self._tasks) >= GROUPS_AHEAD:
            self._tasks.popleft().result()
        self._tasks.append(self._thread.submit(self._write, rows))

    def finish(self) -> None:
        self._tasks.append(self._thread.submit(self._finish))

    def wait(self) -> None:
        while self._tasks:
            self._tasks.popleft().result()
        self._thread.shutdown()

    def abort(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _write(self, rows: Sequence[Row]) -> None:
        if self._is_broken:  # `wait` raises why
            return
        self._is_broken = True
        if self._file is None:
            self._file = pq.ParquetWriter(self._partial, SCHEMA)
        self._file.write_table(_table(rows))
        self._is_broken = False

    def _finish(self) -> None:
        if self._is_broken:
            return
        self._file.close()
        with self._partial.open("rb+") as file:
            os.fsync(file.fileno())
        found = hash_file(self._partial)
        os.replace(self._partial, self._path)
        sync_dir(self._path.parent)
        remember_hash(self._path, found)  # or it would be read twice more, by what seals and by what verifies


def _table(rows: Sequence[Row]) -> pa.Table:
    """Rows as columns; the FLACs are copied once, without Python's lock."""
    pieces, flacs = zip(*rows, strict=True)
    ends = pa.array(np.cumsum([0, *map(len, flacs)])).cast(pa.int32()).buffers()[1]
    audio = pa.Array.from_buffers(pa.binary(), len(flacs), [None, ends, pa.py_buffer(b"".join(flacs))])
    columns = {
        **{name: [getattr(piece.utterance, name) for piece in pieces] for name in _OF_UTTERANCE},
        **{name: [getattr(piece, name) for piece in pieces] for name in _OF_PIECE},
        "origin_start_s": [piece.span_s[0] for piece in pieces],
        "origin_end_s": [piece.span_s[1] for piece in pieces],
        "audio": pa.StructArray.from_arrays([audio, pa.nulls(len(flacs), pa.string())], fields=list(_AUDIO)),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)
