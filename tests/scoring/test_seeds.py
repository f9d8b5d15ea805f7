"""Protects the difference of several seeds: both variances are in it, and equal trainings are rarely told apart."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.seeds import seeds_difference

WORDS = 50
GROUPS = [f"g{i}" for i in range(12)]


def system(errors) -> list[EditCounts]:
    """One utterance of fifty words a group."""
    return [EditCounts(WORDS - int(wrong), int(wrong)) for wrong in errors]


def drawn(rng, seeds: int, spread: float, taste: float = 3.0) -> list[list[EditCounts]]:
    """Seeds of one training: a taste of each group that all share, and a level of each seed."""
    shared = 20 + rng.normal(0, taste, len(GROUPS))
    return [system(np.clip(np.rint(shared + rng.normal(0, spread)), 0, WORDS)) for _ in range(seeds)]


def test_one_system_a_side_is_the_plain_difference():
    """Protects from a rule for seeds that differs from the one for two systems where there is nothing to add."""
    rng = np.random.default_rng(0)
    one, two = drawn(rng, 2, 1.0)
    found = seeds_difference([one], [two], GROUPS)
    assert found.estimate == difference_interval(one, two, GROUPS)
    assert (found.seeds_error, found.spreads) == (0.0, (None, None))


def test_variances_add_up_and_the_mean_is_over_seeds():
    """Protects from a variance of one seed where that of the mean is meant, and from one side left out."""
    rng = np.random.default_rng(1)
    first, second = drawn(rng, 3, 2.0), drawn(rng, 4, 2.0)
    found = seeds_difference(first, second, GROUPS)
    rates = [[sum(c.errors for c in one) / (WORDS * len(GROUPS)) for one in side] for side in (first, second)]
    assert found.estimate.value == pytest.approx(np.mean(rates[1]) - np.mean(rates[0]))
    assert found.spreads == pytest.approx([np.std(side, ddof=1) for side in rates])
    of_seeds = np.var(rates[0], ddof=1) / 3 + np.var(rates[1], ddof=1) / 4
    assert found.seeds_error**2 == pytest.approx(of_seeds)
    alone = difference_interval(first[0], second[0], GROUPS)
    assert found.estimate.high - found.estimate.low > alone.high - alone.low


def test_without_a_variance_over_groups_it_is_welchs_test():
    """Protects from wrong degrees of freedom: where groups do not differ, the test is Welch's, which scipy has."""
    first = [system([level] * len(GROUPS)) for level in (10, 12, 13)]
    second = [system([level] * len(GROUPS)) for level in (14, 18, 15, 13)]
    found = seeds_difference(first, second, GROUPS)
    assert found.groups_error == pytest.approx(0, abs=1e-12)
    rates = [[sum(c.errors for c in one) / (WORDS * len(GROUPS)) for one in side] for side in (first, second)]
    assert found.estimate.p == pytest.approx(ttest_ind(*rates, equal_var=False).pvalue)


def test_two_seeds_and_other_references_are_refused():
    """Protects from a variance of one degree of freedom, and from rates of different words."""
    one = system([3] * len(GROUPS))
    with pytest.raises(ValueError, match="3 of them, not 2"):
        seeds_difference([one], [one, one], GROUPS)
    with pytest.raises(ValueError, match="same references"):
        seeds_difference([one], [[EditCounts(9, 1)] * len(GROUPS)], GROUPS)


def test_seeds_of_one_training_are_rarely_told_apart():
    """Protects from the mistake that the rule is for: over groups alone, equal trainings differ far too often."""
    rng, shown = np.random.default_rng(2), {"seeds": 0, "one": 0}
    for _ in range(400):
        every = drawn(rng, 6, 1.5)
        shown["seeds"] += seeds_difference(every[:3], every[3:], GROUPS, samples=200).estimate.p < 0.05
        shown["one"] += difference_interval(every[0], every[3], GROUPS, samples=200).p < 0.05
    assert shown["seeds"] <= 0.07 * 400
    assert shown["one"] > 0.3 * 400
