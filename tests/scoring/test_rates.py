"""Protects the gate's number: weights, variance between recordings, interval and the cases where one is missing."""

import math
import random

import pytest
from scipy.stats import binomtest

from shibolet.errors import DataError
from shibolet.scoring.rates import GateRecord, Rate, StratumSize, clopper_pearson, estimate_rate, korn_graubard

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
    assert rate.effective_n == pytest.approx(total)
    assert rate.rate == low / total


def test_clips_that_share_their_fate_count_once_a_recording():
    together = estimate_rate(records("a", 30, 300, per_recording=10), {"a": size(ENDLESS)}).total
    assert together.effective_n == pytest.approx(30) and together.num_recordings == 30
    assert (together.lower, together.upper) == pytest.approx(korn_graubard(0.1, 30, 300, 29, 0.95))
    # 29 degrees of freedom against 299 make it wider than Clopper-Pearson on 30 clips
    lower, upper = clopper_pearson(0.1, 30, 0.95)
    assert together.lower < lower and together.upper > upper


def test_recordings_that_agree_better_than_chance_do_not_narrow_the_interval():
    spread = [GateRecord(stratum="a", cluster=str(i % 30), is_low_quality=i < 30, duration_s=5) for i in range(300)]
    assert estimate_rate(spread, {"a": size(ENDLESS)}).total.effective_n == pytest.approx(300)
    across = records("a", 10, 30) + [
        GateRecord(stratum="b", cluster=f"a-{i}", is_low_quality=i >= 20, duration_s=5) for i in range(30)
    ]
    assert estimate_rate(across, {"a": size(ENDLESS), "b": size(ENDLESS)}).total.effective_n == pytest.approx(59)


def test_a_recording_in_two_strata_counts_once():
    """Domain rules look at single utterances: without the covariance over strata 50 recordings would count as 100."""
    both = records("a", 10, 50) + [
        GateRecord(stratum="b", cluster=r.cluster, is_low_quality=r.is_low_quality, duration_s=5)
        for r in records("a", 10, 50)
    ]
    rate = estimate_rate(both, {"a": size(ENDLESS), "b": size(ENDLESS)}).total
    assert rate.effective_n == pytest.approx(50) and rate.num_recordings == 50
    apart = estimate_rate(records("a", 10, 50) + records("b", 10, 50), {"a": size(ENDLESS), "b": size(ENDLESS)}).total
    assert apart.effective_n == pytest.approx(99) and apart.num_recordings == 100


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
    # strata are independent here, so the textbook sum of their variances holds
    variance = sum(
        w**2 * (1 - n / size) * p * (1 - p) / (n - 1)
        for w, p, n, size in [(0.26, 0.25, 1000, 26e3), (0.71, 0.026, 1000, 71e3), (0.03, 0.168, 500, 3e3)]
    )
    rate = estimate.total.rate
    assert estimate.total.effective_n == pytest.approx(1 + rate * (1 - rate) / variance, rel=5e-3)
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
    assert math.isinf(estimate.total.effective_n) and estimate.total.is_whole
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


@pytest.mark.parametrize("is_bad", [0, 1])
def test_verdicts_that_are_all_alike_have_an_interval_by_their_weights(is_bad):
    sizes = {"a": size(7 * ENDLESS), "b": size(2 * ENDLESS), "c": size(ENDLESS)}
    heard = [record for name in sizes for record in records(name, 100 * is_bad, 100, per_recording=10)]
    rate = estimate_rate(heard, sizes).total
    assert rate.effective_n == pytest.approx(100 / (0.7**2 + 0.2**2 + 0.1**2))
    assert rate.rate == pytest.approx(is_bad) and 0.01 < rate.upper - rate.lower < 0.03


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


def test_notes_name_thin_strata_and_missing_recordings():
    estimate = estimate_rate(
        records("a", 5, 100, None) + records("b", 1, 20) + records("c", 4, 40, 40),
        {"a": size(1000), "b": size(300), "c": size(400)},
    )
    notes = "\n".join(estimate.notes)
    assert "is known of 100 of 160" in notes and "'a' is thin" not in notes
    assert "'b' is thin: 20 utterances of 20 recordings speak for 300" in notes
    assert "'c' is thin: 40 utterances of 1 recordings speak for 400" in notes
    assert (
        "Neither recording nor speaker is known of all 100 utterances"
        in estimate_rate(records("a", 5, 100, None), {"a": size(1000)}).notes[0]
    )
    assert estimate_rate(records("a", 5, 100), {"a": size(1000)}).notes == ()


@pytest.mark.parametrize(
    ("heard", "population", "match"),
    [
        ([], {}, "no stratum"),
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


def coverage(true_rate: float, num: int, per_recording: int, icc: float, repeats: int) -> float:
    """How often the 95% interval holds the truth; recordings' rates are beta with the intraclass correlation `icc`."""
    draw = random.Random(f"{true_rate} {num} {per_recording} {icc}")
    verdict = {
        (recording, bad): GateRecord(stratum="a", cluster=str(recording), is_low_quality=bad, duration_s=5)
        for recording in range(num // per_recording)
        for bad in (False, True)
    }
    population, hits = {"a": size(ENDLESS)}, 0
    for _ in range(repeats):
        heard = []
        for recording in range(num // per_recording):
            spread = (1 - icc) / icc if icc else 0
            fate = draw.betavariate(true_rate * spread, (1 - true_rate) * spread) if icc else true_rate
            heard += [verdict[recording, draw.random() < fate] for _ in range(per_recording)]
        rate: Rate = estimate_rate(heard, population).total
        hits += rate.lower <= true_rate <= rate.upper
    return hits / repeats


def test_the_interval_covers_the_truth_when_clips_share_their_recording():
    """The naive interval covers 73% here, Wilson on the effective size 88 to 91%."""
    assert coverage(0.10, num=300, per_recording=10, icc=0.2, repeats=400) >= 0.915


@pytest.mark.slow
@pytest.mark.parametrize(("num", "repeats"), [(300, 3000), (2000, 1000)])
@pytest.mark.parametrize(("per_recording", "icc"), [(1, 0.0), (10, 0.2)])
def test_the_interval_covers_92_to_97_percent(num, repeats, per_recording, icc):
    noise = 2 * math.sqrt(0.95 * 0.05 / repeats)  # of the simulation
    for true_rate in (0.03, 0.05, 0.08, 0.10, 0.12, 0.15, 0.18):
        covered = coverage(true_rate, num, per_recording, icc, repeats)
        print(f"n {num:5} recordings of {per_recording:2} ICC {icc:.1f} rate {true_rate:.0%}: {covered:.1%}")
        assert 0.92 - noise <= covered <= 0.97 + noise
