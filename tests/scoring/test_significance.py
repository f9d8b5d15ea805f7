"""Protects the tests of no difference: MAPSSWE against cases worked by hand, Holm's against his."""

import math
import random

import numpy as np
import pytest
from scipy.stats import norm

from shibolet.scoring.sclite import Entry, align_weighted
from shibolet.scoring.significance import holm, mapsswe, segment_differences


@pytest.mark.parametrize(
    ("reference", "first", "second", "differences"),
    [
        ("א ב ג ד ה ו", "א ב ג ד ה ו", "א ב ג ד ה ו", []),
        ("א ב ג ד ה ו", "א x ג ד ה x", "א ב ג ד ה ו", [-1, -1]),  # ג ד are right in both and part two segments
        ("א ב ג ד ה ו", "א x ג x ה ו", "א ב ג ד ה ו", [-2]),  # ג alone parts nothing
        ("א ב ג ד ה ו", "א x ג ד ה ו", "א ב ג ד ה x", [-1, 1]),
        ("א ב ג ד ה ו", "א x ג ד ה ו", "א x ג ד ה ו", [0]),  # a segment in which both err alike
        ("א ב ג ד", "א ב y y ג ד", "א ב ג ד", [-2]),
        ("א ב ג ד", "א ב ג ד", "א ב ג ד y", [1]),  # words that only the second adds at the end
        ("", "y", "", [-1]),
        ("א ב ג ד", "", "א ב ג ד", [-4]),
    ],
)
def test_segments(reference: str, first: str, second: str, differences: list[int]) -> None:
    assert segment_differences(reference, first, second) == differences
    assert segment_differences(reference, second, first) == [-d for d in differences]


def test_segments_add_up_to_the_errors_of_the_utterance() -> None:
    rng = random.Random(5)
    for _ in range(300):
        reference, one, two = (rng.choices("אבגדהו", k=rng.randint(0, 12)) for _ in range(3))
        errors = [Entry("", align_weighted(reference, heard)).counts.errors for heard in (one, two)]
        assert sum(segment_differences(*map(" ".join, (reference, one, two)))) == errors[1] - errors[0]


def test_mapsswe_is_a_z_test_of_the_segments() -> None:
    differences = [-1, -1, 0, 1, -2, -1, 0, -1]
    found = mapsswe(differences)
    z = np.mean(differences) / (np.std(differences, ddof=1) / math.sqrt(8))
    assert (found.segments, found.z, found.p) == (8, pytest.approx(z), pytest.approx(2 * norm.sf(abs(z))))
    for flat in ([], [-1], [2, 2, 2]):
        assert (mapsswe(flat).z, mapsswe(flat).p) == (0.0, 1.0)


def test_holm_golden() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
