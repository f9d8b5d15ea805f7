"""Our own manifests: one `Utterance` a line; and what a stage compares to know whether its data have changed."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.batches import ForEach, in_threads
from shibolet.records.files import hash_file, open_regular, write_jsonl
from shibolet.records.objects import local_file
from shibolet.records.store import is_url
from shibolet.records.utterance import Utterance

_WHOLE_BYTES = 96 * 1024  # files up to this size are hashed whole
_SAMPLE_BYTES = 32 * 1024  # of larger ones the head, the middle and the tail
_PLACED = 1 << 14  # files that many utterances share


def write_manifest(path: Path, utterances: Iterable[Utterance], root: Path | None = None) -> None:
    """Write a manifest at once or not at all; audio inside its folder is named relative to it, so both can be moved.

    `root` is a folder above it that may be moved with all that lies in it; None: its own.
    """
    above = (root or path.parent).absolute()

    @lru_cache(_PLACED)
    def placed(audio_path: str) -> str:
        if is_url(audio_path):
            return audio_path
        found = Path(audio_path).absolute()
        return os.path.relpath(found, path.parent.absolute()) if found.is_relative_to(above) else str(found)

    write_jsonl(path, (replace(u, audio=replace(u.audio, path=placed(u.audio.path))).to_json() for u in utterances))


def read_manifest(path: Path) -> list[Utterance]:
    """The utterances of a manifest, audio paths absolute; DataError names the line that is not one of ours."""
    try:
        with open_regular(path) as file:  # lines of bytes: U+2028 may stand inside a text
            return [_parse(line, number, path) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise DataError(f"manifest {path} cannot be read: {error.strerror}") from error


def _parse(line: bytes, number: int, path: Path) -> Utterance:
    try:
        utterance = Utterance.from_json(json.loads(line))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"manifest {path}, line {number} is not an utterance that shibolet wrote: {error}") from error
    return replace(utterance, audio=utterance.audio.in_folder(path.parent))


def manifest_hash(utterances: Sequence[Utterance], *, whole: bool = False, for_each: ForEach = in_threads) -> str:
    """Content hash of utterances in their order: every field, and of each audio file its size and samples of its bytes.

    Paths are left out, so that a moved folder is the same data. A file is hashed whole up to 96 KiB or where `whole`
    files are asked for, as of test sets; else by its first, middle and last 32 KiB: what goes unnoticed is an edit in
    place, of the same size, that touches none of the three. DataError when a file is missing.
    """
    paths = list(dict.fromkeys(utterance.audio.path for utterance in utterances))
    contents = dict(zip(paths, for_each(_whole_hash if whole else _content_hash, paths), strict=True))
    total = hashlib.sha256()
    for utterance in utterances:
        audio = utterance.audio.to_json() | {"path": contents[utterance.audio.path]}
        row = utterance.to_json() | {"audio": audio}
        total.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return total.hexdigest()[:16]


def _whole_hash(path: str) -> str:
    try:
        return hash_file(local_file(path))
    except OSError as error:
        raise DataError(f"audio {path} cannot be read: {error.strerror}") from error


def _content_hash(path: str) -> str:
    try:
        file_path = local_file(path)
        size = os.stat(file_path).st_size
        digest = hashlib.sha256(str(size).encode())
        with open(file_path, "rb") as file:
            if size <= _WHOLE_BYTES:
                digest.update(file.read())
            else:
                for offset in (0, (size - _SAMPLE_BYTES) // 2, size - _SAMPLE_BYTES):
                    file.seek(offset)
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise DataError(f"audio {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:32]
