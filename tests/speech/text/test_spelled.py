"""Protects how spelled words are read: letters and words of the same letters are equal, and nothing else becomes so."""

import random
from itertools import pairwise

import pytest
from rapidfuzz.distance import Levenshtein

from shibolet.speech.text import spelled
from shibolet.speech.text.spelled import spelled_as


@pytest.mark.parametrize(
    ("words", "others", "expected"),
    [
        ("j o h m", "john", "johm"),
        ("john", "j o h n", "j o h n"),
        ("pri nce", "p r i n c e", "p r i n c e"),
        ("rob out kjz fm fifty four", "erase k j z f m fifty four", "rob out k j z f m fifty four"),
        ("i live in u s a", "i live in usa", "i live in usa"),
        ("ku and tz", "k u n t z", "k u and t z"),
        ("stevem", "s t e v e n", "s t e v e m"),
        ("john", "jon", "john"),  # no letters anywhere: nothing is spelled
        ("a man i saw", "a man eye saw", "a man i saw"),
        ("ab", "a b c d", "a b"),
        ("רדיו ג ל צ", "רדיו גלצ", "רדיו גלצ"),
        ("", "a b", ""),
        ("ab", "", "ab"),
    ],
)
def test_spelled_as(words: str, others: str, expected: str) -> None:
    assert " ".join(spelled_as(words.split(), others.split())) == expected


def test_the_reading_has_the_fewest_edits_of_all() -> None:
    """Against all readings one by one; a reading never has more edits than the words as written."""
    draw, gained = random.Random(3), 0
    for _ in range(300):
        words, others = ([draw.choice(["a", "b", "ab", "ba", "aba"]) for _ in range(draw.randint(0, 4))] for _ in "12")
        made = spelled_as(words, others)
        if not others:
            continue
        edits = Levenshtein.distance(made, others)
        if not any(len(one) == len(two) == 1 for side in (words, others) for one, two in pairwise(side)):
            assert made == words
            continue
        assert edits == min(Levenshtein.distance(way, others) for way in _all_ways(words, max(map(len, others))))
        gained += edits < Levenshtein.distance(words, others)
    assert gained > 15


def _all_ways(words: list[str], longest: int) -> list[list[str]]:
    """Each longer word whole or as its letters, and letters in a row joined in every way."""
    if not words:
        return [[]]
    (first, *rest), found = words, []
    for way in _all_ways(rest, longest):
        found += [[first, *way], [*first, *way]]
    end = 1
    while len(first) == 1 and end < min(len(words), longest) and len(words[end]) == 1:
        end += 1
        found += [["".join(words[:end]), *way] for way in _all_ways(words[end:], longest)]
    return found


def test_what_is_too_long_stays_as_written(monkeypatch) -> None:
    monkeypatch.setattr(spelled, "MAX_CELLS", 3)
    assert spelled_as(["ab"], ["a", "b"]) == ["a", "b"] and spelled_as(["ab"], ["a", "b", "c", "d"]) == ["ab"]
