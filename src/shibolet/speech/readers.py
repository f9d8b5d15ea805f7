"""Rows out of manifests and out of tables, with their audio's headers probed before they are taken."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from glob import glob
from itertools import islice
from pathlib import Path

import pyarrow as pa

from shibolet.errors import AudioError, DataError
from shibolet.records.batches import ForEach
from shibolet.records.objects import fetch_ahead
from shibolet.records.store import is_url, matching
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import AudioInfo, probe_encoded, probe_file
from shibolet.speech.fields import OTHER_NAMES, SPANS, as_number, refuse_unread, require_single, with_other_names
from shibolet.speech.manifests import Manifest
from shibolet.speech.rows import TIMED, Row, RowSink, lookup
from shibolet.speech.sources import DataSource, Progress
from shibolet.speech.tables import encoded_audio, open_table, read_foreign_batches
from shibolet.speech.textfiles import BadRow

PROBE_THREADS = 8  # probing waits for the disk
PROBED_ROWS = 8192  # of a manifest, before they are taken; the next ones know their files
TOLD_ROWS = 256

Probed = tuple[AudioRef, AudioInfo | AudioError]


def read_manifest_rows(manifest: Manifest, sink: RowSink, on_progress: Progress | None, for_each: ForEach) -> None:
    """Rows of a manifest, whose audio lies in files; `for_each` of these reads the header."""
    column, num_rows, probed = sink.source.columns.audio, 0, {}
    at_once = min(PROBED_ROWS, max(TOLD_ROWS, sink.source.max_utterances or PROBED_ROWS))
    while not sink.full and (rows := list(islice(manifest.rows, at_once))):
        names = dict.fromkeys(_file_of(values, column) for _, values in rows)
        probed = {name: probed[name] for name in names if name in probed}  # the spans of one recording stand together
        paths = [manifest.find(name) for name in names if name and name not in probed]
        fetch_ahead(paths)
        with closing(for_each(probe_file, paths)) as infos:
            found = zip(paths, infos, strict=True)
            for where, values in rows:
                if sink.full:
                    return
                name = _file_of(values, column)
                if name and name not in probed:  # names and infos are in the order of the rows
                    probed[name] = _respelled(name, *next(found), manifest)
                _take(where, values, sink, probed.get(name))
                num_rows += 1
                if on_progress is not None and num_rows % TOLD_ROWS == 0:
                    on_progress(num_rows, manifest.num_rows)
    if on_progress is not None and num_rows % TOLD_ROWS:
        on_progress(num_rows, manifest.num_rows)


def _file_of(values: dict | BadRow, column: str) -> str | None:
    """The file that a row names; None where it names none."""
    name = lookup(values, column) if isinstance(values, dict) else None
    return name if isinstance(name, str) and name.strip() else None


def _respelled(name: str, path: str, info: AudioInfo | AudioError, manifest: Manifest) -> Probed:
    """What is in a file, or in the one that its name means where it is there under another spelling only."""
    if isinstance(info, AudioError) and info.reason == "missing_file" and (other := manifest.find_respelled(name)):
        path, info = other, probe_file(other)
    return AudioRef(path=path), info


def _take(where: str, values: dict | BadRow, sink: RowSink, probed: Probed | None) -> None:
    """Hand over a row with what is in its file, or without one."""
    if isinstance(values, BadRow):
        return sink.add_unreadable(where, values)
    columns = sink.source.columns
    name = lookup(values, columns.audio)
    if probed is not None:
        return sink.add(Row(where, _default_id(name, lookup(values, columns.start_s)), values, *probed))
    kind = "empty" if isinstance(name, str) else "missing" if name is None else type(name).__name__
    detail = f"'{columns.audio}' is {kind}"
    if isinstance(name, dict):
        detail += f", not a path: name the path in it, `columns: {{audio: {columns.audio}.path}}`"
    sink.add(Row(where, where, values, AudioRef(path=""), AudioError(detail, "missing_audio")))


def _default_id(name: str, start: object) -> str:
    """The id of a row that has none: its file, and where its span starts."""
    if isinstance(start, str):  # as tables have it
        with suppress(ValueError):
            start = as_number(start)
    return f"{name}@{start}" if start else name


def table_files(source: DataSource) -> dict[str, int]:
    """Paths or URLs that a source's glob names, sorted, and the bytes of each (0: of what is no file); StoreError."""
    pattern = str(source.parquet)
    if is_url(pattern):
        return matching(pattern)
    paths = map(os.path.abspath, sorted(glob(pattern, recursive=True)))
    return {path: os.path.getsize(path) if os.path.isfile(path) else 0 for path in paths}


def glob_tables(source: DataSource) -> tuple[Iterable[str], int | None]:
    """The files that a source's glob names, sorted, and their number of rows (None: not known)."""
    places = list(table_files(source))
    if not places:
        raise DataError(f"source '{source.name}': no file matches {source.parquet}")
    if is_url(places[0]):
        if source.max_utterances is not None:
            return places, None  # the first of them may do
        fetch_ahead(places)
    return places, sum(open_table(place).num_rows for place in places)


def read_table_rows(
    places: Iterable[Path | str], num_rows: int | None, sink: RowSink, on_progress: Progress | None
) -> None:
    """Rows of Parquet or Arrow files, of paths or URLs, whose audio column holds encoded bytes, or paths of files."""
    number, columns = 0, sink.source.columns
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        for place in places:
            if sink.full:
                return
            first_of_file = number
            for batch in read_foreign_batches(place, _columns_of(place, sink.source)):
                numbers = range(number, number + len(batch))
                jobs = [(place, n - first_of_file, values) for n, values in zip(numbers, batch)]
                probed = pool.map(lambda job: _probe_cell(*job, columns.audio), jobs)
                for n, (_, row, values), (audio, info) in zip(numbers, jobs, probed):
                    if sink.full:
                        return
                    where = f"row {row} of {Path(place).name}"
                    if isinstance(values, BadRow):
                        sink.add_unreadable(where, values)
                    else:
                        values = with_other_names(values, columns)
                        sink.add(Row(where, f"{sink.source.name}-{n:06d}", values, audio, info))
                number += len(batch)
                if on_progress is not None:
                    on_progress(number, num_rows or 0)


def _probe_cell(
    place: Path | str, row: int, values: dict | BadRow, column: str
) -> tuple[AudioRef, AudioInfo | AudioError]:
    ref = AudioRef(path=str(place), row=row, column=column)
    if isinstance(values, BadRow):
        return ref, AudioError(values.detail, values.rule)
    try:
        content = encoded_audio(values[column], place)
    except AudioError as error:
        return ref, error
    if isinstance(content, str):
        return AudioRef(path=content), probe_file(content)
    try:
        return ref, probe_encoded(content, "the audio")
    except AudioError as error:  # bytes have no name beside their row's
        return ref, AudioError(error.detail, error.reason)


def _columns_of(place: Path | str, source: DataSource) -> list[str]:
    """Top-level columns to read; DataError when one that must be there is not."""
    schema = open_table(place).schema
    require_single(schema.names, source.columns.model_dump().values(), f"source '{source.name}': {place}")
    for column in source.columns.required:
        if not _has_column(schema, column):
            raise DataError(
                f"source '{source.name}': {place} has no column '{column}', only {', '.join(schema.names)}; "
                "say which with `columns: {text: ...}`"
            )
    refuse_unread(schema.names, source, place)
    wanted = {str(column).split(".")[0] for column in source.columns.model_dump().values()}
    wanted |= {*OTHER_NAMES, *SPANS, TIMED}
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
