"""Protects the nearest reading of two systems: how it is written is no error, and both are held to one reference."""

import pytest

from shibolet.errors import DataError
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.nearest import in_nearest_reading
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.slices import pool
from shibolet.speech.text import get_language

ENGLISH = get_language("English")


def rows(*pairs: tuple[str, str]) -> list[ScoredRow]:
    return [
        score_row(
            Utterance(id=str(place), audio=AudioRef(path=""), text=said, duration_s=1.0, source="s", recording=None),
            heard, set="here", normaliser=ENGLISH.to_scoring,
        )
        for place, (said, heard) in enumerate(pairs)
    ]  # fmt: skip


SAID = ("TWO SIX EIGHT", "J O H N", "ENTER FIFTY FOUR")


def test_another_writing_is_no_error_and_another_word_is_one() -> None:
    before = rows(*zip(SAID, ("268.", "JOHN", "N or 54."), strict=True))
    after = rows(*zip(SAID, ("TWO SIX EIGHT", "J O H M", "ENTER FIFTY FOUR"), strict=True))
    near_before, near_after = in_nearest_reading([before, after], ENGLISH)
    assert pool(before).words.errors == 10 and pool(after).words.errors == 1
    assert [row.words.errors for row in near_before] == [0, 0, 2]
    assert [row.words.errors for row in near_after] == [0, 1, 0]
    assert near_before[1].heard == "j o h n" and near_before[1].hypothesis == "JOHN"


def test_one_reference_has_one_reading_whoever_comes_first() -> None:
    """ "110" may be said in ways of other lengths; each alone would read it as the own hypothesis has it."""
    before, after = rows(("room 110", "room one ten")), rows(("room 110", "room one hundred and ten"))
    read = in_nearest_reading([before, after], ENGLISH)
    assert read[0][0].said == read[1][0].said
    assert {own[0].words.reference_length for own in read} == {len(read[0][0].said.split())}
    assert in_nearest_reading([after, before], ENGLISH) == read[::-1], "as many errors in either: a tie"
    assert [own[0].words.errors for own in in_nearest_reading([before], ENGLISH)] == [0]
    assert [own[0].words.errors for own in in_nearest_reading([after], ENGLISH)] == [0]


def test_systems_must_have_the_same_utterances() -> None:
    one, two = rows(("a b", "ab")), rows(("a c", "ac"))
    with pytest.raises(DataError, match="'0' of set 'here' differs"):
        in_nearest_reading([one, two], ENGLISH)
    with pytest.raises(DataError, match="1, 0 scored utterances"):
        in_nearest_reading([one, []], ENGLISH)
    assert in_nearest_reading([[], []], ENGLISH) == [[], []]
