"""How far a rate, or the difference of two rates on the same utterances, could move with other recordings and speakers.

Utterances of one recording or speaker share their fate, so groups of them (`records.groups`) are what is resampled
(Bisani and Ney, 2004, with whole groups). Percentile intervals of that bootstrap reject a true null in 6.5-7.4% of
cases at 40 speakers. Here the bootstrap gives the standard error, corrected for its bias (`_unbiased`), and Student's t
the width, with Kish's effective number of groups in place of their number, for groups of unequal length: about 5%
(benchmarks/simulations/keep.py). Interval, p value, probability of improvement and the smallest difference all come
from that one standard error and that one distribution, so they cannot contradict each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.scoring.counts import EditCounts

LEVEL = 0.95
# Of groups. Two often have the same difference by chance, and then no variance: they reject up to 12% of true nulls.
MIN_GROUPS = 3
POWER = 0.80  # of the smallest difference that a set could show
_CHUNK_DRAWS = 4_000_000  # draws held at once: 32 MB an array


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate or a difference of rates (1.0 = as many errors as reference words) and its interval."""

    value: float | None  # None: no reference words
    low: float | None  # None: fewer than MIN_GROUPS groups
    high: float | None
    num_clusters: int
    p: float | None  # two-sided, of no difference: under 0.05 exactly where a 95% interval leaves 0 out
    below_zero_frac: float | None  # of a difference, probability of improvement: 97.5% where a 95% interval ends at 0
    detectable: float | None  # a true difference of this size would leave 0 out of the interval in 80% of such sets


@dataclass(frozen=True, slots=True)
class Spread:
    """A rate or a difference of rates, and how far it could move."""

    value: float | None  # None: no reference words
    standard_error: float | None  # None: no reference words, or fewer than MIN_GROUPS groups
    freedom: float | None  # degrees of freedom of the standard error
    num_clusters: int

    def estimate(self, level: float) -> Estimate:
        """The interval by Student's t, and all that comes from the same distribution."""
        from scipy.special import stdtr, stdtrit  # 0.35 s

        value, standard_error, freedom = self.value, self.standard_error, self.freedom
        if value is None or standard_error is None:
            return Estimate(value, None, None, self.num_clusters, None, None, None)
        half_width = float(stdtrit(freedom, (1 + level) / 2) * standard_error)
        # Without variance any difference is infinitely many standard errors away from 0, and none is 0 of them.
        t = value / standard_error if standard_error else math.copysign(math.inf, value) if value else 0.0
        return Estimate(
            value, value - half_width, value + half_width, self.num_clusters, p=float(2 * stdtr(freedom, -abs(t))),
            below_zero_frac=float(stdtr(freedom, -t)),
            detectable=standard_error * _detectable_errors(freedom, level) if standard_error else None,
        )  # fmt: skip


def rate_interval(
    counts: Sequence[EditCounts], clusters: Sequence[str], *, samples: int = 10_000, seed: int = 0, level: float = LEVEL
) -> Estimate:
    """The pooled error rate of one system; `clusters` names the group of each utterance."""
    errors = np.array([count.errors for count in counts], dtype=float)
    (estimate,) = ratio_intervals(
        errors[:, None], lengths(counts)[:, None], clusters, samples=samples, seed=seed, level=level
    )
    low = None if estimate.low is None else max(0.0, estimate.low)
    return Estimate(estimate.value, low, estimate.high, estimate.num_clusters, None, None, None)


def difference_interval(
    first: Sequence[EditCounts],
    second: Sequence[EditCounts],
    clusters: Sequence[str],
    *,
    samples: int = 10_000,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Pooled rate of the second system minus that of the first, paired by utterance; negative: the second is better."""
    if (length := lengths(first)).tolist() != lengths(second).tolist():
        raise ValueError("paired systems must be scored against the same references")
    (estimate,) = ratio_intervals(
        differences(first, second)[:, None], length[:, None], clusters, samples=samples, seed=seed, level=level
    )
    return estimate


def lengths(counts: Sequence[EditCounts]) -> np.ndarray:
    """[U] reference words or characters of each utterance."""
    return np.array([count.reference_length for count in counts], dtype=float)


def differences(first: Sequence[EditCounts], second: Sequence[EditCounts]) -> np.ndarray:
    """[U] errors of the second system less those of the first."""
    return np.array([two.errors - one.errors for one, two in zip(first, second, strict=True)], dtype=float)


def cluster_sums(values: np.ndarray, clusters: Sequence[str]) -> np.ndarray:
    """[K, ...] sums of `values` [U, ...] by group, groups in order of their names."""
    names, member_of = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, member_of, values)
    return sums


def ratio_intervals(
    numerators: np.ndarray,
    denominators: np.ndarray,
    clusters: Sequence[str],
    *,
    samples: int = 10_000,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Estimate]:
    """sum(numerators) / sum(denominators) with its interval, for each of M columns of [U, M].

    All columns see the same draws. Sums are of integers, so they are exact in float64 and in any order.
    """
    found = ratio_spreads(numerators, denominators, clusters, samples=samples, seed=seed)
    return [one.estimate(level) for one in found]


def ratio_spreads(
    numerators: np.ndarray, denominators: np.ndarray, clusters: Sequence[str], *, samples: int, seed: int
) -> list[Spread]:
    """The same before there is a level."""
    tops, bottoms = cluster_sums(numerators, clusters), cluster_sums(denominators, clusters)  # [K, M]
    k, m = tops.shape
    total, length = tops.sum(axis=0), bottoms.sum(axis=0)
    values = [float(t / n) if n else None for t, n in zip(total, length)]
    if k < MIN_GROUPS:
        return [Spread(value, None, None, k) for value in values]
    resampled = resample(np.concatenate([tops, bottoms], axis=1), samples, seed)
    found = []
    for i, value in enumerate(values):
        if value is None:
            found.append(Spread(None, None, None, k))
            continue
        drawn = resampled[:, m + i] > 0  # a draw of nothing but empty references has no rate
        ratios = resampled[drawn, i] / resampled[drawn, m + i]
        standard_error = float(ratios.std()) * _unbiased(tops[:, i], bottoms[:, i])
        # Kish's effective number, less its share of the one that the mean takes; k - 1 of groups of equal length.
        freedom = max((1 - 1 / k) * length[i] ** 2 / np.sum(bottoms[:, i] ** 2), 1)
        found.append(Spread(value, standard_error, float(freedom), k))
    return found


def _unbiased(tops: np.ndarray, bottoms: np.ndarray) -> float:
    """What a bootstrap's standard error over groups is multiplied by: sqrt(k / (k - 1)) for groups of equal length.

    Where the rates of groups vary alike, the squared distance of a group's rate from the pooled one, which it pulls
    towards itself, is too small on average: by 1 - 2w + sum(w^2), w being the shares of the groups in the length.
    """
    share = bottoms / bottoms.sum()
    squares = (tops - bottoms * tops.sum() / bottoms.sum()) ** 2
    shrunk = np.maximum(1 - 2 * share + np.sum(share**2), 1e-6)
    return float(np.sqrt(np.sum(squares / shrunk) / squares.sum())) if squares.any() else 1.0


def _detectable_errors(freedom: float, level: float) -> float:
    """Standard errors, as estimated, in the smallest difference that is shown in 80% of sets (noncentral t).

    On average an estimated standard error is too small, by the mean of a chi distribution: the second factor.
    """
    from scipy.special import nctdtrinc, stdtrit

    shrinks = math.sqrt(2 / freedom) * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    return float(nctdtrinc(freedom, 1 - POWER, stdtrit(freedom, (1 + level) / 2)) / shrinks)


def resample(sums: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """[samples, C]: column sums over K groups drawn with replacement, from `sums` [K, C]."""
    rng = np.random.default_rng(seed)
    k = len(sums)
    chunk_samples = max(1, _CHUNK_DRAWS // k)
    chunks = []
    for start in range(0, samples, chunk_samples):
        num = min(chunk_samples, samples - start)
        drawn = rng.integers(0, k, (num, k)) + k * np.arange(num)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=num * k).reshape(num, k)
        chunks.append(times_drawn.astype(float) @ sums)
    return np.concatenate(chunks)
