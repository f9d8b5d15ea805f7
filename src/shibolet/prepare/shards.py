"""Prepared utterances as Parquet that `datasets` reads with an Audio column; each shard is whole or absent."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Features, Value

from shibolet.prepare.pieces import Piece
from shibolet.records.files import sync_dir
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.tables import BATCH_ROWS

_OF_UTTERANCE = ("id", "text", "duration_s", "domain", "recording", "speaker", "language", "source")
_OF_PIECE = ("origin_id", "origin_sha256", "origin_offset_s")
SCHEMA = Features(
    {
        "id": Value("string"),
        "audio": Audio(SAMPLE_RATE_HZ),  # FLAC, mono
        "text": Value("string"),  # the training target
        "duration_s": Value("float64"),
        "domain": Value("string"),
        "recording": Value("string"),
        "speaker": Value("string"),
        "language": Value("string"),
        "source": Value("string"),
        "origin_id": Value("string"),  # the utterance of the source that this is all or a piece of,
        "origin_start_s": Value("float64"),  # and where in it
        "origin_end_s": Value("float64"),
        "sha256": Value("string"),  # of the FLAC
        "origin_sha256": Value("string"),  # of the source's encoded audio, whole,
        "origin_offset_s": Value("float64"),  # and where the utterance begins in it
    }
).arrow_schema


class ShardWriter:
    """Writes `<split>-00000.parquet` and so on in groups of `BATCH_ROWS` rows: as much as a reader of one row loads."""

    def __init__(self, out_dir: Path, split: str, shard_utterances: int) -> None:
        self.paths: list[Path] = []  # in order, the open one too
        self._out_dir, self._split, self._shard_utterances = out_dir, split, shard_utterances
        self._writer: pq.ParquetWriter | None = None
        self._num_rows = 0  # of the open shard
        self._rows: list[dict] = []  # of them those not yet written

    def add(self, piece: Piece) -> Utterance:
        """Write a row; what comes back is the utterance with its audio in the shard."""
        if self._writer is None:
            self.paths.append(self._out_dir / f"{self._split}-{len(self.paths):05d}.parquet")
            self._writer = pq.ParquetWriter(self._partial, SCHEMA)
            self._num_rows = 0
        row = {name: getattr(piece.utterance, name) for name in _OF_UTTERANCE}
        row |= {"audio": {"bytes": piece.flac, "path": None}, "sha256": hashlib.sha256(piece.flac).hexdigest()}
        row |= {"origin_start_s": piece.span_s[0], "origin_end_s": piece.span_s[1]}
        self._rows.append(row | {name: getattr(piece, name) for name in _OF_PIECE})
        placed = replace(piece.utterance, audio=AudioRef(path=str(self.paths[-1]), row=self._num_rows))
        self._num_rows += 1
        if len(self._rows) == BATCH_ROWS or self._num_rows == self._shard_utterances:
            self._flush()
        if self._num_rows == self._shard_utterances:
            self.close()
        return placed

    def close(self) -> None:
        """Finish the open shard, if there is one."""
        if self._writer is None:
            return
        self._flush()
        self._writer.close()
        self._writer = None
        with self._partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._partial, self.paths[-1])
        sync_dir(self._out_dir)

    @property
    def _partial(self) -> Path:
        return self.paths[-1].with_name(f".{self.paths[-1].name}.partial")

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []
