"""Objects of a store by URL, s3:// or gs://: read, written and listed through fsspec, with one sentence for a failure.

The driver tries again by itself: after 503, slow-down, a timeout or a connection that breaks it waits, twice as long
each time. How often is bounded here; what it says last is told. Credentials and the address of the store are those of
the driver (environment, ~/.aws, the machine's role), and never stand in a recipe.
"""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from shibolet.errors import RecipeError, ShiboletError, StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

DRIVERS = {"s3": "'shibolet[cloud]'", "gs": "gcsfs"}  # what has the driver, by the scheme of a URL
TRIES = 6  # of a request: with the waits between them half a minute
_URL = re.compile(rf"(?:{'|'.join(DRIVERS)})://")
_CONNECT_S, _ANSWER_S = 10, 30  # a store that takes longer is taken for one that does not answer
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "updated")  # what changes with an object


class NoObject(StoreError):
    """There is no such object, folder or bucket."""


class IsFolder(StoreError):
    """A folder of the store, where an object was asked for."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the store describes it."""

    size: int  # bytes
    version: str  # another one whenever the content is; no hash of it


def is_url(place: object) -> bool:
    """Whether this names an object of a store, and not a file."""
    return isinstance(place, str) and _URL.match(place) is not None


def has_scheme(place: object) -> bool:
    """Whether this is a URL, also one that is none of a store."""
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def require_place(place: object) -> None:
    """RecipeError for a URL with another scheme than those of stores; whoever takes it for a path finds nothing."""
    if has_scheme(place) and not is_url(place):
        schemes = " or ".join(f"{scheme}://" for scheme in DRIVERS)
        raise RecipeError(f"'{place}' cannot be read: name a path of this machine, or a URL that begins with {schemes}")


def joined(folder: str, name: str) -> str:
    """The URL of a name below that of a folder, or beside it with ../ in front."""
    scheme, _, place = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(f'{place}/{name}')}"


def below(folder: Path | str, name: str) -> str:
    """A name in a folder of this machine, or of the store where `folder` is text; of a URL or a whole path, that."""
    if is_url(name):
        return name
    return joined(folder, name) if is_url(folder) and not os.path.isabs(name) else str(Path(folder, name))


def parent_of(url: str) -> str:
    """The URL of the folder that an object is in."""
    return url.rpartition("/")[0]


def info(url: str) -> ObjectInfo:
    """Size and version of an object; NoObject, IsFolder, StoreError."""
    with _asked(url, "read"):
        found = _store(url).info(url)
    if found["type"] != "file":
        example = joined(url, "manifest.jsonl")
        raise IsFolder(f"{url} is a folder of the store; name an object in it, such as {example}")
    return ObjectInfo(found["size"], " ".join(str(found[key]) for key in _VERSIONS if key in found))


def read(url: str, start: int, end: int) -> bytes:
    """The bytes of an object from `start` up to `end`; NoObject, StoreError."""
    with _asked(url, "read"):
        return _store(url).cat_file(url, start=start, end=end) if end > start else b""


def write(url: str, content: bytes) -> None:
    """Write an object, which readers see whole or not at all; StoreError."""
    with _asked(url, "written"):
        _store(url).pipe_file(url, content)


def upload(path: Path, url: str) -> None:
    """Write an object from a file, in parts where it is large; a reader sees it whole or not at all; StoreError."""
    with _asked(url, "written"):
        _store(url).put_file(str(path), url)


def require_writable(folder: str) -> None:
    """StoreError where nothing can be written, read and deleted below a folder of the store."""
    url = joined(folder, f".probe-{uuid4().hex}")
    write(url, b"probe")
    if read(url, 0, info(url).size) != b"probe":
        raise StoreError(f"{url} holds something else than was written there")
    delete([url])


def names_in(folder: str) -> list[str]:
    """The names of objects below a folder of the store, relative to it; NoObject for no bucket, StoreError."""
    with _asked(folder, "read"):
        store = _store(folder)
        root = store._strip_protocol(folder)
        names = [name.removeprefix(f"{root}/") for name in store.find(folder)]
    names = [name for name in names if not name.endswith("/")]  # by which some programs mark an empty folder
    for name in names:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise StoreError(f"{folder.rstrip('/')}/{name} is no path, as it has //, . or .. in it; rename that object")
    return names


def matching(pattern: str) -> dict[str, int]:
    """URLs of the objects that a pattern names (`*`, `?`, `[...]`, `**`), sorted, with their bytes.

    NoObject where there is no such bucket, StoreError.
    """
    scheme, _, place = pattern.partition("://")
    with _asked(pattern, "read"):
        store = _store(pattern)
        if not (found := store.glob(pattern, detail=True)):
            store.info(place.partition("/")[0])
    return {f"{scheme}://{name}": of["size"] for name, of in sorted(found.items()) if of["type"] == "file"}


def delete(urls: Sequence[str]) -> None:
    """Delete objects; those that are not there already stay so; StoreError."""
    if urls:
        with _asked(urls[0], "deleted"):
            _store(urls[0]).rm(list(urls))


def _store(url: str) -> "AbstractFileSystem":
    return _filesystem(url.partition(":")[0], os.getpid())


@lru_cache
def _filesystem(scheme: str, process: int) -> "AbstractFileSystem":
    """The driver, one a process: threads share it."""
    import fsspec

    settings: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        retries = {"mode": "standard", "total_max_attempts": TRIES}
        settings["config_kwargs"] = {
            "retries": retries, "connect_timeout": _CONNECT_S, "read_timeout": _ANSWER_S, "max_pool_connections": 32,
        }  # fmt: skip
    store = fsspec.filesystem(scheme, **settings)
    if scheme == "s3":
        store.retries = 2  # of an answer that breaks off, around those of the request
    return store


@contextmanager
def _asked(url: str, what: str) -> Iterator[None]:
    """A sentence for whatever a driver raises: each has errors of its own."""
    try:
        yield
    except ShiboletError:
        raise
    except ImportError as error:
        scheme = url.partition(":")[0]
        raise StoreError(
            f"{url} cannot be {what}: the driver for {scheme}:// is not installed; pip install {DRIVERS[scheme]}"
        ) from error
    except FileNotFoundError as error:
        raise NoObject(
            f"{url} cannot be {what}: the store has no such object, folder or bucket; see whether the name is right"
        ) from error
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
            raise StoreError(
                f"{url} cannot be {what}: {why}. The store refuses this account, or has no such object; see that the "
                "account's credentials are on this machine (AWS_PROFILE, AWS_ACCESS_KEY_ID, its role; for gs:// "
                "GOOGLE_APPLICATION_CREDENTIALS), and that it may do that"
            ) from error
        raise StoreError(
            f"{url} cannot be {what}, after repeated tries: {type(error).__name__}: {why}; when the store answers, run "
            "the same command again"
        ) from error
