"""Protects the listing: its alignment is that of an independent 4/3/3 dynamic programme, and says what it is."""

import random
import time

import pytest

from shibolet.scoring.counts import EditCounts, count_words
from shibolet.scoring.sclite import Entry, align_weighted, listing

VOCABULARY = ["אבא", "בא", "גן", "דלת", "הוא", "ו", "זה", "אבאבא"]


def random_pairs(num: int, seed: int = 3) -> list[tuple[list[str], list[str]]]:
    rng = random.Random(seed)
    return [tuple(rng.choices(VOCABULARY, k=rng.randint(0, 12)) for _ in range(2)) for _ in range(num)]  # type: ignore[misc]


def least_weight(reference: list[str], hypothesis: list[str]) -> tuple[int, EditCounts]:
    """Weight and counts by cells that carry both; the diagonal first, then an insertion, where they cost the same."""
    cells: dict[tuple[int, int], tuple[int, EditCounts]] = {(0, 0): (0, EditCounts())}
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            ways = []
            if i and j:
                is_hit = reference[i - 1] == hypothesis[j - 1]
                weight, counts = cells[i - 1, j - 1]
                ways.append((weight + 4 * (not is_hit), counts + EditCounts(is_hit, not is_hit)))
            if j:
                ways.append((cells[i, j - 1][0] + 3, cells[i, j - 1][1] + EditCounts(insertions=1)))
            if i:
                ways.append((cells[i - 1, j][0] + 3, cells[i - 1, j][1] + EditCounts(deletions=1)))
            if ways:
                cells[i, j] = min(ways, key=lambda way: way[0])
    return cells[len(reference), len(hypothesis)]


def test_counts_equal_an_independent_dynamic_programme() -> None:
    pairs, splits_otherwise, more = random_pairs(2000), 0, 0
    for reference, hypothesis in pairs:
        weight, expected = least_weight(reference, hypothesis)
        counts = Entry("u", align_weighted(reference, hypothesis)).counts
        assert counts == expected
        assert 4 * counts.substitutions + 3 * (counts.deletions + counts.insertions) == weight
        shortest = count_words(" ".join(reference), " ".join(hypothesis))
        assert counts.errors >= shortest.errors
        splits_otherwise += counts != shortest
        more += counts.errors > shortest.errors
    print(
        f"\nsclite's weights against the shortest edit, 2,000 pairs: {splits_otherwise} split otherwise, {more} longer"
    )
    assert splits_otherwise > 100, "or the two kinds of count are one and need no two names"


def test_every_word_is_in_the_alignment_in_order() -> None:
    for reference, hypothesis in random_pairs(300, seed=4):
        aligned = align_weighted(reference, hypothesis)
        assert [said for _, said, _ in aligned if said is not None] == reference
        assert [heard for _, _, heard in aligned if heard is not None] == hypothesis
        assert all((operation == "hit") == (said == heard) for operation, said, heard in aligned)


def test_two_gaps_and_a_hit_are_preferred_to_two_substitutions() -> None:
    assert [operation for operation, _, _ in align_weighted("א ב".split(), "ב ג".split())] == ["del", "hit", "ins"]
    assert align_weighted([], []) == [] and align_weighted([], ["א"]) == [("ins", None, "א")]


def test_listing_golden() -> None:
    entries = [Entry("r1-0", align_weighted("the cat sat".split(), "a cat sat down".split())), Entry("r1-1", [])]
    assert (
        listing(entries, ";; system")
        == """;; system
id: (r1-0)
Scores: (#C #S #D #I) 2 1 0 1
REF:  the cat sat ****
HYP:  a   cat sat down
Eval: S           I

id: (r1-1)
Scores: (#C #S #D #I) 0 0 0 0
REF:
HYP:
Eval:

Sum Scores: (#C #S #D #I) 2 1 0 1
"""
    )


def test_long_utterances_go_on_in_marked_lines() -> None:
    text = listing([Entry("long", align_weighted(VOCABULARY * 10, VOCABULARY * 10))])
    lines = text.splitlines()
    assert max(map(len, lines)) < 130 and sum(line.startswith(">> REF:") for line in lines) >= 2
    assert sum(line.count("אבאבא") for line in lines) == 2 * 10


@pytest.mark.parametrize("num_words", [1500])
def test_recordings_of_minutes_take_a_fraction_of_a_second(num_words: int) -> None:
    rng = random.Random(1)
    reference = rng.choices(VOCABULARY, k=num_words)
    started = time.process_time()
    align_weighted(reference, [word for word in reference if rng.random() > 0.1])
    assert time.process_time() - started < 1  # 0.04 s
