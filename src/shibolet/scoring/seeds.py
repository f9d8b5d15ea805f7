"""The difference between two trainings of which several seeds are known: their means, and how far these could move.

Two seeds of one recipe are two models, and an interval over groups is of one model: it says nothing of the next seed.
Here the variance of the difference of the means is the one over groups plus, for each side of several seeds, the
variance between its seeds divided by their number. The degrees of freedom are those of Welch (1947) and Satterthwaite
(1946). benchmarks/simulations/seeds.py measures how often equal trainings are told apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import LEVEL, Estimate, Spread, differences, lengths, ratio_spreads

MIN_SEEDS = 3  # of two the variance has one degree of freedom, and its interval shows hardly anything


@dataclass(frozen=True, slots=True)
class SeedsEstimate:
    """A difference of means over seeds (1.0 = as many errors as reference words)."""

    estimate: Estimate  # of both variances together
    groups_error: float | None  # standard error over groups alone; None: too few groups, or no reference words
    seeds_error: float  # standard error of the means over seeds alone
    rates: tuple[tuple[float, ...], tuple[float, ...]]  # of each system of both sides
    spreads: tuple[float | None, float | None]  # standard deviation of the rate between seeds of each side; None: one


def seeds_difference(
    first: Sequence[Sequence[EditCounts]],
    second: Sequence[Sequence[EditCounts]],
    clusters: Sequence[str],
    *,
    samples: int = 10_000,
    seed: int = 0,
    level: float = LEVEL,
) -> SeedsEstimate:
    """Mean rate of the systems of the second side minus that of the first; each side is the seeds of one training.

    Every system has a count for each utterance; `clusters` names the group of each. A side of one system is that
    system as it is: it has no variance between seeds. ValueError for two seeds, and for other references.
    """
    length = lengths(first[0])
    for side in (first, second):
        if len(side) == 2:
            raise ValueError(f"a variance between seeds takes {MIN_SEEDS} of them, not 2")
        if any(lengths(system).tolist() != length.tolist() for system in side):
            raise ValueError("systems must be scored against the same references")
    changes = np.mean([differences(first[0], system) for system in second], axis=0)
    changes -= np.mean([differences(first[0], system) for system in first], axis=0)
    (over_groups,) = ratio_spreads(changes[:, None], length[:, None], clusters, samples=samples, seed=seed)
    total = length.sum() or np.nan
    rates = tuple(
        tuple(float(sum(one.errors for one in system) / total) for system in side) for side in (first, second)
    )
    variances = [(float(np.var(side, ddof=1)), len(side)) if len(side) > 1 else None for side in rates]
    parts = [(variance / num, num - 1) for variance, num in filter(None, variances)]
    return SeedsEstimate(
        estimate=with_seeds(over_groups, parts).estimate(level),
        groups_error=over_groups.standard_error,
        seeds_error=sum(variance for variance, _ in parts) ** 0.5,
        rates=rates,
        spreads=tuple(None if one is None else one[0] ** 0.5 for one in variances),
    )


def with_seeds(over_groups: Spread, parts: Sequence[tuple[float, int]]) -> Spread:
    """A spread over groups with further variances, each with its degrees of freedom (Satterthwaite 1946)."""
    if over_groups.standard_error is None:
        return over_groups
    every = [(over_groups.standard_error**2, over_groups.freedom), *parts]
    total = sum(variance for variance, _ in every)
    if total == 0:
        return over_groups
    freedom = total**2 / sum(variance**2 / own for variance, own in every)
    return Spread(over_groups.value, total**0.5, freedom, over_groups.num_clusters)
