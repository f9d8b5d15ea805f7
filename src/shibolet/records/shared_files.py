"""Files that several machines add to one folder of a store, such as the evidence of the jobs of an array.

A file is written once, whole, under a name that its content gives it, and never changed. So there is no index and no
lock: whoever is first writes what the others would, and nobody deletes anything.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from shibolet.records import store
from shibolet.records.batches import at_once
from shibolet.records.files import open_regular
from shibolet.records.objects import download

SUFFIXES = (".jsonl", ".json")  # of evidence, and of the window that a recogniser hears with
_LANES = 8  # files on their way at once


class SharedFiles:
    """A folder of this machine, and the one in the store that it shares with others."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url.rstrip("/")
        self._there: set[str] = set()  # names in the store, as far as this process knows

    def fetch(self) -> int:
        """Fetch what others have sent; the number of files. StoreError."""
        self._there = set(store.names_in(self._url))
        wanted = (name for name in sorted(self._there) if name.endswith(SUFFIXES))
        absent = [name for name in wanted if not (self._folder / name).exists()]
        at_once(lambda name: download(f"{self._url}/{name}", self._folder / name), absent, _LANES)
        return len(absent)

    def send(self) -> bool:
        """Send what is new here; false where nothing is. StoreError."""
        if self._there.issuperset(own := set(self._names())):
            return False
        self._there.update(store.names_in(self._url))  # jobs that share a disk send the same files
        at_once(self._send_file, sorted(own - self._there), _LANES)
        self._there |= own
        return True

    def _send_file(self, name: str) -> None:
        with suppress(FileNotFoundError):  # set aside meanwhile, as not being what was written
            with open_regular(self._folder / name) as file:
                content = file.read()
            store.write(f"{self._url}/{name}", content)

    def _names(self) -> Iterator[str]:
        for parent, _, names in os.walk(self._folder):
            for name in names:
                if name.endswith(SUFFIXES):
                    yield Path(parent, name).relative_to(self._folder).as_posix()
