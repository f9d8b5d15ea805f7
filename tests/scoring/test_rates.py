"""Protects the gate's number: weights, exact intervals of strata and of the whole, and what is missing."""

import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from shibolet.errors import DataError
from shibolet.scoring.rates import (
    GateRecord,
    StratumSize,
    WeightedRate,
    clopper_pearson,
    combine,
    estimate_rate,
    share_interval,
)

ENDLESS = 10**12  # a population so large that the finite population correction is 1


def records(stratum: str, low: int, total: int, per_recording: int | None = 1, duration_s: float = 5.0):
    """`total` verdicts, the first `low` of them bad; recordings of `per_recording` in a row, None: not known."""
    return [
        GateRecord(
            stratum=stratum,
            cluster=None if per_recording is None else f"{stratum}-{i // per_recording}",
            is_low_quality=i < low,
            duration_s=duration_s,
        )
        for i in range(total)
    ]


def size(num_utterances: int, hours: float = 1.0) -> StratumSize:
    return StratumSize(num_utterances=num_utterances, hours=hours)


@pytest.mark.parametrize(("low", "total"), [(0, 300), (1, 300), (24, 300), (30, 300), (150, 2000), (10, 10)])
@pytest.mark.parametrize("per_recording", [1, None])
@pytest.mark.parametrize("level", [0.80, 0.95])
def test_one_stratum_of_independent_clips_is_clopper_pearson(low, total, per_recording, level):
    expected = binomtest(low, total).proportion_ci(level, "exact")
    rate = estimate_rate(records("a", low, total, per_recording), {"a": size(ENDLESS)}, level).total
    assert (rate.lower, rate.upper) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert rate.rate == low / total


@pytest.mark.parametrize(("low", "num", "population"), [(0, 5, 12), (3, 20, 30), (7, 7, 30), (11, 40, 41), (2, 3, 900)])
def test_of_a_small_population_the_interval_has_every_share_that_is_not_refuted(low, num, population):
    """By going through all shares that the population can have: possible is what leaves 2.5% on either side."""
    possible = [
        bad
        for bad in range(population + 1)
        if hypergeom.sf(low - 1, population, bad, num) > 0.025 and hypergeom.cdf(low, population, bad, num) > 0.025
    ]
    ends = share_interval(low, num, population, 0.95)
    assert ends == (possible[0] / population, possible[-1] / population)


def test_parts_are_put_together_by_squares_and_what_is_known_adds_nothing():
    parts = [WeightedRate(0.5, 0.2, 0.1, 0.4), WeightedRate(0.3, 0.5, 0.3, 0.6), WeightedRate(0.2, 1.0, 1.0, 1.0)]
    found = combine(parts)
    assert (found.weight, found.rate) == pytest.approx((1.0, 0.45))
    assert found.lower == pytest.approx(0.45 - np.hypot(0.05, 0.06))
    assert found.upper == pytest.approx(0.45 + np.hypot(0.10, 0.03))
    assert combine(parts[2:]) == WeightedRate(0.2, 0.2, 0.2, 0.2)


@pytest.mark.parametrize("per_recording", [1, 10, 300])
def test_recordings_change_nothing_about_the_rate_of_these_data(per_recording):
    """18 bad of 300 in 2 of 30 recordings: to know the recordings once turned PROCEED into CAUTION."""
    rate = estimate_rate(records("a", 18, 300, per_recording), {"a": size(6000)}).total
    assert (rate.lower, rate.upper) == share_interval(18, 300, 6000, 0.95) and rate.upper < 0.10
    assert rate.num_recordings == 300 / per_recording


def test_unlike_strata_do_not_lend_each_other_certainty():
    """With one effective size for both the second read 8.3 to 9.8%: its middle stratum alone can add 2.7 points."""
    known = estimate_rate(records("bad", 570, 570) + records("rest", 0, 300), {"bad": size(570), "rest": size(5430)})
    assert known.total.rate == pytest.approx(0.095) == known.total.lower and known.total.upper >= 0.104
    heard = records("a", 108, 120) + records("b", 0, 120) + records("c", 54, 60)
    assert estimate_rate(heard, {"a": size(300), "b": size(5400), "c": size(300)}).total.upper > 0.115


def test_sample_design_is_weighted_back_to_the_population():
    """A 40/40/20 sample reads 14.4% where 8.7% of the population are bad."""
    population = {"whatsapp_noisy": size(26_000), "kan_clean": size(71_000), "long_tail": size(3_000)}
    heard = (
        records("whatsapp_noisy", 250, 1000)
        + records("kan_clean", 26, 1000)
        + records("long_tail", 84, 500, duration_s=9)
    )
    estimate = estimate_rate(heard, population)
    assert estimate.total.sample_rate == pytest.approx(0.144)
    assert estimate.total.rate == pytest.approx(0.26 * 0.25 + 0.71 * 0.026 + 0.03 * 0.168)
    assert estimate.total.lower < 0.087 < estimate.total.upper < 0.144
    assert estimate.strata["long_tail"].rate == pytest.approx(0.168)


def test_hours_are_weighted_by_hours():
    heard = records("short", 20, 100, duration_s=2) + records("long", 10, 50, duration_s=20)
    population = {"short": size(1000, hours=1.0), "long": size(1000, hours=9.0)}
    assert estimate_rate(heard, population).hours_rate == pytest.approx(0.2)
    heard[0] = GateRecord(stratum="short", cluster="x", is_low_quality=True, duration_s=102)  # 140 of 300 seconds
    assert estimate_rate(heard, population).hours_rate == pytest.approx(0.1 * 140 / 300 + 0.9 * 0.2)
    silent = [GateRecord(stratum="short", cluster="x", is_low_quality=True, duration_s=0)]
    assert estimate_rate(silent, {"short": population["short"]}).hours_rate is None


def test_heard_whole_has_no_width():
    estimate = estimate_rate(records("a", 30, 300, 10) + records("b", 0, 7), {"a": size(300), "b": size(7)})
    assert estimate.total.lower == estimate.total.rate == estimate.total.upper == pytest.approx(30 / 307)
    assert estimate.total.is_whole
    assert len(estimate.notes) == 1 and "All 307 utterances were heard" in estimate.notes[0]


def test_a_stratum_heard_whole_adds_no_variance_and_the_interval_narrows_until_then():
    def width(heard: int) -> float:
        rate = estimate_rate(records("a", heard // 10, heard), {"a": size(1000)}).total
        return rate.upper - rate.lower

    widths = [width(heard) for heard in (100, 300, 600, 900, 990, 1000)]
    assert widths == sorted(widths, reverse=True) and widths[-1] == 0 < widths[-2] < 0.005
    estimate = estimate_rate(records("a", 20, 100) + records("b", 5, 50), {"a": size(100), "b": size(100)})
    assert estimate.total.lower > 0.1 + 0.5 * 5 / 100 - 0.03 and estimate.total.upper < 0.1 + 0.5 * 0.25
    assert "Heard whole, so without sampling error: a." in estimate.notes


def test_neither_end_contradicts_what_was_heard():
    rate = estimate_rate(records("a", 1, 9), {"a": size(10)}).total
    assert rate.lower >= 1 / 10 and rate.upper <= 2 / 10


def test_a_thin_stratum_without_an_event_still_widens():
    """Five good clips that speak for a fifth of the population prove little."""
    thin = estimate_rate(
        records("a", 30, 300) + records("b", 0, 5), {"a": size(80_000_000), "b": size(20_000_000)}
    ).total
    thick = estimate_rate(
        records("a", 30, 300) + records("b", 0, 300), {"a": size(80_000_000), "b": size(20_000_000)}
    ).total
    assert thin.upper - thin.lower > 1.4 * (thick.upper - thick.lower)


def test_notes_name_thin_strata_and_the_estimate_says_whose_rate_it_is():
    population = {"a": size(1000), "b": size(300)}
    estimate = estimate_rate(records("a", 5, 100, None) + records("b", 1, 20), population)
    assert estimate.notes == ("Stratum 'b' is thin: 20 utterances speak for 300.",)
    assert estimate.of == "The rate is that of these 1,300 utterances, of which 120 were heard."


def test_the_rate_of_new_recordings_is_as_uncertain_as_recordings_are_unlike():
    """Each recording is bad or good as a whole: 40 of them say as much as 40 utterances, and not 400."""
    heard, population = records("a", 40, 400, per_recording=10), {"a": size(4000)}
    found = estimate_rate(heard, population, target="new_recordings")
    lower, upper = clopper_pearson(0.1, 40, 0.95)
    assert found.total.lower < lower + 0.002 and found.total.upper > upper - 0.002
    assert found.target == "new_recordings" and "new recordings from the same sources" in found.of
    assert "40 recordings" in found.of and found.strata["a"].upper < 0.14
    spread = [GateRecord(stratum="a", cluster=str(i % 40), is_low_quality=i < 40, duration_s=5) for i in range(400)]
    even = estimate_rate(spread, population, target="new_recordings").total
    assert even.upper - even.lower < 0.07, "recordings that agree"
    good = estimate_rate(records("a", 0, 400, 10), population, target="new_recordings").total
    assert good.upper > 0.08, "40 good ones of 40 do not show that there is no bad one in twelve"


def test_a_recording_in_two_strata_counts_once():
    """Domain rules look at single utterances: without the covariance over strata 50 recordings would count as 100."""
    apart = records("a", 10, 50) + records("b", 10, 50)
    both = [GateRecord(stratum=r.stratum, cluster=r.cluster[1:], is_low_quality=r.is_low_quality, duration_s=5)
            for r in apart]  # fmt: skip
    population = {"a": size(ENDLESS), "b": size(ENDLESS)}
    width = [(t := estimate_rate(r, population, target="new_recordings").total).upper - t.lower for r in (both, apart)]
    assert width[0] > 1.3 * width[1]


@pytest.mark.parametrize(
    ("heard", "match"),
    [(records("a", 3, 290, 10), "needs 30 recordings, and 29 were heard"), (records("a", 3, 100, None), "have none")],
)
def test_too_little_is_known_of_new_recordings(heard, match):
    with pytest.raises(DataError, match=match):
        estimate_rate(heard, {"a": size(4000)}, target="new_recordings")


@pytest.mark.parametrize(
    ("heard", "population", "match"),
    [
        ([], {}, "no utterances to estimate"),
        ([], {"a": size(10)}, "'a' has 10 utterances and 0 verdicts"),
        (records("a", 1, 11), {"a": size(10)}, "'a' has 10 utterances and 11 verdicts"),
        (records("a", 1, 5) + records("b", 1, 5), {"a": size(10)}, "'b' was heard but not counted"),
    ],
)
def test_counts_that_do_not_fit_are_errors(heard, population, match):
    with pytest.raises(DataError, match=match):
        estimate_rate(heard, population)


def test_one_clip_is_an_estimate_too():
    rate = estimate_rate(records("a", 1, 1), {"a": size(ENDLESS)}).total
    assert (rate.lower, rate.upper) == pytest.approx((0.025, 1.0))


@pytest.mark.parametrize(
    ("sizes", "bad", "heard"),
    [
        ((2400, 2400, 1200), (240, 240, 120), (120, 120, 60)),
        ((60, 5400, 540), (54, 62, 486), (60, 120, 120)),
        ((300, 5400, 300), (270, 60, 270), (30, 240, 30)),
        ((570, 5430), (570, 30), (570, 300)),
        ((400,), (40,), (380,)),
    ],
)
def test_the_interval_covers_the_truth_of_unlike_strata(sizes, bad, heard):
    """benchmarks/statistics.py has many more cells and runs."""
    rng, truth, runs, hits = np.random.default_rng(1), sum(bad) / sum(sizes), 600, 0
    found = np.stack([rng.hypergeometric(b, s - b, n, runs) for s, b, n in zip(sizes, bad, heard, strict=True)], axis=1)
    population = {name: size(s) for name, s in zip("abc", sizes)}
    for row, count in zip(*np.unique(found, axis=0, return_counts=True), strict=True):
        everything = [r for name, low, num in zip("abc", row, heard) for r in records(name, low, num)]
        total = estimate_rate(everything, population).total
        hits += count * (total.lower <= truth <= total.upper)
    assert hits / runs >= 0.93


def test_the_interval_of_new_recordings_covers_their_truth():
    draw, hits, runs, truth, icc = random.Random(3), 0, 300, 0.10, 0.3
    spread = (1 - icc) / icc
    for _ in range(runs):
        heard = [
            GateRecord(stratum="a", cluster=str(recording), is_low_quality=draw.random() < fate, duration_s=5)
            for recording in range(30)
            for fate in [draw.betavariate(truth * spread, (1 - truth) * spread)]
            for _ in range(8)
        ]
        total = estimate_rate(heard, {"a": size(ENDLESS)}, target="new_recordings").total
        hits += total.lower <= truth <= total.upper
    assert hits / runs >= 0.91


def test_a_rate_of_what_was_heard_whole_waits_for_no_library():
    """scipy.stats takes a second to import, and an interval without width needs nothing of it."""
    code = "import sys; from shibolet.scoring.rates import share_interval as s; print(s(3, 10, 10, 0.95), *sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("(0.3, 0.3)") and "scipy.stats" not in said.split()
