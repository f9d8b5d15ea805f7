"""Protects the numbers: totals equal jiwer's and an independent edit distance, alignments add up to the counts."""

import random
import time
from collections import Counter

import jiwer

from shibolet.scoring.counts import EditCounts, align_words, count_chars, count_words


def random_pairs(num: int, seed: int = 3) -> list[tuple[str, str]]:
    """Reference and hypothesis of 0 to 12 words from a vocabulary small enough for many partial matches."""
    rng = random.Random(seed)
    vocabulary = ["אבא", "בא", "גן", "דלת", "הוא", "ו", "זה", "אבאבא"]
    return [tuple(" ".join(rng.choices(vocabulary, k=rng.randint(0, 12))) for _ in range(2)) for _ in range(num)]  # type: ignore[misc]


def edit_distance(first: list[str], second: list[str]) -> int:
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, two in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (one != two))
    return row[-1]


def test_golden() -> None:
    counts = count_words("הוא הלך אל הים", "הוא הלך לים היום מחר")
    assert counts == EditCounts(hits=2, substitutions=2, deletions=0, insertions=1)
    assert (counts.errors, counts.reference_length, counts.rate) == (3, 4, 0.75)
    assert count_chars("אב ג", "אבג") == EditCounts(hits=3, deletions=1)  # the space counts


def test_documents_have_the_counts_and_their_rate() -> None:
    assert EditCounts(8, 1, 1, 2).word_errors().model_dump() == {
        "errors": 4,
        "words": 10,
        "rate": 0.4,
        "substitutions": 1,
        "deletions": 1,
        "insertions": 2,
    }
    assert EditCounts(8, 1, 1, 2).char_errors().chars == 10


def test_sums_equal_jiwer_on_the_whole_corpus() -> None:
    pairs = random_pairs(2000)
    references, hypotheses = [list(side) for side in zip(*pairs)]
    for count, whole in ((count_words, jiwer.process_words), (count_chars, jiwer.process_characters)):
        total = sum((count(*pair) for pair in pairs), EditCounts())
        expected = whole(references, hypotheses)
        assert total == EditCounts(expected.hits, expected.substitutions, expected.deletions, expected.insertions)
        assert total.reference_length == sum(len(r.split() if whole is jiwer.process_words else r) for r in references)


def test_errors_equal_an_independent_edit_distance() -> None:
    for reference, hypothesis in random_pairs(300, seed=4):
        assert count_words(reference, hypothesis).errors == edit_distance(reference.split(), hypothesis.split())
        assert count_chars(reference, hypothesis).errors == edit_distance([*reference], [*hypothesis])


def test_alignment_keeps_every_word_in_order_and_agrees_with_the_counts() -> None:
    for reference, hypothesis in random_pairs(300, seed=5):
        aligned = align_words(reference, hypothesis)
        assert [ref for _, ref, _ in aligned if ref is not None] == reference.split()
        assert [hyp for _, _, hyp in aligned if hyp is not None] == hypothesis.split()
        assert all((operation == "hit") == (ref == hyp) for operation, ref, hyp in aligned)
        tally = Counter(operation for operation, _, _ in aligned)
        assert count_words(reference, hypothesis) == EditCounts(tally["hit"], tally["sub"], tally["del"], tally["ins"])


def test_ten_thousand_pairs_take_seconds() -> None:
    pairs = random_pairs(10_000)
    start = time.perf_counter()
    for pair in pairs:
        count_words(*pair), count_chars(*pair)
    assert time.perf_counter() - start < 15  # about 1.5 s on one idle core
