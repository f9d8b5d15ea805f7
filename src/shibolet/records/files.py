"""Files that are whole or absent: written beside their place, synced, renamed; and hashes of content."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from shibolet.errors import DiskError, ShiboletError
from shibolet.records.ahead import in_lanes

_FULL = (errno.ENOSPC, errno.EDQUOT)
_KEPT_BYTES = 16 << 20  # files from here on are not hashed again: 1 to 2 GB/s a core
_SETTLED_S = 2.0  # since the last change
_LANES = 8  # of files hashed at once
_BLOCK_BYTES = 8 << 20  # read and hashed without Python's lock; in small ones each would have to wait for it twice
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
_NO_HANDLE = (errno.EMFILE, errno.ENFILE)
_NO_PLACE = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG,
    errno.ELOOP, errno.EIO, errno.ESTALE, *_NO_HANDLE,
)  # fmt: skip


@contextmanager
def disk_errors(path: Path | None = None) -> Iterator[None]:
    """DiskError for what a full disk, a spent quota, or a place that cannot be read or written raises.

    It names the file, or `path` where the error has none.
    """
    try:
        yield
    except ShiboletError:
        raise
    except Exception as error:  # of several kinds: safetensors and tokenizers pass on Rust's text alone
        where, why = getattr(error, "filename", None) or path, getattr(error, "strerror", None) or error
        if _is_of(error, _FULL):
            raise DiskError(
                f"{where or 'a file'} could not be written: {why}; make room and run the same command again"
            ) from error
        is_without_place = isinstance(error, FileNotFoundError) and where is None  # tempfile: no folder of many
        if is_without_place or _is_of(error, _NO_PLACE):
            remedy = "give this account the right to read and write there, or name another place"
            if _is_of(error, _NO_HANDLE):
                remedy = "raise this shell's limit (ulimit -n) and run the same command again"
            raise DiskError(f"{where or 'a file'} cannot be used: {why}; {remedy}") from error
        raise


def _is_of(error: Exception, numbers: Sequence[int]) -> bool:
    """Whether the system's error is one of these."""
    return getattr(error, "errno", None) in numbers or any(f"(os error {no})" in str(error) for no in numbers)


def make_folder(path: Path) -> None:
    """A folder, and those above it, where there is none; DiskError where there cannot be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise DiskError(f"{path} cannot be a folder to write to ({error.strerror}); name another place") from error


@contextmanager
def writing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, of which a reader, or a crash at any moment, sees the old one or the new one.

    One that is not `durable` does not wait for the disk: after a crash of the machine it may have anything in it.
    """
    make_folder(path.parent)
    # A name of its own: several jobs of an array, on several machines, may write the same file.
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        is_full = isinstance(error, OSError) and error.errno in _FULL
        if is_full and error.filename is None:  # what writes to an open file knows no name
            error.filename = str(path)
        raise
    if durable:
        sync_dir(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, as `writing` does."""
    with writing(path) as file:
        file.write(content)


def take_over(source: Path, target: Path) -> None:
    """Put files of one place at another, as links where both are on one disk; files that are there already stay.

    A link is safe since nobody writes into a file here: it is written anew and renamed.
    """
    for file in [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source) if source.is_dir() else target
        if place.exists():
            continue
        make_folder(place.parent)
        try:
            os.link(file, place)
        except FileExistsError:  # another job of an array was first
            continue
        except OSError:  # another disk, or one that has no links
            with file.open("rb") as original, writing(place) as copy:
                shutil.copyfileobj(original, copy)


def sync_dir(path: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    with writing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)


def read_json(path: Path) -> Any:
    with open_regular(path) as file:
        return json.loads(file.read().decode())


def read_jsonl(path: Path) -> list[dict]:
    """One object a line; not `splitlines`, which also breaks at U+2028 inside a transcript."""
    with open_regular(path) as file:
        return [json.loads(line) for line in file.read().decode().split("\n") if line]


def open_regular(path: Path, buffer_bytes: int = -1) -> BinaryIO:
    """A file to read; OSError for a pipe or a device, which may never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.open("rb", buffer_bytes)


def hash_json(value: Any) -> str:
    """Content hash of plain data, independent of key order (16 hex digits of SHA-256)."""
    return hashlib.sha256(_ENCODER.encode(value).encode()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Content hash of a file (16 hex digits of SHA-256); of a large one it is kept, by size, times and place on disk.

    A kept hash is believed while the file's change time is the same, which no program can set back.
    """
    return _hashed(path, 16)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, all 64 digits; kept as by `hash_file`."""
    return _hashed(path, 64)


def _hashed(path: Path, num_digits: int) -> str:
    with open_regular(path, 0) as file:
        before = os.fstat(file.fileno())
        is_settled = time.time() - before.st_ctime > _SETTLED_S
        is_kept = before.st_size >= _KEPT_BYTES
        if is_kept and len(found := _read_kept(before) or "") >= num_digits:
            return found[:num_digits]
        found = _digest(file)
        after = os.fstat(file.fileno())
    # A change so soon after another may leave the times as they are.
    if is_kept and is_settled and _state(after) == _state(before):
        _keep(before, found)
    return found[:num_digits]


def _digest(file: BinaryIO) -> str:
    """SHA-256 of what an unbuffered file holds."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(_BLOCK_BYTES, os.fstat(file.fileno()).st_size + 1)))
    while num_bytes := file.readinto(block):
        digest.update(block[:num_bytes])
    return digest.hexdigest()


def hash_files(paths: Sequence[Path]) -> list[str]:
    """`hash_file` of each in order, large ones several at once: neither reading nor hashing holds Python's lock."""
    large = [path for path in paths if path.stat().st_size >= _KEPT_BYTES]
    found = dict(zip(large, in_lanes(hash_file, large, _LANES), strict=True))
    return [found[path] if path in found else hash_file(path) for path in paths]


def remember_hash(path: Path, found: str) -> None:
    """Keep a large file's hash, taken of its bytes while this program wrote them: `hash_file` then reads none of it.

    For a file that is whole and has its last name: a rename of it, or a link to it, is a new state, which may be
    remembered in its turn. Nobody else may write into it before this returns; a change after that is seen.
    """
    with suppress(OSError, ShiboletError):  # a cache that cannot be written costs time alone
        before = path.stat()
        if (
            before.st_size >= _KEPT_BYTES
            and _clock_went_on(path.parent, before)
            and _state(path.stat()) == _state(before)
        ):
            _keep(before, found)


def read_through(path: Path) -> None:
    """Have a file in the system's memory for whoever opens it next."""
    block = bytearray(_BLOCK_BYTES)
    with open_regular(path, 0) as file:
        while file.readinto(block):
            pass


def cache_dir() -> Path:
    """Where what can be made again is kept between rounds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shibolet"


def _clock_went_on(folder: Path, stat: os.stat_result) -> bool:
    """Wait until a change in this folder has a later time than a file's last one: a tick, on most disks 4 to 10 ms."""
    deadline = time.monotonic() + _SETTLED_S
    with tempfile.TemporaryFile(dir=folder) as probe:
        while os.fstat(probe.fileno()).st_ctime_ns <= stat.st_ctime_ns:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
            os.utime(probe.fileno())
    return True


def _state(stat: os.stat_result) -> str:
    """What changes whenever the bytes of a file do."""
    return hash_json([stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])


def _kept_at(stat: os.stat_result) -> Path:
    """Where the hash of a file is kept, under whichever of its names it is asked for."""
    return cache_dir() / "hashes" / f"{hash_json([stat.st_dev, stat.st_ino])}.json"


def _keep(stat: os.stat_result, found: str) -> None:
    key = _state(stat)
    content = json.dumps({"key": key, "hash": found, "check": hash_json([key, found])})
    with suppress(OSError, ShiboletError), writing(_kept_at(stat), durable=False) as file:
        file.write(content.encode())


def _read_kept(stat: os.stat_result) -> str | None:
    key = _state(stat)
    try:
        with open_regular(_kept_at(stat)) as file:
            kept = json.load(file)
        is_whole = kept["key"] == key and kept["check"] == hash_json([key, kept["hash"]])
        return kept["hash"] if is_whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
