"""Protects from a WER that leaves out what is empty: every empty side has a defined count."""

import pytest

from shibolet.scoring.counts import EditCounts, align_words, count_chars, count_words


@pytest.mark.parametrize("blank", ["", " ", "\n "])
def test_both_empty(blank: str) -> None:
    assert count_words(blank, "") == count_words("", blank) == count_chars(blank, "") == EditCounts()
    assert align_words(blank, "") == []


def test_empty_hypothesis_deletes_every_word() -> None:
    assert count_words("שלום עולם", "") == EditCounts(deletions=2)
    assert count_words("שלום עולם", " ").rate == 1.0
    assert count_chars("אב ג", "") == EditCounts(deletions=4)
    assert align_words("שלום עולם", "") == [("del", "שלום", None), ("del", "עולם", None)]


def test_empty_reference_counts_insertions_and_has_no_rate() -> None:
    counts = count_words("", "שלום עולם")
    assert counts == EditCounts(insertions=2)
    assert counts.rate is None and counts.word_errors().rate is None
    assert align_words("", "שלום") == [("ins", None, "שלום")]


def test_its_insertions_raise_the_pooled_rate() -> None:
    assert (count_words("", "א ב") + count_words("א ב ג ד", "א ב ג ד")).rate == 0.5


def test_nothing_at_all_has_no_rate() -> None:
    assert sum([], EditCounts()).rate is None
