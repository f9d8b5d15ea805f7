"""The difference of two candidates in words of a list and in all others, B-WER and U-WER; it decides nothing."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from shibolet.compare.config import CompareConfig
from shibolet.compare.nearest import Rows
from shibolet.compare.pairs import Names, changed, pair_rows
from shibolet.records.documents.comparison import RateDifference, TermsChange
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.wording import shown_pct

if TYPE_CHECKING:
    from shibolet.scoring.biasing import Apart


def terms_change(rows: Rows, names: Names, config: CompareConfig, terms: Collection[str]) -> TermsChange | None:
    """Both rates of both, with paired intervals over groups; `terms` are words as scores count them.

    None where there is no list.
    """
    if not terms:
        return None
    from shibolet.scoring.biasing import count_apart  # numpy: kept out of `shibolet --help`

    pairs = pair_rows(*rows, (names[0].title, names[1].title))
    sides = [
        [count_apart(row.said.split(), row.heard.split(), terms) for row in side]
        for side in zip(*((pair.baseline, pair.candidate) for pair in pairs), strict=True)
    ]
    groups = [pair.group for pair in pairs]
    listed, others = (_difference(sides, name, groups, config) for name in ("listed", "others"))
    false_words = tuple(sum(one.false_words for one in side) for side in sides)
    said = " ".join([_said("B-WER", listed), _said("U-WER", others)])
    return TermsChange(
        words=len(terms), listed=listed, others=others, false_words=false_words,
        sentence=f"Of the {len(terms):,} words of evaluate.context: {said} Written where they are not said: "
        f"{false_words[0]:,} and {false_words[1]:,}.",
    )  # fmt: skip


def _difference(
    sides: "Sequence[Sequence[Apart]]", name: str, groups: Sequence[str], config: CompareConfig
) -> RateDifference:
    from shibolet.scoring.intervals import difference_interval

    counts = [[getattr(one, name) for one in side] for side in sides]
    found = difference_interval(*counts, groups, samples=config.bootstrap_samples, seed=config.seed)
    before, after = (sum(side, EditCounts()) for side in counts)
    return RateDifference(baseline=before.word_errors(), candidate=after.word_errors(), **changed(before, after, found))


def _said(name: str, one: RateDifference) -> str:
    if one.delta_points is None:
        return f"{name} has no words in the references."
    rates = f"{shown_pct(one.baseline.rate)} and {shown_pct(one.candidate.rate)}, {one.delta_points:+.2f} points"
    if one.interval_points is None:
        return f"{name} {rates}, of too few groups for an interval."
    within = "95% interval {:+.2f} to {:+.2f}".format(*one.interval_points)
    return f"{name} {rates}, {within}, {one.shown}."
