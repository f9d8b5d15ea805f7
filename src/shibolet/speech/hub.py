"""Data sets on the Hub as tables on disk: the `datasets` cache in place, or a stream read once into Parquet shards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Audio, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.table import embed_table_storage
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

from shibolet.errors import DataError
from shibolet.records.files import hash_json, make_folder, sync_dir, write_json
from shibolet.records.reading import read_as
from shibolet.speech.known_sources import ELSEWHERE
from shibolet.speech.sources import DataSource
from shibolet.speech.tables import BATCH_ROWS, first_line, open_table

SHARD_ROWS = 512  # of 30 s slices about 100 MB


def hub_tables(source: DataSource, cache_dir: Path) -> tuple[Iterator[Path], int | None]:
    """The Arrow or Parquet files of a source and their number of rows (None: streaming); DataError if out of reach."""
    if source.streaming:
        return _stream_shards(source, cache_dir), None
    with _explained(source):
        data = load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    return iter([Path(file["filename"]) for file in data.cache_files]), data.num_rows


def fetch_card(source: DataSource) -> None:
    """Put the data set's card, which states its licence, into the Hub's cache; a set may have none."""
    with _explained(source), suppress(EntryNotFoundError):
        hf_hub_download(source.hub, "README.md", repo_type="dataset", revision=source.revision)


def _stream_shards(source: DataSource, cache_dir: Path) -> Iterator[Path]:
    """Shards that lie there from before, then new ones as they are read; a stream that was cut off is continued.

    A stream is named by id, config, split and revision: without a revision, what was read once is not read again.
    DataError where a shard is gone or has other rows than were written.
    """
    key = [source.hub, source.config, source.split, source.revision]
    folder = cache_dir / f"{source.hub.strip('/').replace('/', '--')}-{hash_json(key)}"
    shards, complete = sorted(folder.glob("*.parquet")), folder / "complete.json"
    num_shards, num_rows = len(shards), sum(open_table(shard).num_rows for shard in shards)
    written = read_as(complete, _Complete, f"delete {folder} to read the stream again") if complete.exists() else None
    is_whole = [shard.name for shard in shards] == [f"{number:06d}.parquet" for number in range(num_shards)]
    if not is_whole or (written and (written.num_shards, written.num_rows) != (num_shards, num_rows)):
        raise DataError(
            f"source '{source.name}': {folder} has {num_shards:,} shards with {num_rows:,} rows, which is not what the "
            "stream had: delete the folder to read it again"
        )
    yield from shards
    if written:
        return
    make_folder(folder)
    with _explained(source):
        rows = load_dataset(source.hub, source.config, split=source.split, revision=source.revision, streaming=True)
        rows = rows.cast_column(source.columns.audio, Audio(decode=False)).skip(num_rows).with_format("arrow")
        for table in rows.iter(SHARD_ROWS):
            shard = folder / f"{num_shards:06d}.parquet"
            partial = shard.with_suffix(".partial")
            pq.write_table(embed_table_storage(table), partial, row_group_size=BATCH_ROWS)
            os.replace(partial, shard)
            sync_dir(folder)
            num_shards, num_rows = num_shards + 1, num_rows + table.num_rows
            yield shard
    write_json(complete, asdict(_Complete(key, num_shards, num_rows)))


@dataclass(frozen=True, slots=True)
class _Complete:
    """complete.json: a stream that was read to its end."""

    source: list[str | None]
    num_shards: int
    num_rows: int


@contextmanager
def _explained(source: DataSource) -> Iterator[None]:
    """One sentence, with what to do, for what goes wrong between here and the Hub."""
    what = f"source '{source.name}': Hub data set '{source.hub}'"
    page = f"https://huggingface.co/datasets/{source.hub}"
    try:
        yield
    except (DatasetNotFoundError, GatedRepoError) as error:
        if isinstance(error, GatedRepoError) or "gated" in str(error):
            advice = f"is gated: ask for access at {page}, then run 'hf auth login' or set HF_TOKEN"
        else:
            advice = (
                f"does not exist or is private: look at {page}, and run 'hf auth login' or set HF_TOKEN if it is yours"
            )
        elsewhere = f"; {ELSEWHERE[source.hub]}" if source.hub in ELSEWHERE else ""
        raise DataError(f"{what} {advice}{elsewhere}") from error
    except ConnectionError as error:
        advice = (
            "cannot be reached and is not in the local cache: fetch it while there is a network (HF_HUB_OFFLINE unset)"
        )
        raise DataError(f"{what} {advice}; {first_line(error)}") from error
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: a script, which is not run
        raise DataError(
            f"{what} cannot be read (config {source.config}, split {source.split}): {first_line(error)}"
        ) from error
