"""Folders of audio as a manifest: a row for each file of audio with the `.txt` beside it, on disk or in a store."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from shibolet.errors import DataError
from shibolet.records.objects import fetch_ahead, local_file
from shibolet.records.store import NoObject, below, is_url, names_in
from shibolet.speech.audio import AUDIO_SUFFIXES
from shibolet.speech.textfiles import BadRow, read_text

TEXTS_AT_ONCE = 256  # of a store: they are fetched together, and no more of them than rows are asked for
_LISTS = ("metadata.csv", "metadata.jsonl")  # of some data sets, which then have no .txt

Row = tuple[str, dict[str, Any] | BadRow]  # where it stands, and its fields or why it has none
Listing = Iterable[tuple[PurePosixPath, list[str]]]  # each folder below the one that was named, and its files, sorted


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row before its text is read; both paths start at the folder."""

    audio: str | None
    text: str | None


def folder_rows(folder: Path | str, with_texts: bool = True) -> tuple[Iterator[Row], int]:
    """A row for each audio file below a folder, and for each `.txt` without one, and their number (0: not known).

    Hidden files are left out. Without texts each audio file is a row, and no `.txt` is. DataError, StoreError.
    """
    if is_url(folder):
        listing = _in_store(folder)
        entries = list(_entries(listing, with_texts))
        return _rows(folder, _ahead(folder, entries), with_texts, listing[0][1]), len(entries)
    files = [name for name in _LISTS if (folder / name).is_file()]
    return _rows(folder, _entries(_on_disk(folder), with_texts), with_texts, files), 0


def _in_store(folder: str) -> list[tuple[PurePosixPath, list[str]]]:
    """In the order of `_on_disk`, so that data that were moved to a store have the same digest."""
    found: dict[PurePosixPath, list[str]] = defaultdict(list, {PurePosixPath(): []})
    for path in map(PurePosixPath, names_in(folder)):
        if not any(part.startswith(".") for part in path.parts):
            found[path.parent].append(path.name)
    return [(parent, sorted(found[parent])) for parent in sorted(found, key=lambda parent: parent.parts)]


def _on_disk(folder: Path) -> Listing:
    seen = {os.path.realpath(folder)}

    def is_new(name: str) -> bool:
        """Links are followed, but not in circles."""
        real = os.path.realpath(os.path.join(parent, name))
        return not name.startswith(".") and real not in seen and not seen.add(real)

    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in sorted(folders) if is_new(name)]
        inside = PurePosixPath(Path(parent).relative_to(folder).as_posix())
        yield inside, [name for name in sorted(names) if not name.startswith(".")]


def _raise(error: OSError) -> None:
    raise DataError(f"folder {error.filename} cannot be read: {error.strerror}") from error


def _entries(listing: Listing, with_texts: bool) -> Iterator[_Entry]:
    for parent, names in listing:
        files = [parent / name for name in names]
        spoken = {_stem(file) for file in files if file.suffix.lower() in AUDIO_SUFFIXES}
        texts = {_stem(file): str(file) for file in files if file.suffix.lower() == ".txt"} if with_texts else {}
        for file in files:
            if file.suffix.lower() in AUDIO_SUFFIXES:
                yield _Entry(str(file), texts.get(_stem(file)))
            elif with_texts and file.suffix.lower() == ".txt" and _stem(file) not in spoken:
                yield _Entry(None, str(file))


def _stem(path: PurePosixPath) -> str:
    """The name by which a text finds its audio: systems differ in how they write accents in names."""
    return unicodedata.normalize("NFC", path.stem)


def _ahead(folder: str, entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """The same, with copies of their texts fetched: one after the other each would wait for the network."""
    entries = iter(entries)
    while some := list(islice(entries, TEXTS_AT_ONCE)):
        fetch_ahead(below(folder, entry.text) for entry in some if entry.audio and entry.text)
        yield from some


def _rows(folder: Path | str, entries: Iterable[_Entry], with_texts: bool, files: Iterable[str]) -> Iterator[Row]:
    """`files` are those in the folder itself."""
    listed = next((name for name in _LISTS if name in files), None)
    hint = f"; to read {listed}, name it as the manifest" if listed else ""
    no_text = BadRow("missing_text", f"no .txt of this name beside it{hint}")
    for entry in entries:
        if entry.audio is None:
            yield entry.text, BadRow("missing_audio", "no audio of this name beside it")
        elif not with_texts:
            yield entry.audio, {"audio": entry.audio}
        else:
            text = no_text if entry.text is None else _text_in(folder, entry.text)
            yield entry.audio, text if isinstance(text, BadRow) else {"audio": entry.audio, "text": text}


def _text_in(folder: Path | str, text: str) -> str | BadRow:
    name = PurePosixPath(text).name
    try:
        path = local_file(below(folder, text))
        return read_text(path, name) if path.is_file() else BadRow("missing_text", f"{name} is not a file")
    except BadRow as bad:
        return bad
    except (NoObject, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else "it was deleted"
        return BadRow("missing_text", f"{name} cannot be read: {why}")
