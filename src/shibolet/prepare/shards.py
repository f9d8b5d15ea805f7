"""Prepared utterances as Parquet that `datasets` reads with an Audio column; each shard is whole or absent."""

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.prepare.pieces import Piece
from shibolet.records import shards
from shibolet.records.files import sync_dir
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.tables import BATCH_ROWS

_OF_UTTERANCE = ("id", "text", "duration_s", "domain", "recording", "speaker", "language", "source")
_OF_PIECE = ("sha256", "origin_id", "origin_sha256", "origin_offset_s")
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


class ShardWriter:
    """Writes `<split>-00000.parquet` and so on in groups of `BATCH_ROWS` rows: as much as a reader of one row loads.

    A thread writes a group while the next one is put together.
    """

    def __init__(self, out_dir: Path, split: str, shard_utterances: int) -> None:
        self.paths: list[Path] = []  # in order, the open one too
        self._out_dir, self._split, self._shard_utterances = out_dir, split, shard_utterances
        self._num_rows = shard_utterances  # of the last shard
        self._rows: list[dict] = []  # of them those not yet handed over
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None  # the last group that was handed over
        self._file: pq.ParquetWriter | None = None  # the thread's

    def add(self, piece: Piece) -> Utterance:
        """Write a row; what comes back is the utterance with its audio in the shard."""
        if self._num_rows == self._shard_utterances:
            self.paths.append(self._out_dir / f"{self._split}-{len(self.paths):05d}.parquet")
            self._num_rows = 0
        row = {name: getattr(piece.utterance, name) for name in _OF_UTTERANCE}
        row |= {"audio": {"bytes": memoryview(piece.flac), "path": None}}
        row |= {"origin_start_s": piece.span_s[0], "origin_end_s": piece.span_s[1]}
        self._rows.append(row | {name: getattr(piece, name) for name in _OF_PIECE})
        placed = replace(piece.utterance, audio=AudioRef(path=str(self.paths[-1]), row=self._num_rows))
        self._num_rows += 1
        if len(self._rows) == BATCH_ROWS or self._num_rows == self._shard_utterances:
            self._hand_over()
        return placed

    def close(self) -> None:
        """Finish the last shard; raises what kept the thread from writing."""
        if self.paths and (self._rows or self._num_rows < self._shard_utterances):
            self._hand_over(is_last=True)
        self._wait()
        self._thread.shutdown()

    def _hand_over(self, *, is_last: bool = False) -> None:
        """Have the rows written, and the shard finished where they are its last."""
        table = pa.Table.from_pylist(self._rows, schema=SCHEMA)
        self._rows = []
        self._wait()
        is_last = is_last or self._num_rows == self._shard_utterances
        self._writing = self._thread.submit(self._write, self.paths[-1], table, is_last)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, path: Path, table: pa.Table, is_last: bool) -> None:
        partial = path.with_name(f".{path.name}.partial")
        if self._file is None:
            self._file = pq.ParquetWriter(partial, SCHEMA)
        if table.num_rows:
            self._file.write_table(table)
        if not is_last:
            return
        self._file.close()
        self._file = None
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_dir(self._out_dir)
