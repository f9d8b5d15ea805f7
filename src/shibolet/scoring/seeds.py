"""A difference between two ways to train, from several trainings of each: utterances vary, and so do seeds.

Two trainings of one recipe that differ in the seed alone differ in WER too, and an interval over utterances knows
nothing of that: it is of the two models, not of what they were trained on. Here the variance of the mean over seeds is
that of test speech plus that between seeds; degrees of freedom by Satterthwaite (1946). U utterances, S seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import LEVEL, differences, lengths, ratio_intervals


@dataclass(frozen=True, slots=True)
class SeedsEstimate:
    """The mean difference over seeds (1.0 = as many errors as reference words) and its interval."""

    value: float | None  # None: no reference words
    by_seed: tuple[float, ...]  # [S]
    low: float | None  # None: too few groups of speech, or one seed
    high: float | None


def seeds_interval(
    first: Sequence[Sequence[EditCounts]],
    second: Sequence[Sequence[EditCounts]],
    clusters: Sequence[str],
    *,
    level: float = LEVEL,
) -> SeedsEstimate:
    """Rate of the second way minus that of the first, [S][U] counts of each; seed by seed on the same utterances."""
    from scipy.special import stdtrit

    length, num_seeds = lengths(first[0]), len(first)
    found = np.array([differences(one, two) for one, two in zip(first, second, strict=True)])  # [S, U]
    if not (total := length.sum()):
        return SeedsEstimate(None, (), None, None)
    by_seed = found.sum(axis=1) / total
    (speech,) = ratio_intervals(found.mean(axis=0)[:, None], length[:, None], clusters, level=level)
    value, rounded = float(by_seed.mean()), tuple(map(float, by_seed))
    if speech.low is None or num_seeds < 2:
        return SeedsEstimate(value, rounded, None, None)
    # Of speech the half width and its own degrees of freedom are known; as a normal one it has this variance.
    freedom = max(1, speech.num_clusters - 1)
    of_speech = ((speech.high - speech.low) / 2 / float(stdtrit(freedom, (1 + level) / 2))) ** 2
    of_seeds = float(by_seed.var(ddof=1)) / num_seeds
    variance = of_speech + of_seeds
    if not variance:
        return SeedsEstimate(value, rounded, value, value)
    shared = variance**2 / (of_speech**2 / freedom + of_seeds**2 / (num_seeds - 1))
    half = float(stdtrit(shared, (1 + level) / 2)) * math.sqrt(variance)
    return SeedsEstimate(value, rounded, value - half, value + half)
