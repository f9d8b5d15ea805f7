"""Whether a candidate is kept over the baseline, and what to do next."""

from collections.abc import Iterator, Mapping, Sequence

from shibolet.compare.config import CompareConfig
from shibolet.compare.doubtful import Doubted, without_doubtful
from shibolet.compare.limits import LIMITS, Case, rule_of
from shibolet.compare.pairs import NO_OVERLAPS, Names, Overlaps, block_of, compare_pair, pair_rows
from shibolet.records.documents.comparison import BETTER, Block, Comparison, PairComparison, Refusal, Target
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import BUCKETS_S, Buckets, group

Rows = tuple[Sequence[ScoredRow], Sequence[ScoredRow]]  # of baseline and candidate
GAIN = LIMITS[0]


def compare(
    rows: Rows,
    names: Names,
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    other_languages: Rows = ((), ()),
    overlaps: Overlaps = NO_OVERLAPS,
    doubted: Doubted | None = None,
) -> Comparison:
    """The verdict on a candidate, with all that it is made from; DataError where the two do not pair.

    `overlaps` is what each set shares with the candidate's training data, where that is known. What is `doubted` of the
    references is shown and decides nothing.
    """
    pair = compare_pair(*rows, config, names, buckets)
    case = Case(pair, _forgetting(other_languages, names, config), overlaps, config)
    refusals, rule = list(_refusals(case)), rule_of(case)
    sentence = _sentence(case, refusals, rule)
    delta = pair.overall.wer.delta_points
    gained = None if delta is None else -delta
    reached = gained is not None and gained >= config.target_points
    return Comparison(
        **dict(pair) | {"sentence": sentence, "beside": [line for line in pair.beside if line not in sentence]},
        verdict="reject" if refusals else "keep",
        refusals=refusals,
        rule=rule,
        target=Target(points=config.target_points, gained_points=gained, reached=reached),
        lead_with="sets" if reached else "domains",
        next_steps=[*_next_steps(pair, gained, config), *(step for limit in LIMITS for step in limit.next_steps(case))],
        forgetting=dict(case.forgetting),
        overlaps=dict(overlaps),
        doubtful=without_doubtful(rows, pair, names, config, doubted) if doubted else None,
    )


def _refusals(case: Case) -> Iterator[Refusal]:
    """Every limit that does not hold; where no gain is shown, that alone."""
    for limit in (GAIN,) if GAIN.broken(case) else LIMITS:
        yield from (Refusal(limit=limit.name, sentence=sentence) for sentence in limit.broken(case))


def _sentence(case: Case, refusals: Sequence[Refusal], rule: str) -> str:
    """What is shown, of which sets that is to be doubted, and why it is not kept although it is shown."""
    pair, kept = case.pair, not refusals
    doubts = [case.overlaps[name].sentence for name in pair.sets if name in case.overlaps]
    sentence = " ".join([pair.sentence, *filter(None, doubts)])
    if beyond := [refusal.sentence for refusal in refusals if refusal.limit != GAIN.name]:
        return f"{sentence} Not kept: {' '.join(beyond)}"
    if kept != (pair.overall.wer.shown == BETTER):  # the recipe's rule is not the default one
        return f"{sentence} {'Kept' if kept else 'Not kept'} all the same: {rule}."
    return sentence


def _forgetting(rows: Rows, names: Names, config: CompareConfig) -> Mapping[str, Block]:
    """A block for each set in another language."""
    pairs = pair_rows(*rows, (names[0].title, names[1].title)) if any(rows) else []
    return {name: block_of(members, config) for name, members in group(pairs, lambda pair: pair.baseline.set).items()}


def _next_steps(pair: PairComparison, gained_points: float | None, config: CompareConfig) -> list[str]:
    """The specification's branches for a gain under the target and for a noisy domain that stays as it was."""
    steps, interval = [], pair.overall.wer.interval_points
    if gained_points is not None and gained_points < config.target_points:
        steps.append(
            f"The gain of {gained_points:.2f} WER points is under the target of {config.target_points:.2f}: "
            "see which domains gained; more data may be needed."
        )
    elif gained_points is not None and interval and -interval[1] < config.target_points:
        steps.append(
            f"The gain of {gained_points:.2f} WER points reaches the target of {config.target_points:.2f}, "
            f"but its interval begins at {-interval[1]:.2f}: more recordings would settle it."
        )
    noisy = pair.domains.get(config.noisy_domain)
    if noisy is not None and noisy.wer.shown != BETTER:
        steps.append(
            f"Domain '{config.noisy_domain}' has not been shown to improve: "
            "the next round is the one with codec augmentation (Opus and MP3 on the training audio)."
        )
    return steps
