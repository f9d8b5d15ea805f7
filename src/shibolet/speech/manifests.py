"""Manifests as people have them: what a file is, from its content, and its rows under our own names of fields.

Ours, NeMo's and Lhotse's JSONL, TSV and CSV, Common Voice, each also gzipped, and folders of audio with a `.txt` beside
each file. A row keeps its own fields beside ours, so that `columns` can name them. No audio is looked at here.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from shibolet.errors import DataError
from shibolet.records.objects import exists, local_file
from shibolet.records.store import IsFolder, below, is_url, joined, parent_of
from shibolet.speech import cells, lhotse
from shibolet.speech.fields import (
    OFFSET,
    as_number,
    plain_path,
    refuse_unread,
    renamed,
    require_single,
    spellings,
    with_other_names,
)  # fmt: skip
from shibolet.speech.folders import folder_rows
from shibolet.speech.sources import DataSource
from shibolet.speech.textfiles import (
    BadRow,
    explained,
    one_line,
    parse_object,
    read_lines,
    require_one_object_a_line,
)  # fmt: skip

KNOWN = (
    "JSONL with 'audio' and 'text' or what `columns` names, NeMo JSONL ('audio_filepath'), Lhotse JSONL (cuts, or "
    "supervisions with their recordings beside them), TSV or CSV with a header, Common Voice's too, each also as .gz; "
    "a folder of audio with a .txt beside each file. Parquet and Arrow files go under `parquet`"
)
HEAD_LINES = 100  # looked at to tell what a file is: the first lines may be broken

Fields = dict[str, Any]
Convert = Callable[[Fields], Iterator[Fields | BadRow]]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Rows in their order, and where the relative paths in them start."""

    rows: Iterator[tuple[str, Fields | BadRow]]  # where a row stands, and its fields or why it has none
    num_rows: int  # 0: not known
    folders: list[Path | str]  # where relative paths may start; text: the URL of one in a store

    def find(self, name: str) -> str:
        """The path or URL of a file; the first that is found in one of several folders decides for those after it."""
        name = plain_path(name)
        if len(self.folders) > 1 and not os.path.isabs(name):
            self.folders[:] = [f for f in self.folders if os.path.exists(f / name)][:1] or self.folders
        return below(self.folders[0], name)

    def find_respelled(self, name: str) -> str | None:
        """The file that a name means which is there under another spelling only; none is looked for in a store."""
        others = (below(folder, other) for folder in self.folders for other in spellings(plain_path(name)))
        return next((other for other in others if os.path.exists(other)), None)


def open_manifest(source: DataSource) -> Manifest:
    """The rows of a source's manifest; DataError when it cannot be read, or is nothing that is known."""
    where = source.manifest
    try:
        path = local_file(where).absolute()
    except IsFolder:
        return Manifest(*folder_rows(where, source.has_texts), [where])
    if path.is_dir():
        return Manifest(*folder_rows(path, source.has_texts), [path])
    place = where if is_url(where) else path
    folder = parent_of(where) if is_url(where) else path.parent
    with _explained(source):
        if path.exists() and not path.is_file():
            raise OSError("neither a file nor a folder")
        head = list(islice(read_lines(path), HEAD_LINES))
        num_lines = sum(1 for _ in read_lines(path))
    first = head[0][1] if head else ""
    require_one_object_a_line(first, f"source '{source.name}': {place}")
    fields = [parsed for _, line in head if isinstance(parsed := parse_object(line), dict)]
    if not fields and (table := _table_format(first, source, place)):
        header, text, convert = table
        return Manifest(_guarded(_table_rows(path, header, text, convert), source), max(num_lines - 1, 0), [folder])
    if any(lhotse.is_recording(row) for row in fields):
        return open_manifest(source.model_copy(update={"manifest": _pair(place, "recordings", "supervisions", source)}))
    found = next((found for row in fields if (found := _json_format(row, fields, source, place))), None)
    if head and found is None:
        raise DataError(
            f"source '{source.name}': {place} is not a known kind of manifest: {_shown(first, fields)}; {KNOWN}"
        )
    convert, is_foreign = found or (_as_it_is, False)
    # Lhotse's and NeMo's paths often start where the data were prepared: at a folder above the manifest's.
    folders = [folder, *path.parent.parents] if is_foreign and not is_url(where) else [folder]
    rows = _guarded(_json_rows(convert, path), source)
    return Manifest(rows, 0 if convert is lhotse.rows_of_cut else num_lines, folders)


def count_rows(source: DataSource) -> int:
    """Rows of a source's manifest; DataError as in `open_manifest`."""
    manifest = open_manifest(source)
    return manifest.num_rows or sum(1 for _ in manifest.rows)


def count_and_first(source: DataSource) -> tuple[int, str | None]:
    """Rows of a source's manifest, and the URL of the first audio where that is in a store; else None."""
    manifest = open_manifest(source)
    head = list(islice(manifest.rows, HEAD_LINES))
    names = (row.get(source.columns.audio) for _, row in head if isinstance(row, dict))
    first = next((manifest.find(name) for name in names if isinstance(name, str)), None)
    return manifest.num_rows or len(head) + sum(1 for _ in manifest.rows), first if is_url(first) else None


def _json_format(row: Fields, head: list[Fields], source: DataSource, path: Path | str) -> tuple[Convert, bool] | None:
    """How rows like this one are read, and whether others made them; None: like nothing that is known."""
    columns = source.columns
    others = renamed({key for one in head for key in one}, columns.model_dump().values())
    own = {others.get(key, key) for key in row}
    if columns.audio in own or columns.audio.split(".")[0] in own:
        return _OwnRows(source, path, head, others).convert, False
    if "audio_filepath" in row:
        return _NemoRows(source, path, head).convert, True
    if lhotse.is_cut(row):
        return lhotse.rows_of_cut, True
    if lhotse.is_supervision(row):
        recordings = _pair(path, "supervisions", "recordings", source)
        with _explained(source):
            lines = read_lines(local_file(recordings))
            by_id = lhotse.recordings_by_id(parse_object(line) for _, line in lines)
        return partial(lhotse.rows_of_supervision, by_id, Path(recordings).name), True
    return None


class _Watched:
    """Rows whose fields are looked at as they appear; `fields` are those that must not stand under other names."""

    fields: tuple[str, ...] = ("start_s", "end_s")

    def __init__(self, source: DataSource, path: Path | str, head: list[Fields]) -> None:
        self.source, self._path, self._seen = source, path, set()
        self._watch({key for row in head for key in row})

    def _watch(self, names: set[str]) -> None:
        new = names - self._seen
        self._seen |= new
        refuse_unread(self._seen, self.source, self._path, new=new, fields=self.fields)

    def watch(self, row: Fields) -> None:
        """DataError where a name turns up that seems to be that of a field."""
        if not row.keys() <= self._seen:
            self._watch(set(row))


class _OwnRows(_Watched):
    """Rows in our own form; `others` are names that differ from ours in case only."""

    fields = ("start_s", "end_s", "speaker", "recording")

    def __init__(self, source: DataSource, path: Path | str, head: list[Fields], others: dict[str, str]) -> None:
        self._others = others
        super().__init__(source, path, [self._named(row) for row in head])
        for column in source.columns.required:
            if column in (source.columns.start_s, source.columns.end_s) and column.split(".")[0] not in self._seen:
                raise DataError(f"source '{source.name}': {path} has no '{column}' in its first {len(head)} rows")

    def _named(self, row: Fields) -> Fields:
        return {self._others.get(key, key): value for key, value in row.items()} if self._others else row

    def convert(self, row: Fields) -> Iterator[Fields]:
        row = self._named(row)
        self.watch(row)
        yield with_other_names(row, self.source.columns)


class _NemoRows(_Watched):
    """NeMo's: `duration` is that of the span, which starts at `offset` (0 where it is missing)."""

    def convert(self, row: Fields) -> Iterator[Fields]:
        self.watch(row)
        fields = {"language": row.get("lang"), **row, "audio": row.get("audio_filepath")}
        if row.get("start_s") is None and row.get("end_s") is None:
            fields |= {"start_s": row.get(OFFSET), "end_s": row.get("duration")}
            with suppress(ValueError):  # a line of the ledger, when the row is looked at
                start_s, duration_s = as_number(row.get(OFFSET)), as_number(row.get("duration"))
                if start_s is not None and duration_s is not None:
                    fields["end_s"] = round(start_s + duration_s, 6)
        yield fields


def _as_it_is(row: Fields) -> Iterator[Fields]:
    yield row


def _table_format(
    first: str | BadRow, source: DataSource, path: Path | str
) -> tuple[cells.Header, str | None, Convert] | None:
    """The header, the column of the texts and how rows are read; None where the first line is no header."""
    columns, headers = source.columns, cells.headers(first)
    for header in headers:
        others = renamed(header.names, (*columns.model_dump().values(), *COMMON_VOICE))
        header = cells.Header(tuple(others.get(name, name) for name in header.names), header.delimiter)
        names, what = header.names, f"source '{source.name}': {path}"
        if columns.audio in names and (columns.text is None or columns.text in names):
            require_single(names, columns.model_dump().values(), what)
            if lacking := [column for column in columns.required if column not in names]:
                raise DataError(f"{what} has no column '{lacking[0]}', only {one_line(', '.join(names))}")
            refuse_unread(names, source, path)
            return header, columns.text, lambda row: iter((with_other_names(row, columns),))
        if {"path", "sentence"} <= set(names):
            require_single(names, COMMON_VOICE, what)
            refuse_unread(names, source, path, fields=_Watched.fields)
            # In a store as Common Voice has it: there are no folders to look for.
            prefix = "clips/" if is_url(path) or (path.parent / "clips").is_dir() else ""
            return header, "sentence", partial(_common_voice, prefix)
    if not headers:
        return None
    raise DataError(
        f"source '{source.name}': {path} is not a known kind of table: its columns are "
        f"{one_line(', '.join(headers[0].names))}; say which with `columns: {{audio: ..., text: ...}}`. {KNOWN}"
    )


COMMON_VOICE = ("path", "sentence", "client_id", "locale")


def _common_voice(prefix: str, row: Fields) -> Iterator[Fields]:
    fields = {"text": row["sentence"], "speaker": row.get("client_id"), "language": row.get("locale")}
    yield {**fields, **row, "audio": prefix + row["path"]}


def _json_rows(convert: Convert, path: Path) -> Iterator[tuple[str, Fields | BadRow]]:
    for number, line in read_lines(path):
        row = parse_object(line)
        found = list(convert(row)) if isinstance(row, dict) else [row]
        for i, fields in enumerate(found, 1):
            yield f"line {number}" if len(found) == 1 else f"line {number}, supervision {i}", fields


def _table_rows(
    path: Path, header: cells.Header, text: str | None, convert: Convert
) -> Iterator[tuple[str, Fields | BadRow]]:
    for number, row in cells.rows(read_lines(path), header, text):
        for fields in [row] if isinstance(row, BadRow) else convert(row):
            yield f"line {number}", fields


def _pair(path: Path | str, own: str, other: str, source: DataSource) -> Path | str:
    """The second of Lhotse's two files: `x_supervisions_y.jsonl.gz` and `x_recordings_y.jsonl.gz`."""
    name = Path(path).name.replace(own, other)
    found = joined(parent_of(path), name) if is_url(path) else path.with_name(name)
    if found == path or not exists(found):
        raise DataError(
            f"source '{source.name}': {path} holds Lhotse {own}; with the {other} beside it, both named as Lhotse does "
            "(x_recordings_y.jsonl.gz, x_supervisions_y.jsonl.gz), it can be read"
        )
    return found


def _explained(source: DataSource) -> AbstractContextManager[None]:
    return explained(f"source '{source.name}': manifest {source.manifest}")


def _guarded(rows: Iterator, source: DataSource) -> Iterator:
    with _explained(source):
        yield from rows


def _shown(first: str | BadRow, fields: list[Fields]) -> str:
    """What a person recognises the file by."""
    if fields:
        return f"its first row has the fields {one_line(', '.join(fields[0]), 200) or '(none)'}"
    return "its first line is " + (first.detail if isinstance(first, BadRow) else repr(first[:60]))
