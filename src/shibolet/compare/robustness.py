"""Dose curves: two systems at every dose on the same utterances, and whether the gain grows with the dose."""

from collections.abc import Mapping, Sequence

from shibolet.compare.config import CompareConfig
from shibolet.compare.pairs import Names, Pair, adjusted, block_of, counted_of, pair_rows
from shibolet.errors import DataError
from shibolet.records.documents.comparison import BETTER, NOT_SHOWN, WORSE, Block, Shown, WordDifference
from shibolet.records.documents.robustness import SAID, DosePoint, Robustness
from shibolet.records.documents.scores import Ends
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import group
from shibolet.speech.doses import UNITS, Dose

Sides = tuple[Sequence[ScoredRow], Sequence[ScoredRow]]  # baseline, candidate
_LEVEL = 0.05  # of Holm's p, under which a sentence calls a difference shown


def robustness(rows_by_dose: Mapping[Dose, Sides], names: Names, config: CompareConfig) -> Robustness:
    """The document of clean copies, which come first, and doses; DataError where utterances do not pair."""
    titles = names[0].title, names[1].title
    pairs = {dose: pair_rows(*sides, titles) for dose, sides in rows_by_dose.items()}
    at_clean, *_ = pairs.values()
    _, *dosed = pairs.items()
    for dose, own in dosed:
        if [_key(pair) for pair in own] != [_key(pair) for pair in at_clean]:
            raise DataError(f"{dose.name} has other utterances than the clean copies; 'shibolet robustness' makes both")
    blocks = {dose: block_of(own, config) for dose, own in pairs.items()}
    blocks |= adjusted({dose: blocks[dose] for dose, _ in dosed})
    points = tuple(_point(dose, blocks[dose], own, at_clean, config) for dose, own in pairs.items())
    together = group([(dose, pair) for dose, own in dosed for pair in own], lambda one: one[0].kind)
    kinds = adjusted({kind: block_of([pair for _, pair in own], config) for kind, own in together.items()})
    by_set: dict[str, int] = {}
    for pair in at_clean:
        by_set[pair.baseline.set] = by_set.get(pair.baseline.set, 0) + 1
    return Robustness(
        baseline=names[0], candidate=names[1], utterances_by_set=by_set, points=points, kinds=kinds,
        sentences=_sentences(points, kinds, titles, counted_of(at_clean).caveat),
    )  # fmt: skip


def _key(pair: Pair) -> tuple[str, str]:
    return pair.baseline.set, pair.baseline.id


def _point(dose: Dose, block: Block, pairs: Sequence[Pair], clean: Sequence[Pair], config: CompareConfig) -> DosePoint:
    from shibolet.scoring import intervals

    groups = [pair.group for pair in clean]
    draws = {"samples": config.bootstrap_samples, "seed": config.seed}
    of_sides = [
        intervals.rate_interval([getattr(pair, side).words for pair in pairs], groups, **draws)
        for side in ("baseline", "candidate")
    ]
    beyond, interval = None, None
    if dose.kind != "clean":
        beyond, interval = _beyond(pairs, clean, groups, draws)
    return DosePoint(
        kind=dose.kind,
        amount=dose.amount,
        unit=UNITS[dose.kind],
        block=block,
        intervals_pct=tuple(None if one.low is None else (100 * one.low, 100 * one.high) for one in of_sides),
        beyond_points=beyond,
        beyond_interval_points=interval,
    )


def _beyond(
    pairs: Sequence[Pair], clean: Sequence[Pair], groups: Sequence[str], draws: dict[str, int]
) -> tuple[float | None, Ends | None]:
    """The difference of the two systems at a dose less that on the clean copies of the same utterances."""
    from shibolet.scoring import intervals

    changes = [
        intervals.differences([pair.baseline.words for pair in own], [pair.candidate.words for pair in own])
        for own in (clean, pairs)
    ]
    lengths = intervals.lengths([pair.baseline.words for pair in clean])
    (found,) = intervals.ratio_intervals((changes[1] - changes[0])[:, None], lengths[:, None], groups, **draws)
    if found.value is None:
        return None, None
    return 100 * found.value, None if found.low is None else (100 * found.low, 100 * found.high)


def _sentences(
    points: Sequence[DosePoint], kinds: Mapping[str, Block], titles: tuple[str, str], caveat: str | None
) -> tuple[str, ...]:
    """Kinds first: of a few groups no single one among so many doses may be shown."""
    clean, *dosed = points
    said, wer = [], clean.block.wer
    if wer.delta_points is None:
        return ("The references have no words.",)
    rates = " and ".join(f"{title} {100 * errors.rate:.1f}%" for title, errors in zip(titles, wer.sides, strict=True))
    said.append(f"On {clean.block.utterances:,} clean copies WER is {rates}, over {clean.block.counted}.")
    changes = [
        f"{SAID[kind]} {block.wer.delta_points:+.1f} points, {_shown(block.wer)}" for kind, block in kinds.items()
    ]
    said.append(f"{titles[1]} less {titles[0]} over all doses of a kind: {'; '.join(changes)}.")
    for shown in (BETTER, WORSE):
        if own := [point.said for point in dosed if _shown(point.block.wer) == shown]:
            said.append(f"{titles[1]} is {shown} at {', '.join(own)}.")
    if all(_shown(point.block.wer) == NOT_SHOWN for point in dosed):
        said.append(f"At none of the {len(dosed)} doses by itself is a difference shown.")
    said.append("Shown means p under 0.05, adjusted for the number of kinds or of doses.")
    if caveat:
        said.append(f"{caveat[0].upper()}{caveat[1:]}.")
    return tuple(said)


def _shown(wer: WordDifference) -> Shown:
    """What may be said of one of several differences: by its adjusted p."""
    return wer.shown if wer.holm_p is not None and wer.holm_p < _LEVEL else NOT_SHOWN
