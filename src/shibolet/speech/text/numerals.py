"""What is written with digits and signs, as the lattice of its readings; how a language says numbers is data.

A word is cut into numbers, letters and signs, which are read one after the other. A run of digits is read in chunks of
one to four, each as a number of its own, so that "2685952" is also "two sixty eight fifty nine fifty two".
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from shibolet.speech.text.lattice import MAX_EDGES, Lattice, Slots, Ways

MAX_DIGITS = 20  # of one word that are read in chunks; more are read digit by digit
MAX_CHUNK_DIGITS = 4
MAX_CARDINAL_DIGITS = 12
DIGITS = frozenset("0123456789")
KINDS = ("unit", "long", "zero", "tens", "hundreds")  # of chunks, by their end
_PIECE = re.compile(r"[0-9]+(?:[.,:/][0-9]+)*|[^\W\d_]+(?:[\"'][^\W\d_]+)*'?|\S")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")  # 12,345,678
_SEPARATOR = re.compile(r"[.,:/]")

Run = Callable[[str, int, int], None]  # adds the readings of a run of digits from one node to another
# Adds readings of a whole number, from one node to another: given are its runs of digits and what separates them.
Special = Callable[[Ways, int, int, Sequence[str], str, Run], None]


def _nothing_special(ways: Ways, start: int, end: int, numbers: Sequence[str], separators: str, run: Run) -> None:
    """No dates, clock times or fractions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberWords:
    """How a language says numbers. A cardinal or ordinal comes in one or more ways, each a row of slots."""

    digits: Mapping[str, Sequence[str]]  # "0" -> names of a single digit
    cardinals: Callable[[int], Iterable[Slots]]  # of a number from 0 to 12 digits
    ordinals: Callable[[int], Iterable[Slots]]  # of a number of up to 4 digits; none is fine
    chunks: Callable[[str], Iterable[Slots]] = lambda digits: ()  # other ways for 2 to 4 digits inside a number
    repeats: Mapping[int, Sequence[str]]  # 2 -> "double", before a digit that stands twice
    separators: Mapping[str, Sequence[str]]  # "." -> "point"; "" where it may be silent
    signs: Mapping[str, Sequence[str]]  # "%" -> "percent"
    follow: str = "$€£₪¥"  # signs that are said after the number before which they stand
    teens_end_in_ten: bool = False  # whether "three ten" may be 13
    one_follows: bool = False  # whether "1%" is said as "percent one"
    cents: Mapping[str, Sequence[str]]  # "$" -> "cents"; "" where it may be silent
    conjunctions: Sequence[str]  # between dollars and cents
    units: Mapping[str, Sequence[str]]  # "km" -> "kilometers", after a number
    endings: Mapping[str, Callable[[int], Iterable[Slots]]]  # "th" -> ways to say the last chunk of "12th"
    special: Special = _nothing_special


def has_number(word: str, rules: NumberWords) -> bool:
    """Whether a digit or a sign of these rules stands in a word."""
    return any(char in DIGITS or char in rules.signs for char in word)


def word_reader(rules: NumberWords, read_other: Callable[[str], Lattice | None]) -> Callable[[str], Lattice | None]:
    """A language's `reader`: a lower-case word with a number by its rules, any other by `read_other`; both kept."""
    number = lru_cache(1024)(lambda word: read_number(word, rules))  # some hundred edges each
    other = lru_cache(65536)(read_other)
    is_number = lru_cache(65536)(lambda word: has_number(word, rules))
    return lambda word: number(word) if is_number(word) else other(word)


def read_number(word: str, rules: NumberWords) -> Lattice | None:
    """The readings of a word that has a digit or a sign; None where there is only one."""
    pieces = _PIECE.findall(word)
    is_long = sum(char in DIGITS for char in word) > MAX_DIGITS
    lattice = _read(word, pieces, rules, MAX_CHUNK_DIGITS if not is_long else 1).close()
    if lattice and len(lattice.edges) > MAX_EDGES:
        lattice = _read(word, pieces, rules, 1).close()
    return lattice if lattice and len(lattice.edges) <= MAX_EDGES else None


def _read(word: str, pieces: list[str], rules: NumberWords, max_chunk: int) -> Ways:
    """All ways to read the pieces in a row; a sign such as "$" is said after the number beside it."""
    ways, node, place = Ways(word), Ways.start, 0
    while place < len(pieces):
        piece, later = pieces[place], pieces[place + 1] if place + 1 < len(pieces) else ""
        money = piece if piece in rules.follow and later[:1].isdigit() else ""
        if money:
            piece, place = later, place + 1
            later = pieces[place + 1] if place + 1 < len(pieces) else ""
        elif piece[0] in DIGITS and later and later in rules.follow:
            money, place = later, place + 1
        ending = rules.endings.get(later)
        place += 2 if ending and not money else 1
        goal = Ways.end if place >= len(pieces) else ways.node()
        if piece[0] in DIGITS:
            number = _Number(ways, rules, max_chunk, None if money else ending)
            number.add(piece, node, goal, money)
        elif piece in rules.signs:
            ways.add(node, goal, [rules.signs[piece]])
        else:
            is_unit = place > 1 and (pieces[place - 2][0] in DIGITS or pieces[place - 2] in rules.signs)  # "5km", "5°c"
            ways.add(node, goal, [(piece, *(rules.units.get(piece, ()) if is_unit else ()))])
        node = goal
    return ways


@dataclass(frozen=True, slots=True)
class _Number:
    """Adds the readings of one number with its separators to a word's ways."""

    ways: Ways
    rules: NumberWords
    max_chunk: int
    ending: Callable[[int], Iterable[Slots]] | None

    def add(self, piece: str, start: int, end: int, money: str) -> None:
        """Of a number such as "1,234.50" with the sign that is said after it, or "" for none."""
        piece = _GROUPED.sub(lambda grouped: grouped[0].replace(",", ""), piece, count=1)
        numbers, separators = _SEPARATOR.split(piece), "".join(_SEPARATOR.findall(piece))
        if not money:
            self._chain(numbers, separators, start, end)
            return
        before = self.ways.node()
        self._chain(numbers, separators, start, before)
        self.ways.add(before, end, [self.rules.signs[money]])
        if piece == "1" and self.rules.one_follows:
            self.ways.add(start, end, [self.rules.signs[money], self.rules.digits["1"]])
        if separators == "." and len(numbers[1]) == 2 and money in self.rules.cents:  # dollars and cents
            major, minor, cents = self.ways.node(), self.ways.node(), self.ways.node()
            self.run(numbers[0], start, major)
            if numbers[1] == "00":
                self.ways.add(major, end, [self.rules.signs[money]])
            self.ways.add(major, minor, [self.rules.signs[money], self.rules.conjunctions])
            self.run(numbers[1].lstrip("0") or "0", minor, cents)
            self.ways.add(cents, end, [self.rules.cents[money]])
            self._chain(numbers, separators, start, end)  # "two fifty"

    def _chain(self, numbers: list[str], separators: str, start: int, end: int) -> None:
        if self.max_chunk > 1:
            self.rules.special(self.ways, start, end, numbers, separators, self.run)
        for place, digits in enumerate(numbers):
            is_last = place == len(numbers) - 1
            after = end if is_last else self.ways.node()
            self.run(digits, start, after, self.ending if is_last else None)
            if not is_last:
                start = self.ways.node()
                self.ways.add(after, start, [self._said_between(digits, separators[place], numbers[place + 1])])

    def _said_between(self, before: str, separator: str, after: str) -> Sequence[str]:
        """What is said for a separator; nothing only where two numbers would not sound like another one."""
        is_heard = _merges(_kind(before), after, self.rules) or (separator == "." and len(after) == 1)
        return [name for name in self.rules.separators[separator] if name or not is_heard]

    def run(self, digits: str, start: int, end: int, ending: Callable[[int], Iterable[Slots]] | None = None) -> None:
        """Every way to say a run of digits; with an ending, only those that have it."""
        size, nodes = len(digits), {(0, ""): start}  # a node for each place and kind of chunk before it
        for i, before in ((i, kind) for i in range(size) for kind in ("", *KINDS)):
            if (i, before) not in nodes:
                continue
            for j in range(i + 1, min(size, i + self.max_chunk) + 1):
                chunk = digits[i:j]
                if _merges(before, chunk, self.rules) or (i and len(chunk) > 2 and chunk != "000"):
                    continue
                if j < size and (j, _kind(chunk)) not in nodes:
                    nodes[j, _kind(chunk)] = self.ways.node()
                goal = end if j == size else nodes[j, _kind(chunk)]
                for way in self._ways_of(chunk) if j < size or not ending else ():
                    self.ways.add(nodes[i, before], goal, way)
                if j == size and (chunk[0] != "0" or digits == "0"):
                    for way in (ending or self.rules.ordinals)(int(chunk)):
                        self.ways.add(nodes[i, before], end, way)
        if ending:
            return
        self.ways.add(start, end, [(digits,)])
        if 1 < self.max_chunk < size <= MAX_CARDINAL_DIGITS and digits[0] != "0":
            for way in self.rules.cardinals(int(digits)):
                self.ways.add(start, end, way)

    def _ways_of(self, chunk: str) -> Iterable[Slots]:
        if len(chunk) == 1:
            yield [self.rules.digits[chunk]]
            return
        if chunk[0] != "0":
            yield from self.rules.cardinals(int(chunk))
        yield from self.rules.chunks(chunk)
        if len(set(chunk)) == 1 and len(chunk) in self.rules.repeats:
            yield [self.rules.repeats[len(chunk)], self.rules.digits[chunk[0]]]


def _kind(chunk: str) -> str:
    """How a chunk ends, which says what it would take up: "twenty" does "five", "one thousand and two" does "hundred".

    A long one has three digits or more and is not round.
    """
    if len(chunk) == 1 or chunk.endswith("10"):
        return "zero" if chunk[-1] == "0" else "unit"
    if chunk[-1] != "0":
        return "unit" if len(chunk) == 2 else "long"
    return "hundreds" if chunk.endswith("00") else "tens"


def _merges(before: str, chunk: str, rules: NumberWords) -> bool:
    """Whether a chunk after one of this kind would sound like another number: "205" is not "twenty five"."""
    if before in ("unit", "long"):
        return (rules.teens_end_in_ten and chunk == "10") or (before == "long" and chunk == "00")
    return chunk[0] != "0" and (before == "hundreds" or (before == "tens" and len(chunk) != 2))
