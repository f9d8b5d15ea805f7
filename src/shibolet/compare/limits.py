"""What must hold for a candidate to be kept: a list of limits, each with its rule, its test and its words.

A new limit is an entry of `LIMITS`. The first one asks whether a gain is shown; the others say why that is not enough.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from shibolet.compare.config import CompareConfig
from shibolet.compare.pairs import Overlaps, other_language_sentence
from shibolet.records.documents.comparison import (
    WORSE,
    BetweenSeeds,
    NonSpeechChange,
    OtherLanguage,
    PairComparison,
)
from shibolet.records.documents.scores import WordErrors
from shibolet.records.limit import Limit
from shibolet.scoring.rare import MAX_CHANCE, pieces_for
from shibolet.speech.text import get_language

DECIDING_FRAC = 0.25  # of the gain: a group that brings less is not what decides a result that is barely shown
MIN_RIGHT_FRAC = 0.1  # of the words: what recognises fewer recognises no speech, whatever its WER


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged, and by which recipe."""

    pair: PairComparison
    forgetting: Mapping[str, OtherLanguage]  # sets in other languages
    overlaps: Overlaps  # with the candidate's training data, where that is known
    config: CompareConfig
    seeds: BetweenSeeds | None = None  # None: no other seeds are known
    non_speech: NonSpeechChange | None = None  # None: nobody asked


def _nothing(case: Case) -> list[str]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Limit[Case]):
    """A limit of the verdict to keep."""

    rule: Callable[[Case], str | None]  # words that go on from "keep when"; None: the recipe does not ask for it
    next_steps: Callable[[Case], list[str]] = _nothing  # sentences on what to do about it


def _is_not_shown(case: Case) -> list[str]:
    interval, line = case.pair.overall.wer.interval_points, case.config.keep_below_points
    if interval is None:
        return ["The difference in WER has no interval."]
    if interval[1] < line:
        return []
    return [f"The interval of the difference in WER ends at {interval[1]:+.2f}, not below {line:g} points."]


def _seeds_rule(case: Case) -> str | None:
    return "so does that of the mean over seeds, with the variance between them" if case.seeds else None


def _of_seeds(case: Case) -> list[str]:
    """This model is better, and another seed of its training may not be."""
    if case.seeds is None:
        return []
    interval, line = case.seeds.interval_points, case.config.keep_below_points
    if interval is None:
        return ["The mean over seeds has no interval."]
    if interval[1] < line:
        return []
    return [f"The interval of the mean over seeds ends at {interval[1]:+.2f}: another seed may show no gain."]


def _of_unseen_loops(case: Case) -> list[str]:
    """Where loops that the sets may have missed could outweigh the gain; distances add by squares (MOVER)."""
    wer, lost = case.pair.overall.wer, case.pair.losses
    gain, arm = case.config.keep_below_points - wer.delta_points, wer.interval_points[1] - wer.delta_points
    if math.hypot(arm, lost.unseen_points) < gain:
        return []
    sentences = ["Loops that these sets may have missed could outweigh the gain.", lost.sentences[0]]
    if not lost.loops.candidate:
        num = pieces_for(lost.loop_cost, math.sqrt(gain**2 - arm**2) / 100)
        unit = "pieces" if "pieces" in lost.sentences[0] else "utterances"
        sentences.append(f"About {num:,} {unit} without one would rule it out.")
    return [" ".join(sentences)]


def _of_one_group(case: Case) -> list[str]:
    if (largest := case.pair.largest_group) is None:
        return []
    without, share = largest.without.interval_points, largest.points / case.pair.overall.wer.delta_points
    if without is None:
        return [f"There are too few groups to leave one out. {largest.sentence}"]
    if share >= DECIDING_FRAC and without[1] >= case.config.keep_below_points:
        return [f"One group decides it. {largest.sentence}"]
    return []


def _of_deafness(case: Case) -> list[str]:
    sides = case.pair.overall.wer.sides
    found = [
        f"{title} recognises {100 * right:.1f}% of the words, so the difference says nothing about speech that is "
        "recognised."
        for title, errors in zip(case.pair.titles, sides, strict=True)
        if (right := _right_frac(errors)) < MIN_RIGHT_FRAC
    ]
    if min(errors.rate for errors in sides) >= 1:
        said = " and ".join(f"{100 * errors.rate:.1f}%" for errors in sides)
        found.append(f"Neither recognises speech: WER {said}.")
    return found


def _right_frac(errors: WordErrors) -> float:
    """Share of the words that are right."""
    return 1 - (errors.substitutions + errors.deletions) / errors.words


def _of_losses(case: Case) -> list[str]:
    before, after = case.pair.titles
    tallies = (("loops", case.pair.losses.loops), ("recognises nothing", case.pair.losses.failures))
    return [
        f"{after} {verb} in {tally.candidate:,} utterances and {before} in {tally.baseline:,}, more than chance "
        f"explains (p {tally.p_more:.3f})."
        for verb, tally in tallies
        if tally.p_more < MAX_CHANCE
    ]


def _allowed_loss(case: Case) -> str | None:
    said = [f"{points:g} in {get_language(name).name}" for name, points in case.config.limits.items()]
    return f"each set is shown to lose less WER points than {', '.join(said)}" if said else None


def _of_forgetting(case: Case) -> list[str]:
    """Non-inferiority: the upper end of the interval of the loss has to lie below the limit.

    Every set has to hold its limit by itself, so their number makes nothing easier and needs no correction.
    """
    tested = {block.language for block in case.forgetting.values()}
    missing = [
        f"No set in {language} was scored, so its limit cannot be tested."
        for language in (get_language(name).name for name in case.config.limits)
        if language not in tested
    ]
    return missing + [
        _too_much(name, block)
        for name, block in case.forgetting.items()
        if block.limit_points is not None and not _holds(block)
    ]


def _holds(block: OtherLanguage) -> bool:
    interval = block.wer.interval_points
    return interval is not None and interval[1] < block.limit_points


def _too_much(name: str, block: OtherLanguage) -> str:
    from shibolet.scoring.intervals import MIN_GROUPS  # numpy: kept out of `shibolet --help`

    said, limit, interval = other_language_sentence(name, block), block.limit_points, block.wer.interval_points
    if interval is None:
        return (
            f"{said} It is over {block.counted}, too few to show that {block.language} loses less than {limit:g} "
            f"points: take a set of {MIN_GROUPS} recordings or speakers or more (and name them in its manifest), or "
            f"take {block.language} out of compare.limits."
        )
    if interval[0] > limit:
        return f"{said} That is more than the {limit:g} points that {block.language} may lose."
    return (
        f"{said} It is not shown to lose less than the {limit:g} points that {block.language} may lose; more "
        "recordings in the set make the interval narrower."
    )


def losses_without_limit(case: Case) -> list[str]:
    """Sets in other languages that lost, and may: the verdict begins with them, since nothing else holds them up."""
    return [
        f"{other_language_sentence(name, block)} The recipe sets no limit to that loss (compare.limits)."
        for name, block in case.forgetting.items()
        if block.limit_points is None and _has_lost(block)
    ]


def _has_lost(block: OtherLanguage) -> bool:
    """Whether a loss is shown, or is there and no interval can be had."""
    return block.wer.shown == WORSE or (block.wer.interval_points is None and (block.wer.delta_points or 0) > 0)


def _remember(case: Case) -> list[str]:
    return [
        f"Forgetting: set '{name}', in another language, is worse by {block.wer.delta_points:.2f} WER points: "
        "train for less long or on adapters alone (train.lora), or average the result with the model that it started "
        "from ('shibolet average RUN NAME --alpha 0.5')."
        for name, block in case.forgetting.items()
        if _has_lost(block)
    ]


def _silent(case: Case) -> str | None:
    limit, title = case.config.max_extra_words_per_minute, case.pair.candidate.title
    if limit is not None:
        return f"{title} is shown to write less than {limit:g} more words a minute where nobody speaks"
    return f"{title} is not shown to write more where nobody speaks" if case.non_speech else None


def _of_non_speech(case: Case) -> list[str]:
    """Non-inferiority where the recipe has a limit, else no worsening that is shown; and echoes beyond chance."""
    limit, found, title = case.config.max_extra_words_per_minute, case.non_speech, case.pair.candidate.title
    if found is None:
        asked = "No clip without speech was heard, so compare.max_extra_words_per_minute cannot be tested."
        return [] if limit is None else [asked]
    sentences = []
    if limit is None and found.interval is not None and found.interval[0] > 0:
        sentences.append(f"{title} writes more where nobody speaks. {found.sentence}")
    elif limit is not None and (found.interval is None or found.interval[1] >= limit):
        what = f"It is not shown to stay below {limit:g} more words a minute (compare.max_extra_words_per_minute)."
        sentences.append(f"{found.sentence} {what}")
    if found.echoes is not None and found.echoes.p_more < MAX_CHANCE:
        sentences.append(
            f"{title} repeats words of its context that nobody says in {found.echoes.candidate} clips and "
            f"{case.pair.baseline.title} in {found.echoes.baseline}, more than chance explains "
            f"(p {found.echoes.p_more:.3f})."
        )
    return sentences


def _unshared(case: Case) -> str:
    accepted = case.config.accept_overlap
    but = f" but {', '.join(accepted)}" if accepted else ""
    return f"no set{but} shares audio with the training data"


def _refused_sets(case: Case) -> Iterator[str]:
    """Sets that share audio with the training data and are not accepted."""
    for name in case.pair.sets:
        if name in case.overlaps and case.overlaps[name].utterances and name not in case.config.accept_overlap:
            yield name


def _of_overlap(case: Case) -> list[str]:
    return [f"Set '{name}' shares audio with the training data." for name in _refused_sets(case)]


def _untangle(case: Case) -> list[str]:
    return [
        f"Set '{name}' cannot show what {case.pair.candidate.title} does with speech it has not seen: take what it "
        "shares with the training data out of one of the two, or name it in compare.accept_overlap."
        for name in _refused_sets(case)
    ]


LIMITS = (
    Condition(
        name="gain",
        rule=lambda case: (
            f"the 95% interval of the difference in WER ends below {case.config.keep_below_points:g} points"
        ),
        broken=_is_not_shown,
    ),
    Condition(name="seeds", rule=_seeds_rule, broken=_of_seeds),
    Condition(
        name="unseen_loops",
        rule=lambda case: "also with an allowance for loops that were not seen" if case.config.loop_cost else None,
        broken=_of_unseen_loops,
    ),
    Condition(name="one_group", rule=lambda case: "no single group decides it", broken=_of_one_group),
    Condition(name="recognition", rule=lambda case: "both recognise speech", broken=_of_deafness),
    Condition(
        name="losses",
        rule=lambda case: f"{case.pair.candidate.title} does not loop or fail more often",
        broken=_of_losses,
    ),
    Condition(name="forgetting", rule=_allowed_loss, broken=_of_forgetting, next_steps=_remember),
    Condition(name="non_speech", rule=_silent, broken=_of_non_speech),
    Condition(name="overlap", rule=_unshared, broken=_of_overlap, next_steps=_untangle),
)


def rule_of(case: Case) -> str:
    """The recipe's condition in words."""
    *first, last = filter(None, (limit.rule(case) for limit in LIMITS))
    return f"keep when {', '.join(first)} and {last}; without an interval: not kept"
