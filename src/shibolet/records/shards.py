"""The columns of prepared shards, and the reader of those that are given out; what writes them is `prepare`'s."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from shibolet.records import parquet

_TEXT, _NUMBER = pa.string(), pa.float64()
SCHEMA = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        pa.field("audio", pa.struct([pa.field("bytes", pa.binary(), nullable=False), ("path", _TEXT)]), nullable=False),
        pa.field("text", _TEXT, nullable=False),  # the training target
        pa.field("duration_s", _NUMBER, nullable=False),
        ("domain", _TEXT),
        ("recording", _TEXT),
        ("speaker", _TEXT),
        ("language", _TEXT),
        ("source", _TEXT),
        pa.field("origin_id", _TEXT, nullable=False),  # the utterance of the source that this is all or a piece of,
        pa.field("origin_start_s", _NUMBER, nullable=False),  # and where in it
        pa.field("origin_end_s", _NUMBER, nullable=False),
        pa.field("sha256", _TEXT, nullable=False),  # of the FLAC
        pa.field("origin_sha256", _TEXT, nullable=False),  # of the source's encoded audio, whole,
        pa.field("origin_offset_s", _NUMBER, nullable=False),  # and where the utterance begins in it
        ("previous", _TEXT),  # what was said before, and the text between timestamps, where they are known
        ("timed_text", _TEXT),
        ("text_by", _TEXT),  # "labelled", "corrected": a machine wrote the text; null: it came with the data
    ]
)
_ROWS, _ROWS_WITH_AUDIO = 1024, 64  # in memory at a time: 64 slices of 30 s are about 10 MB
_REMEDY = "'shibolet prepare RECIPE' makes it again"


def read_shard(path: Path, *columns: str) -> Iterator[tuple]:
    """The rows of a shard, a value for each of these columns, FLAC as bytes; DataError when it is not whole."""
    rows = _ROWS_WITH_AUDIO if "audio" in columns else _ROWS
    for batch in parquet.read_batches(path, SCHEMA, columns, rows, _REMEDY):
        found = [batch.column(name) for name in columns]
        values = [one.field("bytes") if pa.types.is_struct(one.type) else one for one in found]
        yield from zip(*(one.to_pylist() for one in values), strict=True)


def num_rows(path: Path) -> int:
    """Rows of a shard."""
    return parquet.num_rows(path, _REMEDY)


def has_columns(path: Path, *columns: str) -> bool:
    """Whether the version that wrote a shard had these columns."""
    return set(columns) <= parquet.column_names(path, _REMEDY)
