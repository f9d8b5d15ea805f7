"""Protects the loop from taking the luck of one training for a gain of the data."""

import numpy as np
import pytest

from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.seeds import seeds_interval

WORDS = 10


def counts(errors: np.ndarray) -> list[EditCounts]:
    return [EditCounts(hits=WORDS - int(n), substitutions=int(n)) for n in errors]


def speech(num: int = 200) -> list[str]:
    return [f"g{i % 20}" for i in range(num)]


def test_a_gain_of_every_seed_is_shown_and_of_one_seed_is_not():
    rng = np.random.default_rng(0)
    base = [counts(rng.binomial(WORDS, 0.3, 200)) for _ in range(3)]
    better = [counts(rng.binomial(WORDS, 0.2, 200)) for _ in range(3)]
    found = seeds_interval(base, better, speech())
    assert found.value == pytest.approx(-0.1, abs=0.02) and found.high < 0 and len(found.by_seed) == 3
    lucky = [base[0], counts(rng.binomial(WORDS, 0.05, 200)), base[2]]
    assert difference_interval(base[1], lucky[1], speech()).high < 0, "one training alone is shown to be better"
    assert seeds_interval(base, lucky, speech()).high > 0


def test_equal_trainings_differ_by_nothing_and_what_cannot_be_told_has_no_interval():
    same = [counts(np.full(200, 2))] * 2
    assert seeds_interval(same, same, speech()).low == seeds_interval(same, same, speech()).high == 0
    assert seeds_interval(same[:1], same[:1], speech()).low is None, "of one seed nothing is known of seeds"
    assert seeds_interval(same, same, ["a", "b"] * 100).low is None, "two groups of speech are no interval"
    empty = [[EditCounts()] * 3] * 2
    assert seeds_interval(empty, empty, ["a", "b", "c"]).value is None


def test_few_nulls_gain_where_seeds_vary_more_than_speech():
    """Trainings that differ by chance: the plain interval over speech of a single pair would pass a third of them."""
    rng, gained, plainly = np.random.default_rng(1), 0, 0
    for _ in range(150):
        both = [[counts(rng.binomial(WORDS, 0.2 + rng.normal(0, 0.03), 200)) for _ in range(3)] for _ in range(2)]
        gained += seeds_interval(*both, speech()).high < 0
        plainly += difference_interval(both[0][0], both[1][0], speech(), samples=500).high < 0
    assert gained <= 150 * 0.025 + 3 * np.sqrt(150 * 0.025) < plainly


def test_speech_varies_too():
    """Seeds that agree say nothing of other speakers."""
    group = np.arange(200) % 20
    base = counts(np.full(200, 3))
    other = counts(np.where(group < 10, 0, 5))
    found = seeds_interval([base] * 3, [other] * 3, speech())
    assert found.value < 0 < found.high
