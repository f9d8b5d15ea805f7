"""Stage: two rounds, or any systems, scored on the same utterances; which is better, by how much, where, is it kept."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from pydantic import Field

from shibolet.errors import DataError
from shibolet.records.config import Config
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import BUCKETS_S, Buckets, group, slices

Labels = tuple[str, str]  # keys of the two systems in a block

ROUNDS: Labels = ("round1", "round2")
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
UNITS = {"wer": "words", "cer": "chars"}  # measure -> what a row counts for it


class CompareConfig(Config):
    """How two rounds are compared and what the new one must show."""

    keep_below_points: float = 0.0  # keep when the interval of the difference in WER ends below; 0: shown to be better
    forget_above_points: float | None = None  # reject when a set in another language is shown to lose more; null: said
    target_points: float = Field(1.0, ge=0)  # WER points the round is meant to gain; under it domains lead the page
    bootstrap_samples: int = Field(10_000, ge=100)  # and sign flips
    seed: int = 0
    noisy_domain: str | None = "whatsapp_noisy"  # without gain there the next step is a round with codec augmentation


class Pair(NamedTuple):
    """One utterance in both systems."""

    first: ScoredRow
    second: ScoredRow
    segments: list[int]  # errors of the second less those of the first in each segment of MAPSSWE


def compare(
    round1: Sequence[ScoredRow],
    round2: Sequence[ScoredRow],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    other_languages: tuple[Sequence[ScoredRow], Sequence[ScoredRow]] = ((), ()),
) -> dict:
    """JSON: "verdict" keep or reject with its "sentence", "target", "next_steps", what `compare_pair` gives, and under
    "forgetting" the sets in other languages, which are no part of the rest.

    Raises DataError where the two do not pair.
    """
    compared = compare_pair(round1, round2, config, buckets, ROUNDS, ("Round 1", "Round 2"))
    forgetting = _forgetting(*other_languages, config)
    wer, domains = compared["overall"]["wer"], compared.get("domains", {})
    keep = wer["interval_points"] is not None and wer["interval_points"][1] < config.keep_below_points
    lost = [name for name, block in forgetting.items() if _is_lost(block["wer"], config)]
    keep, sentence = keep and not lost, compared["sentence"]
    if keep != (wer["shown"] == BETTER):  # the recipe's rule is not the default one
        sentence += f" {'Kept' if keep else 'Not kept'} all the same: {_rule(config)}."
    gained = None if wer["delta_points"] is None else -wer["delta_points"]
    reached = gained is not None and gained >= config.target_points
    return {
        "verdict": "keep" if keep else "reject",
        "sentence": sentence,
        "rule": _rule(config),
        "target": {"points": config.target_points, "gained_points": gained, "reached": reached},
        "lead_with": "sets" if reached else "domains",
        "next_steps": [*_next_steps(gained, wer, domains, config), *_forgotten(forgetting, lost)],
        "forgetting": forgetting,
        **{key: value for key, value in compared.items() if key != "sentence"},
    }


def compare_systems(
    rows_by_system: Mapping[str, Sequence[ScoredRow]], config: CompareConfig, buckets: Buckets = BUCKETS_S
) -> dict:
    """JSON: WER and CER of each of two or more systems, and every pair of them compared, second minus first.

    "holm_p" of a pair is its sign-flip p on all utterances, adjusted for the number of pairs.
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
        "pairs": [
            {"first": names[0], "second": names[1], "holm_p": adjusted.get(names), **pair}
            for names, pair in pairs.items()
        ],
    }


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
    overall = _block(pairs, config, labels)
    breakdowns = {
        breakdown: {name: _block(members, config, labels) for name, members in groups.items()}
        for breakdown, groups in slices(pairs, lambda pair: pair.first, buckets).items()
    }
    _adjust(breakdowns["sets"])
    return {
        "sentence": _sentence(overall["wer"], titles),
        "overall": overall,
        **breakdowns,
        "method": {
            "interval": "paired bootstrap over recordings, Student t, 95%",
            "bootstrap_samples": config.bootstrap_samples,
            "seed": config.seed,
            "sign_flip": "two-sided, signs of recordings",
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
    pairs = []
    for key, one in one_by_id.items():
        two = two_by_id[key]
        lengths = [(row.words.reference_length, row.chars.reference_length) for row in (one, two)]
        if one.reference != two.reference or lengths[0] != lengths[1]:
            raise DataError(
                f"utterance '{one.id}' of set '{one.set}' has another reference in {titles[1]} ((words, characters) "
                f"{lengths[0]} and {lengths[1]}); score both with the same data and normaliser"
            )
        pairs.append(Pair(one, two, segment_differences(one.said, one.heard, two.heard)))
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

    clusters = [pair.first.cluster for pair in pairs]
    counts = {measure: [_counts(side, measure) for side in zip(*(pair[:2] for pair in pairs))] for measure in UNITS}
    changes = np.stack([intervals.differences(*counts[measure]) for measure in UNITS], axis=1)  # [U, 2]
    lengths = np.stack([intervals.lengths(counts[measure][0]) for measure in UNITS], axis=1)
    drawing = {"samples": config.bootstrap_samples, "seed": config.seed}
    estimates = intervals.ratio_intervals(changes, lengths, clusters, **drawing)
    by_recording = intervals.cluster_sums(changes, clusters)
    block: dict = {
        "utterances": len(pairs),
        "recordings": len(set(clusters)),
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
            "sign_flip_p": None if interval is None else significance.sign_flip_p(by_recording[:, i], **drawing),
            "detectable_points": _points(estimate.detectable),
        }
    block["wer"]["mapsswe"] = significance.mapsswe([change for pair in pairs for change in pair.segments]).to_json()
    return block


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


def _sentence(wer: dict, titles: Labels) -> str:
    if wer["interval_points"] is None:
        return "No interval: fewer than two recordings with words in the reference, so no difference can be shown."
    low, high = wer["interval_points"]
    what = f"WER {wer['delta_points']:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}"
    if wer["shown"] != NOT_SHOWN:
        return f"{titles[1]} is {wer['shown']}{'' if titles[0] == 'Round 1' else f' than {titles[0]}'}: {what}."
    smallest = wer["detectable_points"]
    seen = "" if smallest is None else f"; of these utterances a difference of {smallest:.2f} points could be seen"
    return f"No difference shown: {what}{seen}."


def _rule(config: CompareConfig) -> str:
    """The verdict's condition in words."""
    rule = f"keep when the 95% interval of the difference in WER ends below {config.keep_below_points:g} points"
    if config.forget_above_points is not None:
        rule += f" and no other language is shown to lose more than {config.forget_above_points:g} points"
    return rule


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
