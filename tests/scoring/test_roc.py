"""Protects the figures of detection: ties, intervals over recordings, false alarms that are not exceeded."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from shibolet.scoring.roc import Scores, auroc, recall_at


def apart(values: np.ndarray, prefix: str) -> Scores:
    """Each clip a recording of its own."""
    return Scores(values, [f"{prefix}{i}" for i in range(len(values))])


def test_the_area_is_the_rank_statistic_with_ties():
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 8, 60) + 2.0, rng.integers(0, 8, 45) + 0.0
    expected = mannwhitneyu(good, bad).statistic / (60 * 45)
    assert auroc(apart(good, "g"), apart(bad, "b")).value == pytest.approx(expected)


def test_the_interval_covers_the_truth_when_clips_share_their_recording():
    """40 recordings of 10 clips, each with a shift of its own: the interval over clips covers far less than it says."""
    rng, covered, covered_naive, num_runs = np.random.default_rng(1), 0, 0, 400
    truth = norm.cdf(1.2 / np.sqrt(2))
    for _ in range(num_runs):
        names = np.repeat(np.arange(40), 10)
        good = rng.normal(0, np.sqrt(0.5), 400) + rng.normal(0, np.sqrt(0.5), 40)[names] + 1.2
        other = rng.normal(0, np.sqrt(0.5), 400) + rng.normal(0, np.sqrt(0.5), 40)[names]
        area = auroc(Scores(good, [f"g{n}" for n in names]), Scores(other, [f"b{n}" for n in names]))
        naive = auroc(apart(good, "g"), apart(other, "b"))
        covered += area.lower <= truth <= area.upper
        covered_naive += naive.lower <= truth <= naive.upper
    assert covered / num_runs > 0.92
    assert covered_naive / num_runs < 0.75


def test_an_area_without_an_error_still_has_an_interval():
    area = auroc(apart(np.arange(20) + 100.0, "g"), apart(np.arange(30.0), "b"))
    assert (area.value, area.upper) == (1.0, 1.0)
    assert area.lower == pytest.approx(0.05 ** (1 / 20))


def test_recall_at_a_rate_of_false_alarms_allows_no_more_of_them():
    good, bad = np.arange(100.0), np.array([-1.0, 0.5, 1.5, 50.0])
    assert recall_at(0.01, good, bad) == 0.5  # under 1.0: one of a hundred good clips is, and two of the damaged
    assert recall_at(0.02, good, bad) == 0.75
    assert recall_at(0.0, good, bad) == 0.25
    assert recall_at(0.02, np.zeros(50), np.zeros(10)) == 0.0  # equal scores detect nothing
