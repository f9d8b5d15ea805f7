"""Rows out of JSONL manifests and out of tables, with their audio's headers probed by threads."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import pyarrow as pa

from shibolet.errors import AudioError, DataError
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import AudioInfo, probe_encoded
from shibolet.speech.rows import Row, RowSink, lookup
from shibolet.speech.sources import DataSource, Progress
from shibolet.speech.tables import encoded_audio, open_table, read_batches

PROBE_THREADS = 8  # probing waits for the disk
CHUNK_LINES = 256


@dataclass(frozen=True, slots=True)
class _BadLine:
    """Why a line of a manifest is not a row."""

    rule: str
    detail: str


def read_manifest_rows(manifest: Path, sink: RowSink, on_progress: Progress | None) -> None:
    """Rows of a JSONL file; `audio` is relative to its folder."""
    try:
        content = manifest.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"source '{sink.source.name}': manifest {manifest} cannot be read: {error.strerror}") from error
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    folder = manifest.absolute().parent
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        for first in range(0, len(lines), CHUNK_LINES):
            chunk = [(f"line {number}", _parse_line(line)) for number, line in lines[first : first + CHUNK_LINES]]
            names = [
                lookup(values, sink.source.columns.audio) if isinstance(values, dict) else None for _, values in chunk
            ]
            paths = {folder / name for name in names if isinstance(name, str)}
            infos = dict(zip(paths, pool.map(_probe_file, paths)))
            for (where, values), name in zip(chunk, names):
                if sink.full:
                    return
                if isinstance(values, _BadLine):
                    sink.add_unreadable(where, values.rule, values.detail)
                elif not isinstance(name, str):
                    detail = f"'{sink.source.columns.audio}' is {'missing' if name is None else type(name).__name__}"
                    sink.add(Row(where, where, values, AudioRef(path=""), AudioError(detail, "missing_audio")))
                else:
                    start_s = lookup(values, sink.source.columns.start_s)
                    default_id = f"{name}@{start_s}" if start_s else name
                    path = folder / name
                    sink.add(Row(where, default_id, values, AudioRef(path=str(path)), infos[path]))
            if on_progress is not None:
                on_progress(min(first + CHUNK_LINES, len(lines)), len(lines))


def _parse_line(line: bytes) -> dict | _BadLine:
    try:
        values = json.loads(line)
        json.dumps(values, ensure_ascii=False).encode()  # an escaped half of a surrogate pair cannot be written again
    except (ValueError, RecursionError) as error:
        return _BadLine("not_json", str(error))
    return values if isinstance(values, dict) else _BadLine("not_json", f"a {type(values).__name__}, not an object")


def _probe_file(path: Path) -> AudioInfo | AudioError:
    return _probe(path, str(path))


def _probe(content: bytes | Path, name: str) -> AudioInfo | AudioError:
    try:
        return probe_encoded(content, name)
    except AudioError as error:
        return error


def glob_tables(source: DataSource) -> tuple[Iterable[Path], int]:
    """The files that a source's glob names, sorted, and their number of rows."""
    paths = [Path(path).absolute() for path in sorted(glob(str(source.parquet), recursive=True))]
    if not paths:
        raise DataError(f"source '{source.name}': no file matches {source.parquet}")
    return paths, sum(open_table(path).num_rows for path in paths)


def read_table_rows(paths: Iterable[Path], num_rows: int | None, sink: RowSink, on_progress: Progress | None) -> None:
    """Rows of Parquet or Arrow files whose audio column holds encoded bytes, or paths of files."""
    number = 0
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        for path in paths:
            first_of_file = number
            for batch in read_batches(path, _columns_of(path, sink.source)):
                numbers = range(number, number + len(batch))
                jobs = [(path, n - first_of_file, values) for n, values in zip(numbers, batch)]
                probed = pool.map(lambda job: _probe_cell(*job, sink.source.columns.audio), jobs)
                for n, (_, row, values), (audio, info) in zip(numbers, jobs, probed):
                    if sink.full:
                        return
                    where = f"row {row} of {path.name}"
                    sink.add(Row(where, f"{sink.source.name}-{n:06d}", values, audio, info))
                number += len(batch)
                if on_progress is not None:
                    on_progress(number, num_rows or 0)


def _probe_cell(path: Path, row: int, values: dict, column: str) -> tuple[AudioRef, AudioInfo | AudioError]:
    ref = AudioRef(path=str(path), row=row, column=column)
    try:
        content = encoded_audio(values[column], path.parent)
    except AudioError as error:
        return ref, error
    if isinstance(content, Path):
        ref = AudioRef(path=str(content))
    return ref, _probe(content, "the audio")


def _columns_of(path: Path, source: DataSource) -> list[str]:
    """Top-level columns to read; DataError when one that must be there is not."""
    schema = open_table(path).schema
    for column in source.columns.required:
        if not _has_column(schema, column):
            raise DataError(
                f"source '{source.name}': {path} has no column '{column}', only {', '.join(schema.names)}; "
                "say which with `columns: {text: ...}`"
            )
    wanted = {str(column).split(".")[0] for column in source.columns.model_dump().values()}
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
