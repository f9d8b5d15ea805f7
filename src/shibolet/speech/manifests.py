"""Manifests as people have them: what a file is, from its content, and its rows under our own names of fields.

Ours, NeMo's and Lhotse's JSONL (also gzipped), TSV, Common Voice, and folders of audio with a `.txt` beside each file.
A row keeps its own fields beside ours, so that `columns` can name them. No audio is looked at here.
"""

import difflib
import gzip
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from shibolet.errors import DataError
from shibolet.speech import lhotse
from shibolet.speech.audio import AUDIO_SUFFIXES
from shibolet.speech.rows import BadRow
from shibolet.speech.sources import DataSource

KNOWN = (
    "JSONL with 'audio' and 'text' or what `columns` names, NeMo JSONL ('audio_filepath'), Lhotse JSONL (cuts, or "
    "supervisions with their recordings beside them), each also as .gz; TSV with a header, Common Voice's too; a "
    "folder of audio with a .txt beside each file. Parquet and Arrow files go under `parquet`"
)
HEAD_LINES = 100  # looked at to tell what a file is: the first lines may be broken
MAX_LINE_BYTES = 16 * 2**20  # a longer line, or .txt, is not read

Fields = dict[str, Any]
Convert = Callable[[Fields], Iterator[Fields | BadRow]]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Rows in their order, and where the relative paths in them start."""

    rows: Iterator[tuple[str, Fields | BadRow]]  # where a row stands, and its fields or why it has none
    num_rows: int  # 0: not known
    folders: list[Path]  # where relative paths may start

    def find(self, name: str) -> Path:
        """The path of a file; the first that is found in one of several folders decides for those after it."""
        if len(self.folders) > 1 and not os.path.isabs(name):
            self.folders[:] = [f for f in self.folders if os.path.exists(f / name)][:1] or self.folders
        return self.folders[0] / name


def open_manifest(source: DataSource) -> Manifest:
    """The rows of a source's manifest; DataError when it cannot be read, or is nothing that is known."""
    path = source.manifest.absolute()
    if path.is_dir():
        return Manifest(_folder_rows(path), 0, [path])
    with _explained(source):
        if path.exists() and not path.is_file():
            raise OSError("neither a file nor a folder")
        head = list(islice(_lines(path), HEAD_LINES))
        num_lines = sum(1 for _ in _lines(path))
    first = head[0][1] if head else b""
    if isinstance(first, bytes) and b"\t" in first and not first.lstrip().startswith(b"{"):
        header = [name.strip() for name in first.decode(errors="replace").split("\t")]
        convert = _tsv_format(header, source, path)
        return Manifest(_guarded(_tsv_rows(path, header, convert), source), num_lines - 1, [path.parent])
    fields = [parsed for _, line in head if isinstance(parsed := _parse(line), dict)]
    if any(lhotse.is_recording(row) for row in fields):
        return open_manifest(source.model_copy(update={"manifest": _pair(path, "recordings", "supervisions", source)}))
    found = next((found for row in fields if (found := _json_format(row, source, path))), None)
    if head and found is None:
        raise DataError(
            f"source '{source.name}': {path} is no manifest that is known: {_shown(first, fields)}; {KNOWN}"
        )
    convert, is_foreign = found or (_as_it_is, False)
    if convert is _as_it_is:
        _refuse_near_misses({key for row in fields for key in row}, source, path)
    # Lhotse's and NeMo's paths often start where the data were prepared: at a folder above the manifest's.
    folders = [path.parent, *path.parent.parents] if is_foreign else [path.parent]
    rows = _guarded(_json_rows(convert, path), source)
    return Manifest(rows, 0 if convert is lhotse.rows_of_cut else num_lines, folders)


def count_rows(source: DataSource) -> int:
    """Rows of a source's manifest; DataError as in `open_manifest`."""
    manifest = open_manifest(source)
    return manifest.num_rows or sum(1 for _ in manifest.rows)


def _json_format(row: Fields, source: DataSource, path: Path) -> tuple[Convert, bool] | None:
    """How rows like this one are read, and whether others made them; None: like nothing that is known."""
    audio = source.columns.audio
    if audio in row or audio.split(".")[0] in row:
        return _as_it_is, False
    if "audio_filepath" in row:
        return _nemo, True
    if lhotse.is_cut(row):
        return lhotse.rows_of_cut, True
    if lhotse.is_supervision(row):
        recordings = _pair(path, "supervisions", "recordings", source)
        with _explained(source):
            by_id = lhotse.recordings_by_id(_parse(line) for _, line in _lines(recordings))
        return partial(lhotse.rows_of_supervision, by_id, recordings.name), True
    return None


def _refuse_near_misses(keys: Collection[str], source: DataSource, path: Path) -> None:
    """DataError where spans or speakers seem to stand under a name that nothing reads: without them data are others."""
    columns = source.columns.model_dump()
    missing = {columns[field]: field for field in ("start_s", "end_s", "speaker", "recording")}
    missing = {column: field for column, field in missing.items() if column and column not in keys}
    for key in sorted(set(keys) - set(columns.values())):
        if near := difflib.get_close_matches(key, missing, n=1, cutoff=0.75):
            field = missing[near[0]]
            raise DataError(
                f"source '{source.name}': {path} has '{key}', which is not read, and no '{near[0]}': name it in the "
                f"recipe, `columns: {{{field}: {key}}}`, or say that there is none, `columns: {{{field}: null}}`"
            )


def _as_it_is(row: Fields) -> Iterator[Fields]:
    yield row


def _nemo(row: Fields) -> Iterator[Fields]:
    """`duration` is that of the span, which starts at `offset` (0 where it is missing)."""
    start_s, duration_s = row.get("offset"), row.get("duration")
    summable = all(isinstance(value, int | float) and abs(value) < 1e9 for value in (start_s, duration_s))
    end_s = round(start_s + duration_s, 6) if summable else duration_s
    yield {"language": row.get("lang"), **row, "audio": row.get("audio_filepath"), "start_s": start_s, "end_s": end_s}


def _tsv_format(header: list[str], source: DataSource, path: Path) -> Convert:
    columns = source.columns
    if columns.audio in header and columns.text in header:
        _refuse_near_misses(header, source, path)
        seconds = [name for name in (columns.start_s, columns.end_s, columns.duration) if name in header]
        return partial(_tsv, seconds)
    if {"path", "sentence"} <= set(header):
        return partial(_common_voice, "clips/" if (path.parent / "clips").is_dir() else "")
    raise DataError(
        f"source '{source.name}': {path} is no table that is known: its columns are {', '.join(header)[:300]}; {KNOWN}"
    )


def _tsv(seconds: list[str], row: Fields) -> Iterator[Fields]:
    yield {name: _number(cell) if name in seconds else cell for name, cell in row.items()}


def _number(cell: str) -> float | str | None:
    """A cell as a number; the cell itself where it is none, for the ledger."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def _common_voice(prefix: str, row: Fields) -> Iterator[Fields]:
    fields = {"text": row["sentence"], "speaker": row.get("client_id"), "language": row.get("locale")}
    yield {**fields, **row, "audio": prefix + row["path"]}


def _json_rows(convert: Convert, path: Path) -> Iterator[tuple[str, Fields | BadRow]]:
    for number, line in _lines(path):
        row = _parse(line)
        found = list(convert(row)) if isinstance(row, dict) else [row]
        for i, fields in enumerate(found, 1):
            yield f"line {number}" if len(found) == 1 else f"line {number}, supervision {i}", fields


def _tsv_rows(path: Path, header: list[str], convert: Convert) -> Iterator[tuple[str, Fields | BadRow]]:
    for number, line in islice(_lines(path), 1, None):
        try:
            cells = line if isinstance(line, BadRow) else line.decode().rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            cells = BadRow("not_utf8", str(error))
        if isinstance(cells, list) and len(cells) != len(header):
            cells = BadRow("not_a_row", f"{len(cells)} cells under a header of {len(header)}")
        for fields in [cells] if isinstance(cells, BadRow) else convert(dict(zip(header, cells))):
            yield f"line {number}", fields


def _folder_rows(folder: Path) -> Iterator[tuple[str, Fields | BadRow]]:
    """A row for each audio file below a folder, and for each `.txt` without one; hidden files are left out."""
    seen = {os.path.realpath(folder)}

    def is_new(name: str) -> bool:
        """Links are followed, but not in circles."""
        real = os.path.realpath(os.path.join(parent, name))
        return not name.startswith(".") and real not in seen and not seen.add(real)

    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in sorted(folders) if is_new(name)]
        files = [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
        spoken = {file.stem for file in files if file.suffix.lower() in AUDIO_SUFFIXES}
        texts = {file.stem: file for file in files if file.suffix.lower() == ".txt"}
        for file in files:
            where = file.relative_to(folder).as_posix()
            if file.suffix.lower() in AUDIO_SUFFIXES:
                text = _text_of(texts[file.stem]) if file.stem in texts else _NO_TEXT
                yield where, text if isinstance(text, BadRow) else {"audio": where, "text": text}
            elif file.suffix.lower() == ".txt" and file.stem not in spoken:
                yield where, BadRow("missing_audio", "no audio of this name beside it")


_NO_TEXT = BadRow("missing_text", "no .txt of this name beside it")


def _raise(error: OSError) -> None:
    raise DataError(f"folder {error.filename} cannot be read: {error.strerror}") from error


def _text_of(path: Path) -> str | BadRow:
    try:
        if not path.is_file():
            return BadRow("missing_text", f"{path.name} is not a file")
        if path.stat().st_size > MAX_LINE_BYTES:
            return BadRow("too_long_text", f"{path.name} has {path.stat().st_size:,} bytes")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return BadRow("missing_text", f"{path.name} cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"{path.name}: {error}")


def _pair(path: Path, own: str, other: str, source: DataSource) -> Path:
    """The second of Lhotse's two files: `x_supervisions_y.jsonl.gz` and `x_recordings_y.jsonl.gz`."""
    found = path.with_name(path.name.replace(own, other))
    if found == path or not found.is_file():
        raise DataError(
            f"source '{source.name}': {path} holds Lhotse {own}; with the {other} beside it, both named as Lhotse does "
            "(x_recordings_y.jsonl.gz, x_supervisions_y.jsonl.gz), it can be read"
        )
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes | BadRow]]:
    """Number and content of each line that is not blank, one in memory at a time; gzip is unpacked."""
    with path.open("rb") as raw:
        is_packed = raw.peek(2)[:2] == b"\x1f\x8b"
        with gzip.open(raw) if is_packed else raw as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                        pass
                    yield number, BadRow("too_long_line", f"over {MAX_LINE_BYTES / 2**20:.0f} MiB")
                elif line.strip():
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _parse(line: bytes | BadRow) -> Fields | BadRow:
    if isinstance(line, BadRow):
        return line
    try:
        values = json.loads(line)
        json.dumps(values, ensure_ascii=False).encode()  # an escaped half of a surrogate pair cannot be written again
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", str(error))
    return values if isinstance(values, dict) else BadRow("not_json", f"a {type(values).__name__}, not an object")


@contextmanager
def _explained(source: DataSource) -> Iterator[None]:
    """One sentence for a file that cannot be read, or a gzip that ends too soon."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"source '{source.name}': manifest {source.manifest} cannot be read: {reason}") from error


def _guarded(rows: Iterator, source: DataSource) -> Iterator:
    with _explained(source):
        yield from rows


def _shown(first: bytes | BadRow, fields: list[Fields]) -> str:
    """What a person recognises the file by."""
    if fields:
        return f"its first row has the fields {', '.join(fields[0])[:200] or '(none)'}"
    return "its first line is " + (first.detail if isinstance(first, BadRow) else repr(first[:60])[1:])
