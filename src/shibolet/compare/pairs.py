"""Two systems on the same utterances: rows side by side, and what differs in all and by slice."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from shibolet.compare.config import CompareConfig
from shibolet.errors import DataError
from shibolet.records.groups import Counted, count_groups
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.slices import BUCKETS_S, Buckets, group, slices

if TYPE_CHECKING:
    from shibolet.scoring.intervals import Estimate

Labels = tuple[str, str]  # keys of the two systems in a block
Overlaps = Mapping[str, Mapping]  # set -> what `evaluate.overlap` found

ROUNDS: Labels = ("round1", "round2")
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
UNITS = {"wer": "words", "cer": "chars"}  # measure -> what a row counts for it


class Pair(NamedTuple):
    """One utterance in both systems."""

    first: ScoredRow
    second: ScoredRow
    segments: list[int]  # errors of the second less those of the first in each segment of MAPSSWE
    group: str  # of recordings and speakers, among all the pairs that are compared


def compare_systems(
    rows_by_system: Mapping[str, Sequence[ScoredRow]],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    overlaps_by_system: Mapping[str, Overlaps] = MappingProxyType({}),
) -> dict:
    """JSON: WER and CER of each of two or more systems, and every pair of them compared, second minus first.

    "holm_p" of a pair is its p on all utterances, adjusted for the number of pairs. What a system's training data share
    with the sets, where they are known, is in "overlaps" and in the sentences of its pairs.
    """
    from shibolet.scoring.significance import holm  # numpy: kept out of `shibolet --help`

    if len(rows_by_system) < 2:
        raise DataError(f"a comparison needs two systems, not {len(rows_by_system)}")
    pairs = {
        names: compare_pair(*(rows_by_system[name] for name in names), config, buckets, names)
        for names in combinations(rows_by_system, 2)
    }
    tested = {names: pair["overall"]["wer"]["p"] for names, pair in pairs.items()}
    adjusted = holm({names: p for names, p in tested.items() if p is not None})
    return {
        "systems": {name: {measure: _sum(rows, measure) for measure in UNITS} for name, rows in rows_by_system.items()},
        "overlaps": {name: dict(overlaps) for name, overlaps in overlaps_by_system.items()},
        "pairs": [
            {
                "first": names[0], "second": names[1], "holm_p": adjusted.get(names), **pair,
                "sentence": " ".join([pair["sentence"], *_trained_on(names, overlaps_by_system)]),
            }
            for names, pair in pairs.items()
        ],
    }  # fmt: skip


def _trained_on(names: Labels, overlaps_by_system: Mapping[str, Overlaps]) -> list[str]:
    """A sentence for each set that is in a system's training data."""
    return [
        f"{name}: {overlap['sentence']}"
        for name in names
        for overlap in overlaps_by_system.get(name, {}).values()
        if overlap["utterances"]
    ]


def compare_pair(
    first: Sequence[ScoredRow],
    second: Sequence[ScoredRow],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    labels: Labels = ROUNDS,
    titles: Labels | None = None,
) -> dict:
    """JSON: a "sentence", and a block of WER and CER under "overall" and by name under each breakdown of
    `scoring.slices`; differences are second minus first, in points. Each set's "holm_p" is adjusted for their number.

    "losses" has loops and failures of both, "largest_group" the result without the group that contributes most, and
    "beside" says both in sentences. Overall pools all utterances: a set weighs as many words as it has. Raises
    DataError where the two do not pair.
    """
    titles = titles or labels
    pairs = pair_rows(first, second, titles)
    counted = _counted(pairs)
    overall = block_of(pairs, config, labels)
    breakdowns = {
        breakdown: {name: block_of(members, config, labels) for name, members in groups.items()}
        for breakdown, groups in slices(pairs, lambda pair: pair.first, buckets).items()
    }
    _adjust(breakdowns["sets"])
    lost, largest = _losses(pairs, config, labels, titles), _largest_group(pairs, config)
    beside = [*lost["sentences"], *([largest["sentence"]] if largest and overall["wer"]["shown"] != NOT_SHOWN else [])]
    return {
        "sentence": _sentence(overall["wer"], titles, counted),
        "beside": beside,
        "overall": overall,
        **breakdowns,
        "losses": lost,
        "largest_group": largest,
        "method": {
            "interval": f"paired bootstrap over {counted.words}, Student t, 95%",
            "caveat": counted.caveat,
            "bootstrap_samples": config.bootstrap_samples,
            "seed": config.seed,
            "p": "two-sided, of the same Student t as the interval",
            "mapsswe": "segments between two words that both have right, alignment 4/3/3, two-sided normal",
            "holm": "p over sets",
            "detectable": "true difference that would be shown in 80% of such sets, noncentral t",
        },
    }


def pair_rows(first: Sequence[ScoredRow], second: Sequence[ScoredRow], titles: Labels) -> list[Pair]:
    """Rows of the same set and id side by side, in the first one's order; DataError for what has no partner."""
    from shibolet.scoring.significance import segment_differences  # numpy: kept out of `shibolet --help`

    one_by_id, two_by_id = _by_id(first, titles[0]), _by_id(second, titles[1])
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


def _counts(rows: Sequence[ScoredRow], measure: str) -> list[EditCounts]:
    return [getattr(row, UNITS[measure]) for row in rows]


def _sum(rows: Sequence[ScoredRow], measure: str) -> dict:
    return sum(_counts(rows, measure), EditCounts()).to_json(UNITS[measure])


def block_of(pairs: list[Pair], config: CompareConfig, labels: Labels) -> dict:
    """Both systems on some utterances."""
    import numpy as np  # kept out of `shibolet --help`

    from shibolet.scoring import intervals, significance

    counted, clusters = _counted(pairs), [pair.group for pair in pairs]
    counts = {measure: [_counts(side, measure) for side in zip(*(pair[:2] for pair in pairs))] for measure in UNITS}
    changes = np.stack([intervals.differences(*counts[measure]) for measure in UNITS], axis=1)  # [U, 2]
    lengths = np.stack([intervals.lengths(counts[measure][0]) for measure in UNITS], axis=1)
    estimates = intervals.ratio_intervals(
        changes, lengths, clusters, samples=config.bootstrap_samples, seed=config.seed
    )
    block: dict = {
        "utterances": len(pairs),
        "groups": counted.number,
        "counted": counted.words,
        "duration_s": round(sum(pair.first.duration_s for pair in pairs), 3),
    }
    for i, (measure, unit) in enumerate(UNITS.items()):
        before, after = (sum(side, EditCounts()) for side in counts[measure])
        estimate = estimates[i]
        interval = _interval(estimate)
        block[measure] = {
            labels[0]: before.to_json(unit),
            labels[1]: after.to_json(unit),
            "delta_points": _points(estimate.value),
            "delta_relative_pct": 100 * (after.errors - before.errors) / before.errors if before.errors else None,
            "interval_points": interval,
            "shown": _shown(interval),
            "probability_of_improvement": estimate.below_zero_frac,
            "p": estimate.p,
            "detectable_points": _points(estimate.detectable),
        }
    block["wer"]["mapsswe"] = significance.mapsswe([change for pair in pairs for change in pair.segments]).to_json()
    return block


def _counted(pairs: Sequence[Pair]) -> Counted:
    return count_groups((pair.first for pair in pairs), [pair.group for pair in pairs])


def _adjust(blocks: dict[str, dict]) -> None:
    """Put Holm's p into the WER of each block that has a p."""
    from shibolet.scoring.significance import holm

    tested = {name: block["wer"]["p"] for name, block in blocks.items()}
    adjusted = holm({name: p for name, p in tested.items() if p is not None})
    for name, block in blocks.items():
        block["wer"]["holm_p"] = adjusted.get(name)


def _points(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate


def _interval(estimate: "Estimate") -> list[float] | None:
    return None if estimate.low is None else [_points(estimate.low), _points(estimate.high)]


def _shown(interval_points: list[float] | None) -> str:
    """What an interval of second minus first says: better, worse, or that no difference is shown."""
    if interval_points is None or interval_points[0] <= 0 <= interval_points[1]:
        return NOT_SHOWN
    return BETTER if interval_points[1] < 0 else WORSE


def _losses(pairs: Sequence[Pair], config: CompareConfig, labels: Labels, titles: Labels) -> dict:
    """Loops and failures of both, and what loops of the second may cost beyond those that were seen."""
    from shibolet.scoring import rare
    from shibolet.scoring.tallies import is_failure, is_loop

    sides = [pair.first for pair in pairs], [pair.second for pair in pairs]
    loops, failures = (rare.losses(*sides, is_lost) for is_lost in (is_loop, is_failure))
    cost = rare.cost_of_loop([*sides[0], *sides[1]], config.loop_cost) if config.loop_cost else 0.0
    return {
        "utterances": len(pairs),
        "with_words": sum(row.words.reference_length > 0 for row in sides[0]),
        "loops": loops.to_json(labels),
        "failures": failures.to_json(labels),
        "upper_pct": 100 * loops.upper_frac,
        "loop_cost": cost,
        "unseen_points": 100 * cost * loops.unseen_frac,
        "sentences": rare.told(loops, failures, cost, titles),
    }


def _largest_group(pairs: Sequence[Pair], config: CompareConfig) -> dict | None:
    """The group that contributes most to the difference in WER, and the interval without it."""
    from shibolet.scoring import intervals

    change, words = sum(_change(pair) for pair in pairs), sum(pair.first.words.reference_length for pair in pairs)
    by_group = {name: sum(map(_change, members)) for name, members in group(pairs, lambda pair: pair.group).items()}
    if not change or not words or len(by_group) < 2:
        return None
    name = max(by_group, key=lambda name: by_group[name] / change)
    rest = [pair for pair in pairs if pair.group != name]
    sides = ([side.words for side in column] for column in zip(*(pair[:2] for pair in rest)))
    without = intervals.difference_interval(
        *sides, [pair.group for pair in rest], samples=config.bootstrap_samples, seed=config.seed
    )
    own, interval = _points(by_group[name] / words), _interval(without)
    sentence = f"The largest contribution of the {len(by_group):,} groups is {own:+.2f} points"
    if without.value is None:
        sentence += "; the others have no words."
    elif interval is None:
        sentence += f"; without it {_points(without.value):+.2f} points, of too few groups for an interval."
    else:
        sentence += f"; without it {_points(without.value):+.2f} points, {interval[0]:+.2f} to {interval[1]:+.2f}."
    return {
        "name": name,
        "points": own,
        "without": {"delta_points": _points(without.value), "interval_points": interval},
        "sentence": sentence,
    }


def _change(pair: Pair) -> int:
    return pair.second.words.errors - pair.first.words.errors


def _sentence(wer: dict, titles: Labels, counted: Counted) -> str:
    from shibolet.scoring.intervals import MIN_GROUPS

    if wer["delta_points"] is None:
        return f"{_capital(NOT_SHOWN)}: the references have no words."
    what = f"WER {wer['delta_points']:+.2f} points"
    if wer["interval_points"] is None:
        return f"{_capital(NOT_SHOWN)}: {what}, and no interval over {counted.words}: it takes {MIN_GROUPS} at least."
    low, high = wer["interval_points"]
    what += f", 95% interval {low:+.2f} to {high:+.2f} over {counted.words}"
    caveat = "" if counted.caveat is None else f" {_capital(counted.caveat)}."
    if wer["shown"] != NOT_SHOWN:
        return f"{titles[1]} is {wer['shown']}{'' if titles[0] == 'Round 1' else f' than {titles[0]}'}: {what}.{caveat}"
    smallest = wer["detectable_points"]
    seen = "" if smallest is None else f"; of these utterances a difference of {smallest:.2f} points could be seen"
    return f"{_capital(NOT_SHOWN)}: {what}{seen}.{caveat}"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
