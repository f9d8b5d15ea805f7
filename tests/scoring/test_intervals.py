"""Protects the verdict from chance: intervals against closed forms, and the type-I error simulated."""

import time

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student

from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import MIN_GROUPS, difference_interval, rate_interval, ratio_intervals


def edits(errors: int, length: int) -> EditCounts:
    """`errors` errors against `length` reference words, as insertions so that any number of them is possible."""
    return EditCounts(hits=length, insertions=int(errors))


def nulls(simulations: int, num_speakers: int = 40, per_speaker: int = 10, seed: int = 20) -> tuple:
    """Two systems with the same WER in the population, each better on some speakers, simulated many times.

    Returns errors of both and lengths, each [utterances, simulations], and the speakers.
    """
    rng = np.random.default_rng(seed)
    shape = (num_speakers, per_speaker, simulations)
    length = rng.integers(3, 18, shape)
    difficulty = rng.beta(2, 10, (num_speakers, 1, simulations))
    taste = rng.normal(0, 0.05, (num_speakers, 1, simulations))
    errors = [rng.binomial(length, np.clip(difficulty + sign * taste, 0, 1)) for sign in (-0.5, 0.5)]
    columns = [array.reshape(-1, simulations).astype(float) for array in (*errors, length)]
    return *columns, [f"s{i // per_speaker}" for i in range(num_speakers * per_speaker)]


def one_null(num_speakers: int, seed: int) -> tuple[list[EditCounts], list[EditCounts], list[str]]:
    first, second, length, speakers = nulls(1, num_speakers, seed=seed)
    sides = ([edits(e, int(n)) for e, n in zip(side[:, 0], length[:, 0])] for side in (first, second))
    return *sides, speakers


def rejections(simulations: int) -> tuple[float, float]:
    """Share of true nulls rejected by the interval over recordings, and over utterances."""
    first, second, length, speakers = nulls(simulations)
    changes, shares = second - first, []
    for clusters in (speakers, [str(i) for i in range(len(changes))]):
        found = ratio_intervals(changes, length, clusters, samples=2000)
        shares.append(np.mean([not estimate.low <= 0 <= estimate.high for estimate in found]))
    return tuple(map(float, shares))


def test_value_and_width_equal_the_closed_form_for_recordings_of_equal_length() -> None:
    errors = np.random.default_rng(1).integers(0, 9, 60)
    estimate = rate_interval([edits(e, 10) for e in errors], [str(i) for i in range(60)])
    half_width = student.ppf(0.975, 59) * errors.std(ddof=1) / np.sqrt(60) / 10
    assert estimate.value == pytest.approx(errors.mean() / 10)
    assert estimate.high - estimate.value == pytest.approx(half_width, rel=0.03)
    assert estimate.value - estimate.low == pytest.approx(half_width, rel=0.03)


def test_same_seed_same_numbers_whatever_the_order() -> None:
    first, second, speakers = one_null(12, seed=2)
    order = np.random.default_rng(2).permutation(len(first))
    shuffled = ([column[i] for i in order] for column in (first, second, speakers))
    assert difference_interval(first, second, speakers, seed=5) == difference_interval(*shuffled, seed=5)
    assert difference_interval(first, second, speakers, seed=5) != difference_interval(first, second, speakers, seed=6)


def test_pairing_finds_a_small_steady_gain_and_swapping_mirrors_it() -> None:
    rng = np.random.default_rng(3)
    first = [edits(e, 20) for e in rng.integers(2, 12, 200)]
    second = [edits(count.errors - (i % 4 == 0), 20) for i, count in enumerate(first)]
    clusters = [f"r{i // 5}" for i in range(200)]
    gain, loss = (difference_interval(*pair, clusters) for pair in ((first, second), (second, first)))
    assert gain.value == pytest.approx(-50 / 4000)
    assert gain.high < 0 and gain.below_zero_frac > 0.999 and gain.p < 0.001
    mirrored = (-gain.high, -gain.low, 1 - gain.below_zero_frac, gain.p)
    assert (loss.low, loss.high, loss.below_zero_frac, loss.p) == pytest.approx(mirrored)
    assert rate_interval(second, clusters).high > rate_interval(first, clusters).low  # unpaired, they overlap


def test_one_long_recording_counts_as_little_more_than_one() -> None:
    rng = np.random.default_rng(4)
    errors = rng.integers(0, 10, 20)
    even = rate_interval([edits(e, 100) for e in errors], [str(i) for i in range(20)])
    one_long = rate_interval([edits(10 * e if i == 0 else e, 10_000 if i == 0 else 100) for i, e in enumerate(errors)],
                             [str(i) for i in range(20)])  # fmt: skip
    assert one_long.high - one_long.value > even.high - even.value


def test_systems_that_agree_show_no_difference() -> None:
    counts = [edits(i % 3, 10) for i in range(30)]
    estimate = difference_interval(counts, counts, [str(i) for i in range(30)], samples=500)
    assert (estimate.value, estimate.low, estimate.high, estimate.below_zero_frac) == (0, 0, 0, 0.5)
    assert (estimate.p, estimate.detectable) == (1.0, None)


@pytest.mark.parametrize("num_groups", [3, 5, 12, 40])
def test_interval_p_and_probability_of_improvement_never_contradict_each_other(num_groups: int) -> None:
    """All three are of one Student t: one is beyond its line exactly where the others are."""
    rng = np.random.default_rng(num_groups)
    changes, length = rng.normal(-1, 2, (num_groups, 500)).round(), np.full((num_groups, 500), 10.0)
    found = ratio_intervals(changes, length, [str(i) for i in range(num_groups)], samples=500)
    better = [estimate.high < 0 for estimate in found]
    assert 10 < sum(better) < 490, "nothing is tested where all agree trivially"
    assert better == [estimate.below_zero_frac > 0.975 for estimate in found]
    shown = [not estimate.low <= 0 <= estimate.high for estimate in found]
    assert shown == [estimate.p < 0.05 for estimate in found]
    one = next(estimate for estimate in found if estimate.value)
    t = one.value / ((one.high - one.value) / student.ppf(0.975, num_groups - 1))
    assert one.p == pytest.approx(2 * student.sf(abs(t), num_groups - 1))


def test_the_smallest_difference_is_where_the_noncentral_t_has_a_power_of_80_percent() -> None:
    changes, length = np.random.default_rng(7).normal(0, 3, (12, 1)), np.full((12, 1), 10.0)
    (estimate,) = ratio_intervals(changes, length, [str(i) for i in range(12)])
    error = (estimate.high - estimate.value) / student.ppf(0.975, 11)
    on_average = np.mean(np.sqrt(np.random.default_rng(1).chisquare(11, 200_000) / 11))  # an estimate is too small
    power = nct.sf(student.ppf(0.975, 11), 11, estimate.detectable * on_average / error)
    assert power == pytest.approx(0.80, abs=0.003)


def test_too_little_to_resample() -> None:
    alone = rate_interval([edits(1, 10), edits(3, 10)], ["r", "r"])
    assert (alone.value, alone.low, alone.high, alone.num_clusters) == (0.2, None, None, 1)
    two = rate_interval([edits(1, 10), edits(3, 10)], ["r", "s"])
    assert (two.value, two.low, two.high, two.num_clusters) == (0.2, None, None, 2)
    wordless = rate_interval([edits(2, 0), edits(0, 0)], ["a", "b"])
    assert (wordless.value, wordless.low) == (None, None)
    assert rate_interval([], []).value is None
    with_empty = rate_interval([edits(2, 0), edits(1, 10), edits(0, 10)], ["a", "b", "c"], samples=500)
    assert with_empty.value == pytest.approx(3 / 20)
    assert with_empty.low == 0.0 and np.isfinite(with_empty.high)


def test_unpaired_references_are_refused() -> None:
    with pytest.raises(ValueError, match="same references"):
        difference_interval([edits(1, 10)], [edits(1, 11)], ["r"])


def test_type_i_error() -> None:
    by_recording, by_utterance = rejections(4000)
    print(f"\ntype-I error, 40 speakers, 4,000 simulations: {by_recording:.2%}; by utterance {by_utterance:.2%}")
    assert 0.03 <= by_recording <= 0.06
    assert by_utterance > 0.10


def test_type_i_error_of_few_groups(monkeypatch) -> None:
    """Three short groups hold the level; two do not, since both often have the same difference by chance."""
    assert MIN_GROUPS == 3
    monkeypatch.setattr("shibolet.scoring.intervals.MIN_GROUPS", 2)
    shares = {}
    for k in (2, 3, 4, 5, 6, 8):
        rng, shape = np.random.default_rng(k), (k, 3000)
        changes = rng.binomial(5, 0.15, shape).astype(float) - rng.binomial(5, 0.15, shape)
        found = ratio_intervals(changes, np.full(shape, 5.0), [str(i) for i in range(k)], samples=500)
        shares[k] = float(np.mean([not estimate.low <= 0 <= estimate.high for estimate in found]))
    print("\ntype-I error by number of groups:", ", ".join(f"{k}: {share:.1%}" for k, share in shares.items()))
    assert shares.pop(2) > 0.10 and max(shares.values()) <= 0.06


@pytest.mark.parametrize("num_groups", [5, 17, 54])
def test_type_i_error_of_groups_of_very_unequal_length(num_groups: int) -> None:
    """Lengths after Zipf; a factor of sqrt(k / (k - 1)) alone rejects up to 7.5% of true nulls at 17 and 54 groups."""
    rng, shape = np.random.default_rng(num_groups), (num_groups, 4000)
    length = np.round(2000 / np.arange(1, num_groups + 1))[:, None] * np.ones(4000)
    changes = length * rng.normal(0, 0.05, shape) + rng.normal(0, 0.2, shape) * np.sqrt(length)
    found = ratio_intervals(changes, length, [str(i) for i in range(num_groups)], samples=1000)
    assert 0.03 <= np.mean([estimate.p < 0.05 for estimate in found]) <= 0.062


@pytest.mark.parametrize("num_recordings", [40, 400, 2000])
def test_ten_thousand_draws_take_well_under_a_second(num_recordings: int) -> None:
    changes = np.random.default_rng(0).integers(-3, 4, (num_recordings, 2)).astype(float)
    clusters = [str(i) for i in range(num_recordings)]
    ratio_intervals(changes[:3], np.ones((3, 2)), clusters[:3], samples=100)  # scipy loads
    start = time.process_time()
    ratio_intervals(changes, np.full(changes.shape, 20.0), clusters)
    assert time.process_time() - start < 1  # about 0.3 s at 2,000


@pytest.mark.parametrize("num_speakers", [3, 12, 40])
def test_the_smallest_difference_is_shown_in_four_of_five_sets(num_speakers: int) -> None:
    """A true difference of the size that such sets say on average that they could show, simulated."""
    first, second, length, speakers = nulls(2000, num_speakers)
    changes = second - first
    detectable = np.mean([estimate.detectable for estimate in ratio_intervals(changes, length, speakers, samples=500)])
    found = ratio_intervals(changes - detectable * length, length, speakers, samples=500)
    assert 0.77 <= np.mean([estimate.high < 0 for estimate in found]) <= 0.83
