"""Two candidates on the same utterances: rows side by side, and what differs in all and by slice."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from shibolet.compare.config import CompareConfig
from shibolet.errors import DataError
from shibolet.records.documents.comparison import (
    BETTER,
    NOT_SHOWN,
    WORSE,
    Block,
    CharDifference,
    LargestGroup,
    Losses,
    Method,
    Named,
    PairComparison,
    Shown,
    SystemPair,
    SystemRates,
    SystemsComparison,
    Without,
    WordDifference,
)
from shibolet.records.documents.scores import Ends, Overlap
from shibolet.records.groups import Counted, count_groups
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.slices import BUCKETS_S, Buckets, group, pool, slices

if TYPE_CHECKING:
    from shibolet.scoring.intervals import Estimate

Names = tuple[Named, Named]  # baseline, candidate
Overlaps = Mapping[str, Overlap]  # by set
NO_OVERLAPS: Overlaps = MappingProxyType({})


class Pair(NamedTuple):
    """One utterance in both."""

    baseline: ScoredRow
    candidate: ScoredRow
    segments: list[int]  # errors of the candidate less those of the baseline in each segment of MAPSSWE
    group: str  # of recordings and speakers, among all the pairs that are compared


def compare_systems(
    rows_by_system: Mapping[Named, Sequence[ScoredRow]],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    overlaps_by_label: Mapping[str, Overlaps] = MappingProxyType({}),
) -> SystemsComparison:
    """WER and CER of each of two or more systems, and every pair of them compared, second minus first.

    What a system's training data share with the sets, where they are known, is in the sentences of its pairs too.
    """
    if len(rows_by_system) < 2:
        raise DataError(f"a comparison needs two systems, not {len(rows_by_system)}")
    return SystemsComparison(
        systems=system_rates(rows_by_system),
        overlaps={label: dict(overlaps) for label, overlaps in overlaps_by_label.items()},
        pairs=system_pairs(combinations(rows_by_system, 2), rows_by_system, config, buckets, overlaps_by_label),
    )


def system_rates(rows_by_system: Mapping[Named, Sequence[ScoredRow]]) -> dict[str, SystemRates]:
    """By label, each system on all its rows."""
    pooled = {named: pool(rows).scores() for named, rows in rows_by_system.items()}
    return {
        named.label: SystemRates(title=named.title, wer=scores.wer, cer=scores.cer) for named, scores in pooled.items()
    }


def system_pairs(
    chosen: Iterable[Names],
    rows_by_system: Mapping[Named, Sequence[ScoredRow]],
    config: CompareConfig,
    buckets: Buckets,
    overlaps_by_label: Mapping[str, Overlaps],
) -> tuple[SystemPair, ...]:
    """These pairs of systems compared, their p values adjusted for the number of pairs."""
    from shibolet.scoring.significance import holm  # numpy: kept out of `shibolet --help`

    pairs = [compare_pair(*(rows_by_system[named] for named in names), config, names, buckets) for names in chosen]
    adjusted = holm({place: p for place, pair in enumerate(pairs) if (p := pair.overall.wer.p) is not None})
    return tuple(
        SystemPair(
            **dict(pair) | {"sentence": " ".join([pair.sentence, *_trained_on(pair, overlaps_by_label)])},
            holm_p=adjusted.get(place),
        )
        for place, pair in enumerate(pairs)
    )


def _trained_on(pair: PairComparison, overlaps_by_label: Mapping[str, Overlaps]) -> list[str]:
    """A sentence for each set that is in the training data of one of the two."""
    return [
        f"{named.title}: {overlap.sentence}"
        for named in (pair.baseline, pair.candidate)
        for overlap in overlaps_by_label.get(named.label, {}).values()
        if overlap.utterances
    ]


def compare_pair(
    baseline: Sequence[ScoredRow],
    candidate: Sequence[ScoredRow],
    config: CompareConfig,
    names: Names,
    buckets: Buckets = BUCKETS_S,
) -> PairComparison:
    """The two in all and by each breakdown of `scoring.slices`; each set's Holm p is adjusted for their number.

    DataError where the two do not pair.
    """
    titles = names[0].title, names[1].title
    pairs = pair_rows(baseline, candidate, titles)
    counted, overall = counted_of(pairs), block_of(pairs, config)
    by = {
        breakdown: {name: block_of(members, config) for name, members in groups.items()}
        for breakdown, groups in slices(pairs, lambda pair: pair.baseline, buckets).items()
    }
    lost, largest = _losses(pairs, config, titles), _largest_group(pairs, config)
    return PairComparison(
        baseline=names[0],
        candidate=names[1],
        sentence=sentence_of(overall.wer, titles, counted),
        beside=[*lost.sentences, *([largest.sentence] if largest and overall.wer.shown != NOT_SHOWN else [])],
        overall=overall,
        **{"domains": {}, "noise": {}, "speakers": {}, **by, "sets": adjusted(by["sets"])},
        losses=lost,
        largest_group=largest,
        method=Method(
            interval=f"paired bootstrap over {counted.words}, Student t, 95%",
            caveat=counted.caveat,
            bootstrap_samples=config.bootstrap_samples,
            seed=config.seed,
            p="two-sided, of the same Student t as the interval",
            mapsswe="segments between two words that both have right, alignment 4/3/3, two-sided normal",
            holm="p over sets",
            detectable="true difference that would be shown in 80% of such sets, noncentral t",
        ),
    )


def pair_rows(baseline: Sequence[ScoredRow], candidate: Sequence[ScoredRow], titles: tuple[str, str]) -> list[Pair]:
    """Rows of the same set and id side by side, in the baseline's order; DataError for what has no partner."""
    from shibolet.scoring.significance import segment_differences  # numpy: kept out of `shibolet --help`

    one_by_id, two_by_id = _by_id(baseline, titles[0]), _by_id(candidate, titles[1])
    if not one_by_id:
        raise DataError(f"nothing to compare: {titles[0]} has no scored utterances; run 'shibolet evaluate' first")
    for have, lack, name in ((one_by_id, two_by_id, titles[1]), (two_by_id, one_by_id, titles[0])):
        missing = [f"{set}/{id}" for set, id in have if (set, id) not in lack]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(have)} utterances have no score in {name}: {', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}; evaluate both on the same sets"
            )
    pairs, groups = [], groups_of(one_by_id.values())
    for (key, one), of_group in zip(one_by_id.items(), groups, strict=True):
        two = two_by_id[key]
        lengths = [(row.words.reference_length, row.chars.reference_length) for row in (one, two)]
        if one.reference != two.reference or lengths[0] != lengths[1]:
            raise DataError(
                f"utterance '{one.id}' of set '{one.set}' has another reference in {titles[1]} ((words, characters) "
                f"{lengths[0]} and {lengths[1]}); score both with the same data and normaliser"
            )
        pairs.append(Pair(one, two, segment_differences(one.said, one.heard, two.heard), of_group))
    return pairs


def _by_id(rows: Sequence[ScoredRow], name: str) -> dict[tuple[str, str], ScoredRow]:
    by_id: dict[tuple[str, str], ScoredRow] = {}
    for row in rows:
        if (row.set, row.id) in by_id:
            raise DataError(f"{name} scores utterance '{row.id}' of set '{row.set}' twice; ids must be unique in a set")
        by_id[row.set, row.id] = row
    return by_id


def block_of(pairs: Sequence[Pair], config: CompareConfig) -> Block:
    """Both on some utterances."""
    import numpy as np  # kept out of `shibolet --help`

    from shibolet.scoring import intervals, significance

    counted, sides = counted_of(pairs), [(pair.baseline, pair.candidate) for pair in pairs]
    words, chars = (
        [[getattr(row, unit) for row in side] for side in zip(*sides, strict=True)] for unit in ("words", "chars")
    )
    changes = np.stack([intervals.differences(*counts) for counts in (words, chars)], axis=1)  # [U, 2]
    lengths = np.stack([intervals.lengths(counts[0]) for counts in (words, chars)], axis=1)
    of_words, of_chars = intervals.ratio_intervals(
        changes, lengths, [pair.group for pair in pairs], samples=config.bootstrap_samples, seed=config.seed
    )
    before, after = (sum(side, EditCounts()) for side in words)
    letters_before, letters_after = (sum(side, EditCounts()) for side in chars)
    return Block(
        utterances=len(pairs),
        groups=counted.number,
        counted=counted.words,
        duration_s=round(sum(pair.baseline.duration_s for pair in pairs), 3),
        wer=WordDifference(
            baseline=before.word_errors(),
            candidate=after.word_errors(),
            **changed(before, after, of_words),
            mapsswe=significance.mapsswe([change for pair in pairs for change in pair.segments]),
        ),
        cer=CharDifference(
            baseline=letters_before.char_errors(),
            candidate=letters_after.char_errors(),
            **changed(letters_before, letters_after, of_chars),
        ),
    )


def changed(before: EditCounts, after: EditCounts, estimate: "Estimate") -> dict[str, Any]:
    """The fields of a `Difference`."""
    interval = _interval(estimate)
    return {
        "delta_points": points_of(estimate.value),
        "delta_relative_pct": 100 * (after.errors - before.errors) / before.errors if before.errors else None,
        "interval_points": interval,
        "shown": shown_by(interval),
        "probability_of_improvement": estimate.below_zero_frac,
        "p": estimate.p,
        "detectable_points": points_of(estimate.detectable),
    }


def counted_of(pairs: Sequence[Pair]) -> Counted:
    return count_groups((pair.baseline for pair in pairs), [pair.group for pair in pairs])


def adjusted(blocks: Mapping[Any, Block]) -> dict[Any, Block]:
    """The blocks with Holm's p in the WER of each that has a p."""
    from shibolet.scoring.significance import holm

    adjusted = holm({name: p for name, block in blocks.items() if (p := block.wer.p) is not None})
    return {
        name: block.model_copy(update={"wer": block.wer.model_copy(update={"holm_p": adjusted.get(name)})})
        for name, block in blocks.items()
    }


def points_of(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate


def _interval(estimate: "Estimate") -> Ends | None:
    return None if estimate.low is None else (100 * estimate.low, 100 * estimate.high)


def shown_by(interval_points: Ends | None) -> Shown:
    """What an interval says: better, worse, or that no difference is shown."""
    if interval_points is None or interval_points[0] <= 0 <= interval_points[1]:
        return NOT_SHOWN
    return BETTER if interval_points[1] < 0 else WORSE


def _losses(pairs: Sequence[Pair], config: CompareConfig, titles: tuple[str, str]) -> Losses:
    """Loops and failures of both, and what loops of the candidate may cost beyond those that were seen."""
    from shibolet.scoring import rare
    from shibolet.scoring.tallies import has_looped, is_failure

    sides = [pair.baseline for pair in pairs], [pair.candidate for pair in pairs]
    loops, failures = (rare.losses(*sides, is_lost) for is_lost in (has_looped, is_failure))
    cost = rare.cost_of_loop([*sides[0], *sides[1]], config.loop_cost) if config.loop_cost else 0.0
    again = [sum(row.written_again for row in side) for side in sides]
    return Losses(
        utterances=len(pairs),
        with_words=sum(row.words.reference_length > 0 for row in sides[0]),
        loops=loops.tally(),
        failures=failures.tally(),
        upper_pct=100 * loops.upper_frac,
        loop_cost=cost,
        unseen_points=100 * cost * loops.unseen_frac,
        sentences=rare.told(loops, failures, cost, titles, again),
    )


def _largest_group(pairs: Sequence[Pair], config: CompareConfig) -> LargestGroup | None:
    """The group that contributes most to the difference in WER, and the interval without it."""
    from shibolet.scoring import intervals

    change, words = sum(_change(pair) for pair in pairs), sum(pair.baseline.words.reference_length for pair in pairs)
    by_group = {name: sum(map(_change, members)) for name, members in group(pairs, lambda pair: pair.group).items()}
    if not change or not words or len(by_group) < 2:
        return None
    name = max(by_group, key=lambda name: by_group[name] / change)
    rest = [pair for pair in pairs if pair.group != name]
    without = intervals.difference_interval(
        [pair.baseline.words for pair in rest], [pair.candidate.words for pair in rest], [pair.group for pair in rest],
        samples=config.bootstrap_samples, seed=config.seed,
    )  # fmt: skip
    own, interval = 100 * (by_group[name] / words), _interval(without)
    sentence = f"The largest contribution of the {len(by_group):,} groups is {own:+.2f} points"
    if without.value is None:
        sentence += "; the others have no words."
    elif interval is None:
        sentence += f"; without it {points_of(without.value):+.2f} points, of too few groups for an interval."
    else:
        sentence += f"; without it {points_of(without.value):+.2f} points, {interval[0]:+.2f} to {interval[1]:+.2f}."
    rest_of_it = Without(delta_points=points_of(without.value), interval_points=interval)
    return LargestGroup(name=name, points=own, without=rest_of_it, sentence=sentence)


def _change(pair: Pair) -> int:
    return pair.candidate.words.errors - pair.baseline.words.errors


def sentence_of(wer: WordDifference, titles: tuple[str, str], counted: Counted) -> str:
    from shibolet.scoring.intervals import MIN_GROUPS

    if wer.delta_points is None:
        return f"{_capital(NOT_SHOWN)}: the references have no words."
    what = f"WER {wer.delta_points:+.2f} points"
    if wer.interval_points is None:
        return f"{_capital(NOT_SHOWN)}: {what}, and no interval over {counted.words}: it takes {MIN_GROUPS} at least."
    low, high = wer.interval_points
    what += f", 95% interval {low:+.2f} to {high:+.2f} over {counted.words}"
    caveat = "" if counted.caveat is None else f" {_capital(counted.caveat)}."
    if wer.shown != NOT_SHOWN:
        return f"{titles[1]} is {wer.shown} than {titles[0]}: {what}.{caveat}"
    smallest = wer.detectable_points
    seen = "" if smallest is None else f"; of these utterances a difference of {smallest:.2f} points could be seen"
    return f"{_capital(NOT_SHOWN)}: {what}{seen}.{caveat}"


def other_language_sentence(name: str, block: Block) -> str:
    """What a set in another language lost or gained."""
    wer = block.wer
    if wer.delta_points is None:
        return f"Set '{name}', in another language, has no words."
    within = "of too few groups for an interval"
    if wer.interval_points:
        within = "95% interval {:+.2f} to {:+.2f}".format(*wer.interval_points)
    before, after = (f"{100 * side.rate:.1f}%" for side in wer.sides)
    return f"Set '{name}', in another language, goes from {before} to {after}: {wer.delta_points:+.2f}, {within}."


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
