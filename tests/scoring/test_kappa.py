"""Cohen's kappa against numbers that others published."""

import pytest

from shibolet.scoring.kappa import agreement


def pairs(counts: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    return [pair for pair, num in counts.items() for _ in range(num)]


def test_two_categories_as_in_the_textbook():
    """20 times both yes, 15 times both no, of 50: kappa 0.4 (Kilem Gwet, Inter-rater reliability, 2002)."""
    found = agreement(pairs({("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15}))
    assert (found.num_both, found.agreed_frac) == (50, 0.7) and found.kappa == pytest.approx(0.4)


def test_three_categories_as_cohen_has_them():
    """Cohen, 1960, table 1: proportions of 200, agreement 0.70 where chance gives 0.41: kappa 0.492."""
    table = {
        ("a", "a"): 88, ("a", "b"): 14, ("a", "c"): 18, ("b", "a"): 10, ("b", "b"): 40, ("b", "c"): 10,
        ("c", "a"): 2, ("c", "b"): 6, ("c", "c"): 12,
    }  # fmt: skip
    assert agreement(pairs(table)).kappa == pytest.approx(0.492, abs=5e-4)


def test_what_is_not_defined_is_not_a_number_that_looks_well():
    """Who both call everything good agree always, and no more than chance: no kappa, least of all 1."""
    assert agreement([]).kappa is agreement([]).agreed_frac is None
    assert agreement([("good", "good")] * 9).kappa is None and agreement([("good", "good")] * 9).agreed_frac == 1
