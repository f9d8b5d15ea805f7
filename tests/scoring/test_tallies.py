"""Protects what is said of the kinds of errors: counts that add up, tails and loops that are found and not invented."""

from collections import Counter

import pytest

from shibolet.records.documents.scores import FrequentError, Loops
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.tallies import frequent_errors, insertion_tail, loops
from shibolet.speech.text.repetition import repeats_beyond, times_repeated


def row(id: str, reference: str, hypothesis: str) -> ScoredRow:
    utterance = Utterance(id=id, audio=AudioRef(path=""), text=reference, duration_s=1.0, source="s")
    return score_row(utterance, hypothesis, set="d1", normaliser=str.strip)


ROWS = [
    row("a", "א ב ג", "א x ג"),
    row("b", "א ב ג", "א x"),
    row("c", "ד", "ד ד y"),
    row("d", "", ""),
    row("e", "א", ""),
]


def test_frequent_errors_add_up_to_the_counts_in_any_order_of_the_rows() -> None:
    found = frequent_errors(ROWS)
    assert found.substitutions == (FrequentError(said="ב", heard="x", times=2),)
    for kind in ("deletions", "insertions", "substitutions"):
        assert sum(one.times for one in getattr(found, kind)) == sum(getattr(row.words, kind) for row in ROWS)
    assert frequent_errors(ROWS[::-1]) == found
    assert len(frequent_errors([row("x", "", " ".join(map(str, range(99))))]).insertions) == 50


def test_insertions_that_pile_up_are_named() -> None:
    rows = [row(f"u{i}", "א ב ג", "א ב ג x") for i in range(100)] + [row("mad", "א ב ג", "א ב ג" + " z" * 100)]
    tail = insertion_tail(rows)
    assert (tail.insertions, tail.most_in_one, tail.runaway_ids) == (200, 100, ("mad",))
    assert (tail.worst_utterances, tail.share_of_worst) == (1, 0.5)
    assert insertion_tail([row("a", "א", "א")]).share_of_worst is None


def test_loops_are_counted_once_an_utterance() -> None:
    rows = [row("a", "א ב", "א ב א ב א ב א ב"), row("b", "לא לא לא לא", "לא לא לא לא"), row("c", "א", "א")]
    assert loops(rows) == Loops(utterances=1, rate=1 / 3, ids=("a",), written_again=0)


@pytest.mark.parametrize(
    ("text", "times"),
    [("", 0), ("א", 1), ("א ב ג", 1), ("א א א", 3), ("x א ב א ב א ב y", 3), ("א ב ג א ב ג א", 2)],
)
def test_times_repeated(text: str, times: int) -> None:
    assert times_repeated(text.split()) == times


@pytest.mark.parametrize(
    ("hypothesis", "reference", "loop"),
    [
        ("כן כן כן", "", False),
        ("כן כן כן כן", "", True),
        ("כן כן כן כן", "כן כן כן כן כן", False),  # it was said
        ("אההההההההההההה", "אה", True),
        ("אהההה", "אה", False),
        ("123 123", "", False),
    ],
)
def test_what_a_loop_is(hypothesis: str, reference: str, loop: bool) -> None:
    assert repeats_beyond(hypothesis, reference) is loop


def test_counts_are_of_whole_words() -> None:
    assert Counter(one.times for one in frequent_errors(ROWS).deletions) == {1: 2}
