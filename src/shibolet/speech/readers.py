"""Rows out of manifests and out of tables, with their audio's headers probed by threads."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from glob import glob
from itertools import islice
from pathlib import Path

import pyarrow as pa

from shibolet.errors import AudioError, DataError
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import AudioInfo, probe_encoded
from shibolet.speech.fields import OTHER_NAMES, SPANS, as_number, refuse_unread, require_single, with_other_names
from shibolet.speech.manifests import Manifest
from shibolet.speech.rows import Row, RowSink, lookup
from shibolet.speech.sources import DataSource, Progress
from shibolet.speech.tables import encoded_audio, open_table, read_foreign_batches
from shibolet.speech.textfiles import BadRow

PROBE_THREADS = 8  # probing waits for the disk
CHUNK_ROWS = 256
CACHED_PROBES = 4096  # headers that are not read again


def read_manifest_rows(manifest: Manifest, sink: RowSink, on_progress: Progress | None) -> None:
    """Rows of a manifest, whose audio lies in files."""
    columns, num_rows = sink.source.columns, 0
    probe = lru_cache(CACHED_PROBES)(_probe_file)  # the spans of one recording stand together
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        while chunk := list(islice(manifest.rows, CHUNK_ROWS)):
            names = [lookup(row, columns.audio) if isinstance(row, dict) else None for _, row in chunk]
            paths = {name: str(manifest.find(name)) for name in names if isinstance(name, str) and name.strip()}
            probed = dict(zip(paths, pool.map(probe, paths.values())))
            for name, (_, info) in probed.items():
                if isinstance(info, AudioError) and info.reason == "missing_file":
                    if other := manifest.find_respelled(name):
                        probed[name] = probe(str(other))
            for (where, values), name in zip(chunk, names):
                if sink.full:
                    return
                if isinstance(values, BadRow):
                    sink.add_unreadable(where, values)
                elif name not in probed if isinstance(name, str) else True:
                    kind = "empty" if isinstance(name, str) else "missing" if name is None else type(name).__name__
                    detail = f"'{columns.audio}' is {kind}"
                    if isinstance(lookup(values, columns.audio), dict):
                        detail += f", not a path: name the path in it, `columns: {{audio: {columns.audio}.path}}`"
                    sink.add(Row(where, where, values, AudioRef(path=""), AudioError(detail, "missing_audio")))
                else:
                    sink.add(Row(where, _default_id(name, lookup(values, columns.start_s)), values, *probed[name]))
            num_rows += len(chunk)
            if on_progress is not None:
                on_progress(num_rows, manifest.num_rows)


def _default_id(name: str, start: object) -> str:
    """The id of a row that has none: its file, and where its span starts."""
    if isinstance(start, str):  # as tables have it
        with suppress(ValueError):
            start = as_number(start)
    return f"{name}@{start}" if start else name


def _probe_file(path: str) -> tuple[AudioRef, AudioInfo | AudioError]:
    return AudioRef(path=path), _probe(Path(path), path)


def _probe(content: bytes | Path, name: str | None) -> AudioInfo | AudioError:
    """What the header says, or why it cannot be read; bytes have no name beside their row's."""
    try:
        return probe_encoded(content, name or "the audio")
    except AudioError as error:
        return error if name else AudioError(error.detail, error.reason)


def glob_tables(source: DataSource) -> tuple[Iterable[Path], int]:
    """The files that a source's glob names, sorted, and their number of rows."""
    paths = [Path(path).absolute() for path in sorted(glob(str(source.parquet), recursive=True))]
    if not paths:
        raise DataError(f"source '{source.name}': no file matches {source.parquet}")
    return paths, sum(open_table(path).num_rows for path in paths)


def read_table_rows(paths: Iterable[Path], num_rows: int | None, sink: RowSink, on_progress: Progress | None) -> None:
    """Rows of Parquet or Arrow files whose audio column holds encoded bytes, or paths of files."""
    number, columns = 0, sink.source.columns
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        for path in paths:
            first_of_file = number
            for batch in read_foreign_batches(path, _columns_of(path, sink.source)):
                numbers = range(number, number + len(batch))
                jobs = [(path, n - first_of_file, values) for n, values in zip(numbers, batch)]
                probed = pool.map(lambda job: _probe_cell(*job, columns.audio), jobs)
                for n, (_, row, values), (audio, info) in zip(numbers, jobs, probed):
                    if sink.full:
                        return
                    where = f"row {row} of {path.name}"
                    if isinstance(values, BadRow):
                        sink.add_unreadable(where, values)
                    else:
                        values = with_other_names(values, columns)
                        sink.add(Row(where, f"{sink.source.name}-{n:06d}", values, audio, info))
                number += len(batch)
                if on_progress is not None:
                    on_progress(number, num_rows or 0)


def _probe_cell(path: Path, row: int, values: dict | BadRow, column: str) -> tuple[AudioRef, AudioInfo | AudioError]:
    ref = AudioRef(path=str(path), row=row, column=column)
    if isinstance(values, BadRow):
        return ref, AudioError(values.detail, values.rule)
    try:
        content = encoded_audio(values[column], path.parent)
    except AudioError as error:
        return ref, error
    if isinstance(content, Path):
        ref = AudioRef(path=str(content))
    return ref, _probe(content, str(content) if isinstance(content, Path) else None)


def _columns_of(path: Path, source: DataSource) -> list[str]:
    """Top-level columns to read; DataError when one that must be there is not."""
    schema = open_table(path).schema
    require_single(schema.names, source.columns.model_dump().values(), f"source '{source.name}': {path}")
    for column in source.columns.required:
        if not _has_column(schema, column):
            raise DataError(
                f"source '{source.name}': {path} has no column '{column}', only {', '.join(schema.names)}; "
                "say which with `columns: {text: ...}`"
            )
    refuse_unread(schema.names, source, path)
    wanted = {str(column).split(".")[0] for column in source.columns.model_dump().values()} | {*OTHER_NAMES, *SPANS}
    return [name for name in schema.names if name in wanted]


def _has_column(schema: pa.Schema, column: str) -> bool:
    first, *rest = column.split(".")
    if first not in schema.names:
        return False
    kind = schema.field(first).type
    for part in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return False
        kind = kind.field(part).type
    return True
