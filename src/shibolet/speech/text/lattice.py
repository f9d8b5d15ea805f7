"""Ways to read one written word, and the way that is nearest to what stands on the other side.

A lattice is a graph whose edges carry what is said: "26" has the edges "twenty six", "two", "six" and "26". It knows no
language. Shapes: N letters of the other side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np

from shibolet.speech.text.rules import letters_of

Slots = Sequence[Sequence[str]]  # one after the other, each said in one of several ways; "" is said by silence
JOIN = "~"  # at the end of what is written as one word with what follows it
MAX_EDGES = 3000  # of one word; a longer one is too dear to read


@dataclass(frozen=True, slots=True)
class Lattice:
    """The readings of a word: every path from node 0 to the last node. Edges go up, in order of the node they leave."""

    num_nodes: int
    edges: tuple[tuple[int, int, str], ...]

    @property
    def num_letters(self) -> int:
        """Letters on all edges: what a search costs for each letter of the other side."""
        return sum(len(text) for _, _, text in self.edges)


class Ways:
    """Collects the readings of a word, from `start` to `end`."""

    start, end = 0, 1

    def __init__(self, written: str):
        """The written form itself is always a reading, and at equal distance the one that is chosen."""
        self._edges: dict[tuple[int, int, str], None] = {(self.start, self.end, written): None}
        self._num_nodes = 2

    def node(self) -> int:
        self._num_nodes += 1
        return self._num_nodes - 1

    def add(self, start: int, end: int, slots: Slots) -> None:
        """One more way from node to node."""
        for place, options in enumerate(slots):
            goal = end if place == len(slots) - 1 else self.node()
            for option in options:
                self._edges[start, goal, option] = None
            start = goal

    def close(self) -> Lattice | None:
        """The lattice without dead ends; None where the written form is all that there is."""
        if len(self._edges) == 1:
            return None
        alive = self._reach(self.start, 0, 1) & self._reach(self.end, 1, 0)
        edges = [edge for edge in self._edges if edge[0] in alive and edge[1] in alive]
        before: dict[int, set[int]] = {node: set() for node in alive}
        for start, goal, _ in edges:
            before[goal].add(start)
        number = {node: place for place, node in enumerate(TopologicalSorter(before).static_order())}
        numbered = ((number[start], number[goal], text) for start, goal, text in edges)
        return Lattice(len(alive), tuple(sorted(numbered, key=lambda edge: edge[0])))

    def _reach(self, node: int, near: int, far: int) -> set[int]:
        beside: dict[int, list[int]] = {}
        for edge in self._edges:
            beside.setdefault(edge[near], []).append(edge[far])
        seen, left = {node}, [node]
        while left:
            for other in beside.get(left.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    left.append(other)
        return seen


class _Rows:
    """Rows of the edit distance table against N code points, each kept as distance minus column, int32 [N + 1].

    In that form an insertion is a running minimum (Sellers, 1980, with numpy's `minimum.accumulate`).
    """

    def __init__(self, codes: np.ndarray):
        self._codes = codes
        self._mismatch: dict[str, np.ndarray] = {}

    def extend(self, row: np.ndarray, letter: str) -> np.ndarray:
        """The row after one more letter."""
        mismatch = self._mismatch.get(letter)
        if mismatch is None:
            mismatch = self._mismatch[letter] = (self._codes != ord(letter)).astype(np.int32) - 1
        longer = row + 1
        np.minimum(longer[1:], row[:-1] + mismatch, out=longer[1:])
        return np.minimum.accumulate(longer, out=longer)


def nearest(words: Sequence[str | Lattice], other: str) -> list[str]:
    """One reading for each word, so that their letters together have the fewest edits to `other`.

    Exact: a shortest path over nodes and places in the other side. Words given as text have that reading only.
    """
    other = letters_of(other)
    codes = np.array([ord(letter) for letter in other], np.int32)
    lattices = [word if isinstance(word, Lattice) else Lattice(2, ((0, 1, word),)) for word in words]
    table = _Rows(codes)
    first = np.zeros(len(other) + 1, np.int32)
    steps = []  # of each word the edges that arrive at each of its nodes
    for lattice in lattices:
        first, arriving = _walk(lattice, first, table)
        steps.append(arriving)
    column, readings = len(other), []
    for lattice, arriving in zip(reversed(lattices), reversed(steps)):
        node, said = lattice.num_nodes - 1, []
        while node:
            node, text, _, known = min(arriving[node], key=lambda edge: edge[2].item(column))
            column = _entry(known, letters_of(text), other, column)
            said.append(text)
        readings.append(" ".join(filter(None, reversed(said))).replace(f"{JOIN} ", ""))
    return readings[::-1]


# Of each node the edges that arrive there: where each begins, what it says, its row, and the rows of all beginnings of
# what edges say that begin there.
_Arriving = list[list[tuple[int, str, np.ndarray, dict[str, np.ndarray]]]]


def _walk(lattice: Lattice, first: np.ndarray, table: _Rows) -> tuple[np.ndarray, _Arriving]:
    """The row at the end of a word that begins with row `first`, and the edges that arrive at each node."""
    arriving: _Arriving = [[] for _ in range(lattice.num_nodes)]
    node, known = 0, {"": first}
    for start, goal, text in lattice.edges:
        if start != node:
            node, known = start, {"": _least(arriving[start])}  # readings that begin alike share the beginning
        letters = letters_of(text)
        done = next(length for length in range(len(letters), -1, -1) if letters[:length] in known)
        row = known[letters[:done]]
        for length in range(done + 1, len(letters) + 1):
            row = known[letters[:length]] = table.extend(row, letters[length - 1])
        arriving[goal].append((start, text, row, known))
    return _least(arriving[-1]), arriving


def _least(edges: list[tuple[int, str, np.ndarray, dict[str, np.ndarray]]]) -> np.ndarray:
    return np.minimum.reduce([row for _, _, row, _ in edges])


def _entry(known: dict[str, np.ndarray], letters: str, other: str, column: int) -> int:
    """The first place in the other side where an edge of these letters can begin that ends at `column`.

    A walk back through the table that goes left wherever it can, else to the left and up, else up.
    """
    for length in range(len(letters), -1, -1):
        row = known[letters[:length]]
        cost = row.item(column)
        while column and row.item(column - 1) == cost:
            column -= 1
        if column and length:
            is_other = letters[length - 1] != other[column - 1]
            column -= known[letters[: length - 1]].item(column - 1) + is_other - 1 == cost
    return column
