"""Protects the number-aware rate: writing of numbers alone changes it, and nothing else does."""

import pytest

from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.number_aware import number_aware_wer
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.slices import pool, pool_by_slice
from shibolet.speech.text import get_language
from shibolet.speech.text.language import Language

ENGLISH = get_language("English")


def row(id: str, reference: str, hypothesis: str, domain: str | None = None) -> ScoredRow:
    utterance = Utterance(
        id=id, audio=AudioRef(path=""), text=reference, duration_s=1.0, source="s", recording=None, domain=domain
    )
    return score_row(utterance, hypothesis, set="here", normaliser=ENGLISH.to_scoring)


WORDS = [
    row("a", "Please call again.", "please call a gain", "phone"),
    row("b", "nobody heard this", "", "phone"),
    row("c", "it's late", "It's late!", "studio"),
    row("d", "", "something", None),
]
NUMBERS = [
    row("e", "call two six eight", "Call 268.", "phone"),
    row("f", "in 1999", "in nineteen ninety nine", "studio"),
    row("g", "room five", "room 6", "studio"),
]


def test_without_a_number_it_is_the_leaderboards_rate() -> None:
    aware = number_aware_wer(WORDS, ENGLISH)
    assert aware.wer == pool(WORDS).scores().wer and aware.wer.errors > 3
    assert aware.by_domain == {name: scores.wer for name, scores in pool_by_slice(WORDS).domains.items()}
    assert list(aware.by_domain) == ["phone", "studio", "unknown"]


def test_how_a_number_is_written_is_no_error_and_another_number_is_one() -> None:
    aware = number_aware_wer(NUMBERS, ENGLISH)
    assert pool(NUMBERS).words.errors == 3 + 3 + 1
    wer = aware.wer
    assert (wer.errors, wer.words, wer.substitutions) == (1, 4 + 4 + 2, 1), "1999 counts as three words"
    assert aware.by_domain["phone"].errors == 0 and aware.by_domain["studio"].rate == 1 / 6


def test_failures_stay_deleted_and_their_numbers_are_words() -> None:
    wer = number_aware_wer([row("a", "call 268 now", "")], ENGLISH).wer
    assert wer.deletions == wer.errors == wer.words >= 3


@pytest.mark.parametrize("rows", [WORDS, []])
def test_a_language_without_readings_has_no_such_rate(rows: list[ScoredRow]) -> None:
    """A rate that reads no numbers must not stand there under this name."""
    plain = Language(name="Plain", code="xx", letters="a-z", target_version="t", scoring_version="s")
    assert number_aware_wer(rows, plain) is None
