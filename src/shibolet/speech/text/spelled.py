"""Words that are spelled out: "JOHN" and "J O H N" are the same four letters, and how they are written is no content.

It knows no language. Shapes: W words that are read, N words of the other side.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

MAX_CELLS = 1_000_000  # words of one side times words of the other; above it they stay as written

_Path = tuple["_Path", tuple[str, ...]] | None  # the readings chosen so far, the last one first


def spelled_as(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """The words, with a word as its letters, or letters in a row as one word, where that takes fewer edits to `others`.

    At equal edits they stay as written. Where neither side has two letters in a row, nothing can be spelled.
    """
    if len(words) * len(others) > MAX_CELLS or not (_has_letters(words) or _has_letters(others)):
        return list(words)
    longest = max(map(len, others), default=0)
    rows: list[list[tuple[int, _Path]]] = [[] for _ in range(len(words) + 1)]
    rows[0] = [(place, None) for place in range(len(others) + 1)]
    for place in range(len(words)):
        for goal, reading in _readings(words, place, longest):
            row = [(cost, (path, reading)) for cost, path in _through(rows[place], reading, others)]
            rows[goal] = [min(pair, key=lambda one: one[0]) for pair in zip(rows[goal], row)] if rows[goal] else row
    chosen, path = [], rows[-1][-1][1]
    while path:
        path, reading = path
        chosen.append(reading)
    return [word for reading in reversed(chosen) for word in reading]


def _has_letters(words: Sequence[str]) -> bool:
    return any(_is_letter(one) and _is_letter(two) for one, two in pairwise(words))


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word.isalpha()


def _readings(words: Sequence[str], place: int, longest: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """What the word in a place may be read as, alone or with the letters after it, and the place after them.

    No more letters are joined than the longest word of the other side has.
    """
    word = words[place]
    yield place + 1, (word,)
    if len(word) > 1 and word.isalpha():
        yield place + 1, tuple(word)
    end, joined = place, ""
    while end < len(words) and _is_letter(words[end]) and len(joined) < longest:
        end, joined = end + 1, joined + words[end]
        if len(joined) > 1:
            yield end, (joined,)


def _through(row: list[tuple[int, _Path]], reading: tuple[str, ...], others: Sequence[str]) -> list[tuple[int, _Path]]:
    """Edits and readings to each word of the other side once the words of a reading are read too."""
    for word in reading:
        made = [(row[0][0] + 1, row[0][1])]
        for place, other in enumerate(others):
            (kept, diagonal), (above, deleted), (left, inserted) = row[place], row[place + 1], made[-1]
            steps = ((kept + (word != other), diagonal), (above + 1, deleted), (left + 1, inserted))
            made.append(min(steps, key=lambda one: one[0]))
        row = made
    return row
