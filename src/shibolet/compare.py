"""Stage: two rounds, or any systems, scored on the same utterances; which is better, by how much, where, is it kept."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import NamedTuple

from pydantic import Field

from shibolet.errors import DataError
from shibolet.records.config import Config
from shibolet.records.groups import Counted, count_groups
from shibolet.records.runfolder import COMPARE_FORMAT
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.slices import BUCKETS_S, Buckets, group, slices

Labels = tuple[str, str]  # keys of the two systems in a block
Overlaps = Mapping[str, Mapping]  # set -> what `evaluate.overlap` found

ROUNDS: Labels = ("round1", "round2")
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
UNITS = {"wer": "words", "cer": "chars"}  # measure -> what a row counts for it


class CompareConfig(Config):
    """How two rounds are compared and what the new one must show."""

    keep_below_points: float = 0.0  # keep when the interval of the difference in WER ends below; 0: shown to be better
    forget_above_points: float | None = None  # reject when a set in another language is shown to lose more; null: said
    accept_overlap: tuple[str, ...] = ()  # sets that count for keep although they share audio with the training data
    target_points: float = Field(1.0, ge=0)  # WER points the round is meant to gain; under it domains lead the page
    bootstrap_samples: int = Field(10_000, ge=100)  # and sign flips
    seed: int = 0
    noisy_domain: str | None = "whatsapp_noisy"  # without gain there the next step is a round with codec augmentation


class Pair(NamedTuple):
    """One utterance in both systems."""

    first: ScoredRow
    second: ScoredRow
    segments: list[int]  # errors of the second less those of the first in each segment of MAPSSWE
    group: str  # of recordings and speakers, among all the pairs that are compared


def compare(
    round1: Sequence[ScoredRow],
    round2: Sequence[ScoredRow],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    other_languages: tuple[Sequence[ScoredRow], Sequence[ScoredRow]] = ((), ()),
    overlaps: Overlaps = MappingProxyType({}),
) -> dict:
    """JSON: "verdict" keep or reject with its "sentence", "target", "next_steps", what `compare_pair` gives, and under
    "forgetting" the sets in other languages, which are no part of the rest.

    `overlaps` is what each set shares with Round 2's training data, where that is known. Raises DataError where the two
    do not pair.
    """
    compared = compare_pair(round1, round2, config, buckets, ROUNDS, ("Round 1", "Round 2"))
    forgetting = _forgetting(*other_languages, config)
    wer, domains = compared["overall"]["wer"], compared.get("domains", {})
    keep = wer["interval_points"] is not None and wer["interval_points"][1] < config.keep_below_points
    lost = [name for name, block in forgetting.items() if _is_lost(block["wer"], config)]
    trained_on = [name for name in compared["sets"] if name in overlaps and overlaps[name]["utterances"]]
    refused = [name for name in trained_on if name not in config.accept_overlap]
    keep = keep and not lost and not refused
    sentence = " ".join([compared["sentence"], *(overlaps[name]["sentence"] for name in trained_on)])
    if keep != (wer["shown"] == BETTER):  # the recipe's rule is not the default one
        sentence += f" {'Kept' if keep else 'Not kept'} all the same: {_rule(config)}."
    gained = None if wer["delta_points"] is None else -wer["delta_points"]
    reached = gained is not None and gained >= config.target_points
    return {
        "format": COMPARE_FORMAT,
        "verdict": "keep" if keep else "reject",
        "sentence": sentence,
        "rule": _rule(config),
        "target": {"points": config.target_points, "gained_points": gained, "reached": reached},
        "lead_with": "sets" if reached else "domains",
        "next_steps": [
            *_next_steps(gained, wer, domains, config), *_forgotten(forgetting, lost), *_untangle(refused),
        ],
        "forgetting": forgetting,
        "overlaps": dict(overlaps),
        **{key: value for key, value in compared.items() if key != "sentence"},
    }  # fmt: skip


def compare_systems(
    rows_by_system: Mapping[str, Sequence[ScoredRow]],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    overlaps_by_system: Mapping[str, Overlaps] = MappingProxyType({}),
) -> dict:
    """JSON: WER and CER of each of two or more systems, and every pair of them compared, second minus first.

    "holm_p" of a pair is its sign-flip p on all utterances, adjusted for the number of pairs. What a system's training
    data share with the sets, where they are known, is in "overlaps" and in the sentences of its pairs.
    """
    from shibolet.scoring.significance import holm  # numpy: kept out of `shibolet --help`

    if len(rows_by_system) < 2:
        raise DataError(f"a comparison needs two systems, not {len(rows_by_system)}")
    pairs = {
        names: compare_pair(*(rows_by_system[name] for name in names), config, buckets, names)
        for names in combinations(rows_by_system, 2)
    }
    tested = {names: pair["overall"]["wer"]["sign_flip_p"] for names, pair in pairs.items()}
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

    Overall pools all utterances: a set weighs as many words as it has. Raises DataError where the two do not pair.
    """
    titles = titles or labels
    pairs = _pair(first, second, titles)
    counted = _counted(pairs)
    overall = _block(pairs, config, labels)
    breakdowns = {
        breakdown: {name: _block(members, config, labels) for name, members in groups.items()}
        for breakdown, groups in slices(pairs, lambda pair: pair.first, buckets).items()
    }
    _adjust(breakdowns["sets"])
    return {
        "sentence": _sentence(overall["wer"], titles, counted),
        "overall": overall,
        **breakdowns,
        "method": {
            "interval": f"paired bootstrap over {counted.words}, Student t, 95%",
            "caveat": counted.caveat,
            "bootstrap_samples": config.bootstrap_samples,
            "seed": config.seed,
            "sign_flip": "two-sided, signs of what the bootstrap draws",
            "mapsswe": "segments between two words that both have right, alignment 4/3/3, two-sided normal",
            "holm": "sign-flip p over sets",
            "detectable": "true difference that would be shown in 80% of such sets",
        },
    }


def _pair(first: Sequence[ScoredRow], second: Sequence[ScoredRow], titles: Labels) -> list[Pair]:
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


def _block(pairs: list[Pair], config: CompareConfig, labels: Labels) -> dict:
    """Both systems on some utterances."""
    import numpy as np  # kept out of `shibolet --help`

    from shibolet.scoring import intervals, significance

    counted, clusters = _counted(pairs), [pair.group for pair in pairs]
    counts = {measure: [_counts(side, measure) for side in zip(*(pair[:2] for pair in pairs))] for measure in UNITS}
    changes = np.stack([intervals.differences(*counts[measure]) for measure in UNITS], axis=1)  # [U, 2]
    lengths = np.stack([intervals.lengths(counts[measure][0]) for measure in UNITS], axis=1)
    drawing = {"samples": config.bootstrap_samples, "seed": config.seed}
    estimates = intervals.ratio_intervals(changes, lengths, clusters, **drawing)
    by_group = intervals.cluster_sums(changes, clusters)
    block: dict = {
        "utterances": len(pairs),
        "groups": counted.number,
        "counted": counted.words,
        "duration_s": round(sum(pair.first.duration_s for pair in pairs), 3),
    }
    for i, (measure, unit) in enumerate(UNITS.items()):
        before, after = (sum(side, EditCounts()) for side in counts[measure])
        estimate = estimates[i]
        interval = None if estimate.low is None else [_points(estimate.low), _points(estimate.high)]
        block[measure] = {
            labels[0]: before.to_json(unit),
            labels[1]: after.to_json(unit),
            "delta_points": _points(estimate.value),
            "delta_relative_pct": 100 * (after.errors - before.errors) / before.errors if before.errors else None,
            "interval_points": interval,
            "shown": _shown(interval),
            "probability_of_improvement": estimate.below_zero_frac,
            "sign_flip_p": None if interval is None else significance.sign_flip_p(by_group[:, i], **drawing),
            "detectable_points": _points(estimate.detectable),
        }
    block["wer"]["mapsswe"] = significance.mapsswe([change for pair in pairs for change in pair.segments]).to_json()
    return block


def _counted(pairs: Sequence[Pair]) -> Counted:
    return count_groups((pair.first for pair in pairs), [pair.group for pair in pairs])


def _adjust(blocks: dict[str, dict]) -> None:
    """Put Holm's p into the WER of each block that has a p."""
    from shibolet.scoring.significance import holm

    tested = {name: block["wer"]["sign_flip_p"] for name, block in blocks.items()}
    adjusted = holm({name: p for name, p in tested.items() if p is not None})
    for name, block in blocks.items():
        block["wer"]["holm_p"] = adjusted.get(name)


def _points(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate


def _shown(interval_points: list[float] | None) -> str:
    """What an interval of second minus first says: better, worse, or that no difference is shown."""
    if interval_points is None or interval_points[0] <= 0 <= interval_points[1]:
        return NOT_SHOWN
    return BETTER if interval_points[1] < 0 else WORSE


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


def _rule(config: CompareConfig) -> str:
    """The verdict's condition in words."""
    rule = f"keep when the 95% interval of the difference in WER ends below {config.keep_below_points:g} points"
    if config.forget_above_points is not None:
        rule += f", no other language is shown to lose more than {config.forget_above_points:g} points"
    but = f" but {', '.join(config.accept_overlap)}" if config.accept_overlap else ""
    return f"{rule} and no set{but} shares audio with the training data; without an interval: not kept"


def _forgetting(round1: Sequence[ScoredRow], round2: Sequence[ScoredRow], config: CompareConfig) -> dict[str, dict]:
    """A block for each set in another language."""
    pairs = _pair(round1, round2, ("Round 1", "Round 2")) if round1 or round2 else []
    return {
        name: _block(members, config, ROUNDS) for name, members in group(pairs, lambda pair: pair.first.set).items()
    }


def _is_lost(wer: dict, config: CompareConfig) -> bool:
    """Whether more WER than allowed is shown to be lost."""
    limit, interval = config.forget_above_points, wer["interval_points"]
    return limit is not None and interval is not None and interval[0] > limit


def _forgotten(forgetting: dict[str, dict], lost: Sequence[str]) -> list[str]:
    """A sentence for each set in another language that got worse."""
    return [
        f"Forgetting: set '{name}', in another language, is worse by {block['wer']['delta_points']:.2f} WER points"
        f"{', more than the recipe allows' if name in lost else ''}; train on some of it too, or for less long."
        for name, block in forgetting.items()
        if block["wer"]["shown"] == WORSE
    ]


def _untangle(refused: Sequence[str]) -> list[str]:
    """What to do about sets that were trained on."""
    return [
        f"Set '{name}' cannot show what Round 2 does with speech it has not seen: take what it shares with the "
        "training data out of one of the two, or name it in compare.accept_overlap."
        for name in refused
    ]


def _next_steps(
    gained_points: float | None, wer: dict, domains: Mapping[str, dict], config: CompareConfig
) -> list[str]:
    """The specification's branches for a gain under the target and for a noisy domain that stays as it was."""
    steps = []
    if gained_points is not None and gained_points < config.target_points:
        steps.append(
            f"The gain of {gained_points:.2f} WER points is under the target of {config.target_points:.2f}: "
            "see which domains gained; more data may be needed."
        )
    elif gained_points is not None and wer["interval_points"] and -wer["interval_points"][1] < config.target_points:
        steps.append(
            f"The gain of {gained_points:.2f} WER points reaches the target of {config.target_points:.2f}, "
            f"but its interval begins at {-wer['interval_points'][1]:.2f}: more recordings would settle it."
        )
    noisy = domains.get(config.noisy_domain)
    if noisy is not None and noisy["wer"]["shown"] != BETTER:
        steps.append(
            f"Domain '{config.noisy_domain}' has not been shown to improve: "
            "the next round is the one with codec augmentation (Opus and MP3 on the training audio)."
        )
    return steps
