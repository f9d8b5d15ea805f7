"""A run folder in a store of objects, so that another machine can go on with the round.

    <url>/objects/<sha256>   the files, by content: written once, never changed
    <url>/index.json         which file of the run folder has which content; written last
    <url>/report.html        the page once more, for people

Whoever reads the index finds a run folder as it was at one moment, with its markers of stages: never half a stage. What
was there before stays until the next version is there too.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from shibolet.errors import DataError, StoreError
from shibolet.records import store
from shibolet.records.batches import at_once
from shibolet.records.documents.mirrored import MirroredFile, MirrorIndex, MirrorState
from shibolet.records.files import digest_file, open_regular
from shibolet.records.objects import download
from shibolet.records.reading import parse_own

STATE = ".mirror.json"
_INDEX, _PAGE = "index.json", "report.html"
_OWN = (STATE, ".lock")  # of this machine alone, as are files that are being written
_CACHES = ("encoder_cache", "teacher_cache")  # are filled again
_FIRST = "train/checkpoints/"  # before the records of training, which may have more lines than a checkpoint knows of
_MARKERS = ".stages"  # the folder of them
_LARGE_BYTES = 16 << 20  # smaller files are read at once: what is appended meanwhile is of the next version
_LANES = 8  # objects on their way at once
_PASSES = 5  # over a folder that changes meanwhile

Stamp = tuple[int, ...]


class _Moved(Exception):
    """The folder changed while it was sent, so that what was sent may belong to two moments."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A file that was sent, and how it stood on disk."""

    stamp: Stamp
    file: MirroredFile


class Mirror:
    """The copy of one run folder; one process at a time sends to it."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self.url = folder, url.rstrip("/")
        self._versions: tuple[str, ...] = ()  # of the index that this folder goes on from
        self._files: Mapping[str, MirroredFile] = {}  # of that index
        self._there: set[str] = set()  # objects in the store
        self._known: dict[str, _Known] = {}

    def open(self) -> str:
        """Fetch the round where this folder is empty; a sentence on what was done.

        DataError where folder and store hold different rounds, or different states of one; StoreError.
        """
        store.require_writable(self.url)
        index, state = self._read_index(), self._state()
        self._there = set(store.names_in(f"{self.url}/objects"))
        if index is None:
            self._remember((), is_whole=True)
            return f"mirror: {self.url} is empty; this run folder goes there"
        self._versions, self._files = (index.version,), index.files
        if (state is None and not any(self._paths())) or (state is not None and not state.is_whole):
            self._remember(self._versions, is_whole=False)
            said = self._told(index, self._fetch(index))
            self._remember(self._versions, is_whole=True)
            return said
        if state is None or index.version not in state.versions:
            raise DataError(
                f"{self.url} holds a round as {index.host} left it at {index.time}, and {self._folder} does not go on "
                "from that. To go on from the store, name a new folder with -o; to keep this folder, name another "
                "place with --mirror"
            )
        self._remember(self._versions, is_whole=True)
        return f"mirror: {self.url} goes on from this run folder"

    def claim(self) -> None:
        """Have a folder that is still empty be fetched from here when it is opened, whatever is put there until then.

        What jobs of an array heard may come to lie there, and is in the store beside this mirror.
        """
        if self._state() is None and not any(self._paths()):
            self._remember((), is_whole=False)

    def pull(self) -> str:
        """Fetch the round into an empty folder that does not go on with it; a sentence on what was done.

        DataError where the folder is not empty; StoreError.
        """
        if any(self._paths()):
            raise DataError(f"{self._folder} is not empty; name a new folder")
        if (index := self._read_index()) is None:
            raise StoreError(f"{self.url} has no run folder: there is no {_INDEX} in it")
        return self._told(index, self._fetch(index))

    def _told(self, index: MirrorIndex, num_bytes: int) -> str:
        what = f"{len(index.files):,} files ({num_bytes / 1e6:,.1f} MB)"
        return f"mirror: fetched {what} from {self.url}, as {index.host} left them at {index.time}"

    def send(self) -> bool:
        """Bring the store up to the folder as it is now; false where it has not changed, or changes too fast.

        StoreError where the store cannot be written, or somebody else has written there.
        """
        for _ in range(_PASSES):
            try:
                files = self._send_files()
            except _Moved:
                continue
            if files == self._files:
                return False
            self._write_index(files)
            return True
        return False

    def _write_index(self, files: Mapping[str, MirroredFile]) -> None:
        """Make the files that were sent the folder's state in the store."""
        found = self._read_index()
        if (found and found.version) not in (self._versions or (None,)):
            what = f"written by {found.host} at {found.time}" if found else "deleted"
            raise StoreError(
                f"{self.url} was {what}, and not by this command: one machine works on a round; end the other command, "
                "or name another place with --mirror"
            )
        index = MirrorIndex(
            version=uuid4().hex, host=socket.gethostname(), time=datetime.now(UTC).isoformat(timespec="seconds"),
            files=files,
        )  # fmt: skip
        # A crash may come before or after the index stands.
        self._remember((*self._versions, index.version), is_whole=True)
        store.write(f"{self.url}/{_INDEX}", (json.dumps(index.to_json(), ensure_ascii=False) + "\n").encode())
        page, shown = files.get(_PAGE), self._files.get(_PAGE)
        # Somebody may be reading the version before; what it has goes with the next one.
        used = {file.sha256 for version in (files, self._files) for file in version.values()}
        garbage = sorted(self._there - used)
        self._versions, self._files = (index.version,), files
        self._remember(self._versions, is_whole=True)
        if page and page != shown:
            store.write(f"{self.url}/{_PAGE}", (self._folder / _PAGE).read_bytes())
        store.delete([self._object(sha256) for sha256 in garbage])
        self._there -= set(garbage)

    def _send_files(self) -> dict[str, MirroredFile]:
        """Have every file of the folder in the store, and which there are; _Moved where that changed meanwhile."""
        markers = self._markers()
        paths = sorted(self._paths(), key=lambda path: (_FIRST not in path, path))
        sent = at_once(self._send_file, paths, _LANES)
        if self._markers() != markers:
            raise _Moved
        self._known = dict(zip(paths, sent, strict=True))
        return {path: known.file for path, known in sorted(self._known.items())}

    def _send_file(self, path: str) -> _Known:
        file = self._folder / path
        try:
            stamp = _stamp(file.stat())
            if (known := self._known.get(path)) and known.stamp == stamp:
                return known
            content, num_bytes = None, stamp[0]
            if num_bytes < _LARGE_BYTES:
                with open_regular(file) as opened:
                    content = opened.read()
                sha256, num_bytes = hashlib.sha256(content).hexdigest(), len(content)
            else:
                sha256 = digest_file(file)
            if sha256 not in self._there:
                self._send_object(file, sha256, content)
            if content is None and _stamp(file.stat()) != stamp:
                raise _Moved
        except FileNotFoundError:
            raise _Moved from None
        return _Known(stamp, MirroredFile(sha256=sha256, bytes=num_bytes))

    def _send_object(self, file: Path, sha256: str, content: bytes | None) -> None:
        try:
            if content is None:
                store.upload(file, self._object(sha256))
            else:
                store.write(self._object(sha256), content)
        except store.NoObject:
            if file.exists():  # the bucket is not there
                raise
            raise _Moved from None
        self._there.add(sha256)

    def _fetch(self, index: MirrorIndex) -> int:
        """Make the folder what the index says, markers last; the bytes that were fetched."""
        for path in self._paths():
            if path not in index.files:  # of another version that was fetched in part
                (self._folder / path).unlink()
        paths = sorted(index.files, key=lambda path: (_is_marker(path), path))
        return sum(at_once(lambda path: self._fetch_file(path, index.files[path]), paths, _LANES))

    def _fetch_file(self, path: str, wanted: MirroredFile) -> int:
        file = self._folder / path
        if file.is_file() and file.stat().st_size == wanted.bytes and digest_file(file) == wanted.sha256:
            return 0
        if download(self._object(wanted.sha256), file) != wanted.sha256:
            file.unlink()
            raise StoreError(
                f"{self._object(wanted.sha256)} is not what was written there; delete {self.url}/{_INDEX} to give the "
                "copy up, or put the object back"
            )
        return wanted.bytes

    def _object(self, sha256: str) -> str:
        return f"{self.url}/objects/{sha256}"

    def _read_index(self) -> MirrorIndex | None:
        url = f"{self.url}/{_INDEX}"
        try:
            content = store.read(url, 0, store.info(url).size)
        except store.NoObject:
            return None
        try:
            return MirrorIndex.from_json(parse_own(content), url)
        except ValueError as error:
            raise StoreError(f"{url} is not whole ({error}); {MirrorIndex.REMEDY}") from error

    def _state(self) -> MirrorState | None:
        """How this folder stood to the same place; None for a folder that was never there."""
        if not (self._folder / STATE).is_file():
            return None
        state = MirrorState.read(self._folder / STATE)
        return state if state.url == self.url else None

    def _remember(self, versions: tuple[str, ...], *, is_whole: bool) -> None:
        MirrorState(url=self.url, versions=versions, is_whole=is_whole).write(self._folder / STATE)

    def _markers(self) -> dict[str, bytes]:
        return {path: (self._folder / path).read_bytes() for path in self._paths() if _is_marker(path)}

    def _paths(self) -> Iterator[str]:
        """Files of the folder that belong to the round, by their path in it."""
        for parent, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.endswith(".partial") and not name.startswith(_CACHES)]
            above = os.path.relpath(parent, self._folder)
            for name in names:
                path = os.path.normpath(os.path.join(above, name))
                if name not in _OWN and not name.endswith(".partial"):
                    yield path


def _is_marker(path: str) -> bool:
    """Of a stage, of this run folder or of one in it: a loop has several."""
    return _MARKERS in path.split("/")


def _stamp(stat: os.stat_result) -> Stamp:
    """Size in bytes first; what changes with every writing."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def mirror_of(folder: Path) -> str | None:
    """Where the mirror of a run folder is; None where it has none."""
    return MirrorState.read(folder / STATE).url if (folder / STATE).is_file() else None
