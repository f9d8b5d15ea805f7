"""Evidence on disk, found by the content that it was heard from: nothing is heard twice, whatever it is called.

A file holds what was heard together: a line with the content ids, where each one's line begins and a hash of all of it,
then those lines. It is written whole or not at all and named by its ids, so several processes or machines may fill one
folder, and folders may be put together with `cp`. A file that is not as it was written is set aside and heard again.
"""

import hashlib
import json
import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.content import ContentIds, NumbersById
from shibolet.records.files import hash_json, write_bytes
from shibolet.records.spilled import SpilledDict

LOG = logging.getLogger(__name__)
OPEN_FILES = 16  # at once, of those that were read: what is heard together is rarely asked for together
_OFFSET_BITS = 40  # of a place: the file's number above, the offset in it below


def to_line(evidence: Evidence) -> bytes:
    return json.dumps(evidence.to_json(), ensure_ascii=False, allow_nan=False).encode()


def write_lines(folder: Path, lines: Mapping[str, bytes]) -> None:
    """Put lines that `to_line` made on disk by content id; a store's `refresh` finds them."""
    begins, position = {}, 0
    for content_id, line in lines.items():
        begins[content_id] = position
        position += len(line) + 1
    body = b"\n".join(lines.values()) + b"\n"
    head = {"begins": begins, "sha256": _checksum(begins, hashlib.sha256(body).hexdigest())}
    write_bytes(folder / f"{hash_json(list(lines))}.jsonl", json.dumps(head).encode() + b"\n" + body)


def _checksum(begins: Mapping[str, int], of_lines: str) -> str:
    return hash_json([begins, of_lines])


def _index(path: Path) -> tuple[dict[str, int], int] | None:
    """Where each content's line begins, and where the first does; None where the file is not as it was written."""
    with path.open("rb") as file:
        head = file.readline()
        try:
            found = json.loads(head)
            begins, said = found["begins"], found["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        whole = said == _checksum(begins, hashlib.file_digest(file, "sha256").hexdigest())
    return (begins, len(head)) if whole else None


class EvidenceStore:
    """Evidence by content id; memory holds 16 bytes of index for each, the rest stays on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[str] = []  # names
        self._places = NumbersById()
        self._open: dict[int, BinaryIO] = {}  # by number, the one that was opened first first
        self.refresh()

    def refresh(self) -> None:
        """Take in files that have come; where two have the same content the first by name stays."""
        known, ids, places = set(self._files), ContentIds(), array("Q")
        for name in sorted(path.name for path in self._folder.glob("*.jsonl")):
            if name in known:
                continue
            if (index := _index(path := self._folder / name)) is None:
                LOG.warning("%s is not as it was written; it is now %s.broken, and is heard again", path, path.name)
                with suppress(FileNotFoundError):  # another job was first
                    path.rename(path.with_name(f"{path.name}.broken"))
                continue
            begins, head_bytes = index
            for content_id, begin in begins.items():
                ids.append(content_id)
                places.append(len(self._files) << _OFFSET_BITS | head_bytes + begin)
            self._files.append(name)
        if ids:
            self._places.add(ids, places)

    def __contains__(self, content_id: str) -> bool:
        return self._places.get(content_id) is not None

    def holds(self, content_ids: ContentIds) -> np.ndarray:
        """Mask of those that it has, all at once."""
        return self._places.has(content_ids)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, content_id: str) -> dict:
        """JSON of the evidence; KeyError where there is none."""
        if (place := self._places.get(content_id)) is None:
            raise KeyError(content_id)
        number, offset = place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1
        if number not in self._open:
            if len(self._open) == OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = (self._folder / self._files[number]).open("rb")
        file = self._open[number]
        file.seek(offset)
        return json.loads(file.readline())

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


class HeardClips(Mapping[str, Evidence]):
    """Evidence by a clip's key, read from disk each time.

    `lost`, by content id, is why clips could not be heard in this run; no file has that, since it says nothing of them.
    """

    def __init__(
        self, store: EvidenceStore, clips: Sequence[Clip], content_ids: Sequence[str], lost: Mapping[str, Evidence]
    ) -> None:
        self._store, self._clips, self._lost, self._in_order = store, clips, lost, content_ids
        self._content_ids = SpilledDict()  # by key
        for clip, content_id in zip(clips, content_ids, strict=True):
            self._content_ids.add(clip.key, content_id)

    def __getitem__(self, key: str) -> Evidence:
        return self._read(key, self._content_ids[key])

    def _read(self, key: str, content_id: str) -> Evidence:
        if content_id in self._lost:
            return replace(self._lost[content_id], key=key)
        return Evidence.from_json(key, self._store.read(content_id))

    def in_order(self) -> Iterator[Evidence]:
        """Of each clip in the order of the list, without a search for its key."""
        return (self._read(clip.key, id) for clip, id in zip(self._clips, self._in_order, strict=True))

    def __iter__(self) -> Iterator[str]:
        return (clip.key for clip in self._clips)

    def __len__(self) -> int:
        return len(self._clips)
