"""Whether Round 2 is kept: what the interval says, and what an interval of these utterances cannot say."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from shibolet.compare.config import CompareConfig
from shibolet.compare.pairs import BETTER, ROUNDS, WORSE, Overlaps, block_of, compare_pair, pair_rows
from shibolet.records.runfolder import COMPARE_FORMAT
from shibolet.scoring.rare import MAX_CHANCE, pieces_for
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import BUCKETS_S, Buckets, group

TITLES = ("Round 1", "Round 2")
DECIDING_FRAC = 0.25  # of the gain: a group that brings less is not what decides a result that is barely shown
MIN_RIGHT_FRAC = 0.1  # of the words: what recognises fewer recognises no speech, whatever its WER


def compare(
    round1: Sequence[ScoredRow],
    round2: Sequence[ScoredRow],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    other_languages: tuple[Sequence[ScoredRow], Sequence[ScoredRow]] = ((), ()),
    overlaps: Overlaps = MappingProxyType({}),
) -> dict:
    """JSON: "verdict" keep or reject with its "sentence", "target", "next_steps", what `compare_pair` gives, and under
    "forgetting" the sets in other languages, which are no part of the rest. "refusals" are sentences on why an interval
    that would do is not enough.

    `overlaps` is what each set shares with Round 2's training data, where that is known. Raises DataError where the two
    do not pair.
    """
    compared = compare_pair(round1, round2, config, buckets, ROUNDS, TITLES)
    forgetting = _forgetting(*other_languages, config)
    wer, domains = compared["overall"]["wer"], compared.get("domains", {})
    keep = wer["interval_points"] is not None and wer["interval_points"][1] < config.keep_below_points
    refusals = _refusals(compared, config) if keep else []
    lost = [name for name, block in forgetting.items() if _is_lost(block["wer"], config)]
    trained_on = [name for name in compared["sets"] if name in overlaps and overlaps[name]["utterances"]]
    refused = [name for name in trained_on if name not in config.accept_overlap]
    keep = keep and not refusals and not lost and not refused
    sentence = " ".join([compared["sentence"], *(overlaps[name]["sentence"] for name in trained_on)])
    if refusals:
        sentence += f" Not kept: {' '.join(refusals)}"
    elif keep != (wer["shown"] == BETTER):  # the recipe's rule is not the default one
        sentence += f" {'Kept' if keep else 'Not kept'} all the same: {_rule(config)}."
    gained = None if wer["delta_points"] is None else -wer["delta_points"]
    reached = gained is not None and gained >= config.target_points
    return {
        "format": COMPARE_FORMAT,
        "verdict": "keep" if keep else "reject",
        "sentence": sentence,
        "refusals": refusals,
        "rule": _rule(config),
        "target": {"points": config.target_points, "gained_points": gained, "reached": reached},
        "lead_with": "sets" if reached else "domains",
        "next_steps": [
            *_next_steps(gained, wer, domains, config), *_forgotten(forgetting, lost), *_untangle(refused),
        ],
        "forgetting": forgetting,
        "overlaps": dict(overlaps),
        **{key: value for key, value in compared.items() if key not in ("sentence", "beside")},
        "beside": [line for line in compared["beside"] if line not in sentence],
    }  # fmt: skip


def _rule(config: CompareConfig) -> str:
    """The verdict's condition in words."""
    rule = f"keep when the 95% interval of the difference in WER ends below {config.keep_below_points:g} points"
    if config.loop_cost:
        rule += ", also with an allowance for loops that were not seen"
    rule += ", no single group decides it, both rounds recognise speech, Round 2 does not loop or fail more often"
    if config.forget_above_points is not None:
        rule += f", no other language is shown to lose more than {config.forget_above_points:g} points"
    but = f" but {', '.join(config.accept_overlap)}" if config.accept_overlap else ""
    return f"{rule} and no set{but} shares audio with the training data; without an interval: not kept"


def _refusals(compared: dict, config: CompareConfig) -> list[str]:
    """Why Round 2 is not kept although the interval of the difference in WER ends where it must."""
    wer, lost = compared["overall"]["wer"], compared["losses"]
    found = []
    for label, title in zip(ROUNDS, TITLES, strict=True):
        if (right := _right_frac(wer[label])) < MIN_RIGHT_FRAC:
            found.append(
                f"{title} recognises {100 * right:.1f}% of the words, so the difference says nothing about speech that "
                "is recognised."
            )
    rates = [wer[label]["rate"] for label in ROUNDS]
    if min(rates) >= 1:
        found.append(f"Neither round recognises speech: WER {100 * rates[0]:.1f}% and {100 * rates[1]:.1f}%.")
    for what, verb in (("loops", "loops"), ("failures", "recognises nothing")):
        if (tally := lost[what])["p_more"] < MAX_CHANCE:
            found.append(
                f"Round 2 {verb} in {tally['round2']:,} utterances and Round 1 in {tally['round1']:,}, more than "
                f"chance explains (p {tally['p_more']:.3f})."
            )
    if largest := compared["largest_group"]:
        without = largest["without"]["interval_points"]
        share = largest["points"] / wer["delta_points"]
        if without is None:
            found.append(f"There are too few groups to leave one out. {largest['sentence']}")
        elif share >= DECIDING_FRAC and without[1] >= config.keep_below_points:
            found.append(f"One group decides it. {largest['sentence']}")
    return found + _of_unseen_loops(wer, lost, config)


def _of_unseen_loops(wer: dict, lost: dict, config: CompareConfig) -> list[str]:
    """A refusal where loops that the sets may have missed could outweigh the gain; distances add by squares (MOVER)."""
    high, gain = wer["interval_points"][1], config.keep_below_points - wer["delta_points"]
    arm = high - wer["delta_points"]
    if math.hypot(arm, lost["unseen_points"]) < gain:
        return []
    sentences = ["Loops that these sets may have missed could outweigh the gain.", lost["sentences"][0]]
    if not lost["loops"]["round2"]:
        num = pieces_for(lost["loop_cost"], math.sqrt(gain**2 - arm**2) / 100)
        unit = "pieces" if "pieces" in lost["sentences"][0] else "utterances"
        sentences.append(f"About {num:,} {unit} without one would rule it out.")
    return [" ".join(sentences)]


def _right_frac(counts: Mapping) -> float:
    """Share of the words that a round has right."""
    return 1 - (counts["substitutions"] + counts["deletions"]) / counts["words"]


def _forgetting(round1: Sequence[ScoredRow], round2: Sequence[ScoredRow], config: CompareConfig) -> dict[str, dict]:
    """A block for each set in another language."""
    pairs = pair_rows(round1, round2, TITLES) if round1 or round2 else []
    return {
        name: block_of(members, config, ROUNDS) for name, members in group(pairs, lambda pair: pair.first.set).items()
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
