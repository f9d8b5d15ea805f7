"""Objects of a store as files of this machine: each is fetched once, whole, and found again by URL and version.

A round reads every recording several times (its header, its hash, its samples to hear and to cut), and decoders open
files. So an object is fetched when it is first asked for, and hashed as its bytes come; what reads it reads a file.
"""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock

from shibolet.errors import ShiboletError, StoreError
from shibolet.records import store
from shibolet.records.batches import at_once
from shibolet.records.files import cache_dir, disk_errors, hash_json, remember_hash, writing

_BLOCK_BYTES = 8 << 20  # of a request
_LANES = 32  # objects on their way at once
_CHANGES = 3  # while it is read, after which an object is given up


def local_file(place: str | Path) -> Path:
    """A file of this machine: a path as it is, of a URL a copy of the object; NoObject, StoreError, DiskError."""
    return _copy_of(place) if store.is_url(place) else Path(place)


def fetch_ahead(places: Iterable[str | Path]) -> None:
    """Have copies of the objects among these; many at once, since each waits for the network. StoreError.

    One that is not there is left to whoever asks for it.
    """
    at_once(_try_copy, filter(store.is_url, places), _LANES)


def _try_copy(url: str) -> None:
    with suppress(store.NoObject):
        _copy_of(url)


def exists(place: str | Path) -> bool:
    """Whether there is a file, a folder or an object of this name; StoreError."""
    if not store.is_url(place):
        return Path(place).exists()
    try:
        with suppress(store.IsFolder):
            store.info(place)
    except store.NoObject:
        return False
    return True


def _copy_of(url: str) -> Path:
    """The copy; this process looks once whether the object has changed: a stage works on one version of it."""
    with _lock_of(url):
        if (key := _KNOWN.get(url)) is not None and (path := _path_of(url, key)).exists():
            return path
        found = store.info(url)
        key = hash_json([url, found.version, found.size])
        if not (path := _path_of(url, key)).exists():
            _download(url, path, found)
        _KNOWN[url] = key
        return path


_KNOWN: dict[str, str] = {}  # keys of copies, by URL


def _path_of(url: str, key: str) -> Path:
    """Where a copy is; decoders look at the end of a file's name."""
    suffix = os.path.splitext(url)[1]
    return cache_dir() / "objects" / key[:2] / f"{key}{suffix if suffix[1:].isalnum() and len(suffix) < 10 else ''}"


@lru_cache(maxsize=1024)
def _lock_of(url: str) -> Lock:
    """Threads that ask for one object fetch it once. (Of those that are forgotten, it may be fetched twice.)"""
    return Lock()


def download(url: str, path: Path) -> str:
    """Fetch an object, whole or not at all, into a file; SHA-256 of its bytes. NoObject, StoreError, DiskError."""
    return _download(url, path, store.info(url))


def _download(url: str, path: Path, found: store.ObjectInfo) -> str:
    for _ in range(_CHANGES):
        digest = hashlib.sha256()
        with suppress(_Changed), disk_errors(path), writing(path) as file:
            for start in range(0, found.size, _BLOCK_BYTES):
                block = store.read(url, start, min(found.size, start + _BLOCK_BYTES))
                digest.update(block)
                file.write(block)
            # One request gives bytes of one version; of several requests each may give those of another.
            is_one = file.tell() == found.size and (found.size <= _BLOCK_BYTES or store.info(url) == found)
            if not is_one:
                raise _Changed
        if is_one:
            remember_hash(path, digest.hexdigest())
            return digest.hexdigest()
        found = store.info(url)
    raise StoreError(f"{url} changed again and again while it was read; run the same command when nobody writes it")


class _Changed(ShiboletError):
    """What was read is of two versions."""
