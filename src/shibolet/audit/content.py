"""Content ids in numbers: 16 hexadecimal digits each, kept as the 64 bits that they are."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np


class ContentIds(Sequence[str]):
    """A list of content ids; memory has 8 bytes of each."""

    def __init__(self) -> None:
        self.numbers = array("Q")

    def append(self, content_id: str) -> None:
        self.numbers.append(int(content_id, 16))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> str:
        return f"{self.numbers[place]:016x}"


class NumbersById:
    """A number, 0 or more, for each content id; memory has 16 bytes of both."""

    def __init__(self) -> None:
        self._ids, self._numbers = array("Q"), array("Q")  # ids in ascending order

    def add(self, ids: ContentIds, numbers: Iterable[int]) -> None:
        """Take in what is new; of equal ids the first stays."""
        together = np.concatenate([np.asarray(self._ids), np.asarray(ids.numbers)])
        theirs = np.concatenate([np.asarray(self._numbers), np.asarray(array("Q", numbers))])
        found, places = np.unique(together, return_index=True)
        self._ids, self._numbers = (array("Q", values.tobytes()) for values in (found, theirs[places]))

    def get(self, content_id: str) -> int | None:
        number = int(content_id, 16)
        place = bisect_left(self._ids, number)
        return self._numbers[place] if place < len(self._ids) and self._ids[place] == number else None

    def has(self, ids: ContentIds) -> np.ndarray:
        """Mask `[n]` of the ids that have a number."""
        return np.isin(np.asarray(ids.numbers), np.asarray(self._ids))

    def __len__(self) -> int:
        return len(self._ids)
