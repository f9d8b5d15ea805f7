"""The difference between two trainings of which several seeds were scored, and what is said where there is but one."""

from collections.abc import Sequence

from shibolet.compare.config import CompareConfig
from shibolet.compare.nearest import Rows
from shibolet.compare.pairs import Names, pair_rows, points_of, shown_by
from shibolet.records.documents.comparison import BetweenSeeds, SeedsSide
from shibolet.scoring.rows import ScoredRow

OtherSeeds = tuple[Sequence[Sequence[ScoredRow]], Sequence[Sequence[ScoredRow]]]  # of the baseline, of the candidate
NO_SEEDS: OtherSeeds = ((), ())
ONE_TRAINING = "The candidate is one training; another seed may differ."


def between_seeds(rows: Rows, others: OtherSeeds, names: Names, config: CompareConfig) -> BetweenSeeds | None:
    """Mean WER over the seeds of the candidate less that of the baseline; None without other seeds, or words.

    DataError where one of them is not scored on the same utterances.
    """
    from shibolet.scoring.seeds import seeds_difference  # numpy: kept out of `shibolet --help`

    if not any(others):
        return None
    pairs = pair_rows(*rows, (names[0].title, names[1].title))
    first, second = (
        [[row.words for row in own], *(_beside(rows[0], other, named.title) for other in more)]
        for own, more, named in zip(zip(*[(p.baseline, p.candidate) for p in pairs]), others, names, strict=True)
    )
    found = seeds_difference(
        first, second, [pair.group for pair in pairs], samples=config.bootstrap_samples, seed=config.seed
    )
    if (delta := points_of(found.estimate.value)) is None:
        return None
    sides = [
        SeedsSide(title=named.title, wer_pct=tuple(100 * rate for rate in rates), spread_points=points_of(spread))
        for named, rates, spread in zip(names, found.rates, found.spreads, strict=True)
    ]
    low, high = points_of(found.estimate.low), points_of(found.estimate.high)
    interval = None if low is None else (low, high)
    return BetweenSeeds(
        baseline=sides[0], candidate=sides[1], delta_points=delta, interval_points=interval, shown=shown_by(interval),
        p=found.estimate.p, groups_error_points=points_of(found.groups_error),
        seeds_error_points=100 * found.seeds_error, sentence=_sentence(sides, delta, interval),
    )  # fmt: skip


def _beside(baseline: Sequence[ScoredRow], other: Sequence[ScoredRow], title: str) -> list:
    """Counts of another seed in the order of the baseline's utterances."""
    return [pair.candidate.words for pair in pair_rows(baseline, other, ("the baseline", f"another seed of {title}"))]


def _sentence(sides: Sequence[SeedsSide], delta: float, interval: tuple[float, float] | None) -> str:
    several = [side for side in sides if side.spread_points is not None]
    who = " and ".join(f"{len(side.wer_pct)} seeds of {side.title}" for side in several)
    spread = " and ".join(f"{side.spread_points:.2f}" for side in several)
    within = "of too few groups for an interval"
    if interval:
        within = f"95% interval {interval[0]:+.2f} to {interval[1]:+.2f} with the variance between seeds"
    return f"Over {who} the mean difference is {delta:+.2f} points, {within} (standard deviation {spread} points)."
