"""Several seeds of two trainings: how often equal trainings are told apart, by which variance and degrees of freedom.

Two equal trainings share what each group is like for both. Each has a taste of its own for groups, seeds have levels of
their own (a standard deviation in standard errors over groups) and a taste of their own. Beside the rule stand k - 1
degrees of freedom, the interval over groups alone, and one seed a side as it is compared without other seeds.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr

from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import difference_interval
from shibolet.scoring.seeds import seeds_difference
from simulations.rates import decided

WORDS, SAMPLES = 200, 200  # words of a group; draws of a bootstrap, whose noise is small against that of the seeds
BAR = 0.05  # admitted: 0.025 is expected, and with three seeds of one side that differ much Satterthwaite gives 0.04


def cells(runs: int, seed: int) -> dict[str, dict]:
    """Every bar of the rule for seeds."""
    found = {}
    for num_groups in (12, 40):
        for seeds in (3, 5):
            for sides, name in (((seeds, seeds), "both sides"), ((1, seeds), "candidate alone")):
                for spread in (0.0, 1.0, 3.0):
                    found[f"{seeds} seeds of {name}, {num_groups} groups, seeds {spread:g} errors apart"] = decided(
                        lambda n, k=num_groups, s=sides, d=spread: told_apart(k, s, d, n, seed), runs,
                        lambda cell: cell["better"] <= BAR, f"better <= {BAR}",
                    )  # fmt: skip
    return found


def told_apart(num_groups: int, sides: tuple[int, int], spread: float, runs: int, seed: int) -> dict[str, float]:
    """Shares of pairs of equal trainings of which the second is shown to be better, by each rule."""
    rng, groups = np.random.default_rng(seed), [f"g{i}" for i in range(num_groups)]
    tally = {"better": 0, "of_k_1": 0, "groups_alone": 0, "one_seed": 0}
    for _ in range(runs):
        first, second = drawn(rng, num_groups, sides, spread)
        found = seeds_difference(first, second, groups, samples=SAMPLES)
        total = (found.groups_error**2 + found.seeds_error**2) ** 0.5
        tally["better"] += found.estimate.high < 0
        tally["of_k_1"] += stdtr(max(sides) - 1, found.estimate.value / total) < 0.025
        tally["groups_alone"] += stdtr(num_groups - 1, found.estimate.value / found.groups_error) < 0.025
        tally["one_seed"] += difference_interval(first[0], second[0], groups, samples=SAMPLES).high < 0
    return {name: num / runs for name, num in tally.items()}


def drawn(rng, num_groups: int, sides: tuple[int, int], spread: float) -> list[list[Sequence[EditCounts]]]:
    """Counts a group of each seed of both trainings; a side of one system has no level of its own."""
    hard, taste = rng.beta(4, 16, num_groups), 0.04
    error = taste * (2 / num_groups) ** 0.5  # standard error over groups of the difference
    made = []
    for seeds in sides:
        own = hard + rng.normal(0, taste, num_groups)
        levels = rng.normal(0, spread * error, (seeds, 1)) if seeds > 1 else np.zeros((1, 1))
        rates = own + levels + rng.normal(0, taste / 4, (seeds, num_groups))
        made.append(
            [[EditCounts(WORDS - w, w) for w in rng.binomial(WORDS, np.clip(one, 0, 1)).tolist()] for one in rates]
        )
    return made
