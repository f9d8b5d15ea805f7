"""Our own manifests: one `Utterance` a line; and what a stage compares to know whether its data have changed."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.files import write_bytes
from shibolet.records.utterance import Utterance

_WHOLE_BYTES = 96 * 1024  # files up to this size are hashed whole
_SAMPLE_BYTES = 32 * 1024  # of larger ones the head, the middle and the tail


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest at once or not at all; audio inside its folder is named relative to it, so both can be moved."""
    rows = (replace(u, audio=u.audio.from_folder(path.parent)).to_json() for u in utterances)
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_bytes(path, lines.encode())


def read_manifest(path: Path) -> list[Utterance]:
    """The utterances of a manifest, audio paths absolute; DataError names the line that is not one of ours."""
    utterances = []
    try:
        lines = path.read_bytes().split(b"\n")  # not splitlines: U+2028 may stand inside a text
    except OSError as error:
        raise DataError(f"manifest {path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            utterance = Utterance.from_json(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"manifest {path}, line {number} is not an utterance that shibolet wrote: {error}"
            ) from error
        utterances.append(replace(utterance, audio=utterance.audio.in_folder(path.parent)))
    return utterances


def manifest_hash(utterances: Sequence[Utterance]) -> str:
    """Content hash of utterances in their order: every field, and of each audio file its size and samples of its bytes.

    Paths are left out, so that a moved folder is the same data. A file is hashed whole up to 96 KiB, else by its first,
    middle and last 32 KiB: what goes unnoticed is an edit in place, of the same size, that touches none of the three.
    DataError when a file is missing.
    """
    paths = sorted({u.audio.path for u in utterances})
    with ThreadPoolExecutor(8) as pool:  # waits for the disk
        content_of = dict(zip(paths, pool.map(_content_hash, paths)))
    total = hashlib.sha256()
    for utterance in utterances:
        row = replace(utterance, audio=replace(utterance.audio, path=content_of[utterance.audio.path])).to_json()
        total.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return total.hexdigest()[:16]


def _content_hash(path: str) -> str:
    try:
        stat = os.stat(path)
        return _sampled_hash(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise DataError(f"audio {path} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1 << 18)
def _sampled_hash(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
        else:
            for offset in (0, (size - _SAMPLE_BYTES) // 2, size - _SAMPLE_BYTES):
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
