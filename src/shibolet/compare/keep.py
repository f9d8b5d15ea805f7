"""Whether a candidate is kept over the baseline, what it gained where it was meant to, and what to do next."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import median
from types import MappingProxyType

from shibolet.compare.config import CompareConfig
from shibolet.compare.doubtful import Doubted, without_doubtful
from shibolet.compare.limits import LIMITS, Case, losses_without_limit, rule_of
from shibolet.compare.nearest import Languages, Rows, nearest_reading
from shibolet.compare.non_speech import Sides, non_speech_change
from shibolet.compare.pairs import NO_OVERLAPS, Names, Overlaps, block_of, compare_pair, pair_rows
from shibolet.compare.seeds import NO_SEEDS, ONE_TRAINING, OtherSeeds, between_seeds
from shibolet.compare.terms import terms_change
from shibolet.records.documents.comparison import (
    BETTER,
    Comparison,
    OtherLanguage,
    PairComparison,
    Refusal,
    Target,
)
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import BUCKETS_S, Buckets, group

GAIN = LIMITS[0]
NOISY_BELOW_DB = 30.0  # median of a domain's utterances: clean rooms have 33 to 46, voice messages 26 (decisions.md)


def compare(
    rows: Rows,
    names: Names,
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    other_languages: Rows = ((), ()),
    overlaps: Overlaps = NO_OVERLAPS,
    heard_codecs: bool = False,
    doubted: Doubted | None = None,
    languages: Languages = MappingProxyType({}),
    other_seeds: OtherSeeds = NO_SEEDS,
    non_speech: Sides | None = None,
    terms: Collection[str] = (),
) -> Comparison:
    """The verdict on a candidate, with all that it is made from; DataError where the two do not pair.

    `overlaps` is what each set shares with the candidate's training data, where that is known; `heard_codecs` whether
    it was trained with codec augmentation. What is `doubted` of the references is shown and decides nothing, and so is
    the nearest reading of sets of which `languages` has the language. A limit of `config.limits` holds for the sets
    that `languages` says are in its language. `other_seeds` are the rows of the same trainings with other seeds,
    `non_speech` what both wrote where nobody speaks. `terms` are words, as scores count them, that are compared apart.
    """
    pair = compare_pair(*rows, config, names, buckets)
    nearest = nearest_reading(rows, other_languages, names, config, languages)
    seeds = between_seeds(rows, other_seeds, names, config)
    silence = non_speech_change(non_speech, config) if non_speech else None
    apart = terms_change(rows, names, config, terms)
    case = Case(pair, _forgetting(other_languages, names, config, languages), overlaps, config, seeds, silence)
    refusals, rule, target = list(_refusals(case)), rule_of(case), _target(pair, config)
    sentence = _sentence(case, refusals, rule)
    if target.domain:
        sentence = f"{target.sentence} {sentence}"
    sentence = " ".join([*losses_without_limit(case), sentence])
    alone = () if other_seeds[1] else (ONE_TRAINING,)
    told = [one.sentence for one in (silence, apart) if one]
    beside = [*pair.beside, *(nearest.sentences if nearest else ()), *told, *alone]
    steps = _next_steps(pair, target, {} if heard_codecs else _noisy_domains(rows[0]))
    return Comparison(
        **dict(pair) | {"sentence": sentence, "beside": [line for line in beside if line not in sentence]},
        verdict="reject" if refusals else "keep",
        refusals=refusals,
        rule=rule,
        target=target,
        lead_with="domains" if pair.domains and (target.domain or not target.reached) else "sets",
        next_steps=[*steps, *(step for limit in LIMITS for step in limit.next_steps(case))],
        forgetting=dict(case.forgetting),
        overlaps=dict(overlaps),
        doubtful=without_doubtful(rows, pair, names, config, doubted) if doubted else None,
        nearest=nearest,
        seeds=seeds,
        non_speech=silence,
        terms=apart,
    )


def _refusals(case: Case) -> Iterator[Refusal]:
    """Every limit that does not hold; where no gain is shown, that alone."""
    for limit in (GAIN,) if GAIN.broken(case) else LIMITS:
        yield from (Refusal(limit=limit.name, sentence=sentence) for sentence in limit.broken(case))


def _sentence(case: Case, refusals: Sequence[Refusal], rule: str) -> str:
    """What is shown, of which sets that is to be doubted, and why it is not kept although it is shown."""
    pair, kept = case.pair, not refusals
    doubts = [case.overlaps[name].sentence for name in pair.sets if name in case.overlaps]
    seeds = [case.seeds.sentence] if case.seeds else []
    sentence = " ".join([pair.sentence, *seeds, *filter(None, doubts)])
    if beyond := [refusal.sentence for refusal in refusals if refusal.limit != GAIN.name]:
        return f"{sentence} Not kept: {' '.join(beyond)}"
    if kept != (pair.overall.wer.shown == BETTER):  # the recipe's rule is not the default one
        return f"{sentence} {'Kept' if kept else 'Not kept'} all the same: {rule}."
    return sentence


def _forgetting(rows: Rows, names: Names, config: CompareConfig, languages: Languages) -> Mapping[str, OtherLanguage]:
    """Each set in another language."""
    pairs = pair_rows(*rows, (names[0].title, names[1].title)) if any(rows) else []
    found = {}
    for name, members in group(pairs, lambda pair: pair.baseline.set).items():
        language = languages.get(name)
        found[name] = OtherLanguage(
            **dict(block_of(members, config)),
            language=language and language.name, limit_points=config.limit_of(language),
        )  # fmt: skip
    return found


def _target(pair: PairComparison, config: CompareConfig) -> Target:
    """What was gained where the round was meant to gain."""
    block = pair.domains.get(config.target_domain) if config.target_domain else pair.overall
    delta = block.wer.delta_points if block else None
    interval = block.wer.interval_points if block else None
    gained = None if delta is None else 0.0 - delta  # no -0.0
    within = None if interval is None else (0.0 - interval[1], 0.0 - interval[0])
    is_meant = bool(config.target_points or config.target_domain)
    reached = not is_meant or (gained is not None and gained >= config.target_points)
    where = f" on domain '{config.target_domain}'" if config.target_domain else ""
    if not is_meant:
        sentence = ""
    elif gained is None:
        why = "its references have no words" if block else "no utterance of these sets is of it"
        sentence = f"The target{where or ' on all utterances'} cannot be judged: {why}."
    else:
        sentence = f"The target of {config.target_points:.2f} WER points{where} is {'' if reached else 'not '}reached: "
        sentence += f"{gained:z.2f} gained, "
        sentence += "95% interval {:z.2f} to {:z.2f}".format(*within) if within else "of too few groups for an interval"
        expected = config.expected_points
        sentence += "; the plan expects {:g} to {:g}.".format(*expected) if expected else "."
    return Target(
        domain=config.target_domain, points=config.target_points, expected_points=config.expected_points,
        gained_points=gained, interval_points=within, reached=reached, sentence=sentence,
    )  # fmt: skip


def _noisy_domains(rows: Sequence[ScoredRow]) -> dict[str, float]:
    """The median signal over noise in dB of each domain of which it is low, where it is known."""
    domains = group([row for row in rows if row.domain and row.snr_db is not None], lambda row: row.domain)
    medians = {name: median(row.snr_db for row in members) for name, members in domains.items()}
    return {name: value for name, value in medians.items() if value < NOISY_BELOW_DB}


def _next_steps(pair: PairComparison, target: Target, noisy_db: Mapping[str, float]) -> list[str]:
    """The specification's branches for a gain under the target and for noisy domains that stay as they were."""
    steps, gained, interval = [], target.gained_points, target.interval_points
    where = f" on domain '{target.domain}'" if target.domain else ""
    if gained is not None and not target.reached:
        said = f"The gain of {gained:z.2f} WER points{where} is under the target of"
        said = said if gained > 0 else f"There is no gain of WER points{where}, and the target is"
        steps.append(
            f"{said} {target.points:.2f}: see which {'domains' if pair.domains else 'sets'} gained; more data may be "
            "needed."
        )
    elif target.points and gained is not None and interval and interval[0] < target.points:
        steps.append(
            f"The gain of {gained:z.2f} WER points{where} reaches the target of {target.points:.2f}, "
            f"but its interval begins at {interval[0]:.2f}: more recordings would settle it."
        )
    steps += [
        f"Domain '{name}' is noisy (median signal over noise {noisy_db[name]:.0f} dB) and has not been shown to "
        "improve: the next round is the one with codec augmentation (Opus and MP3 on the training audio)."
        for name, block in pair.domains.items()
        if name in noisy_db and block.wer.shown != BETTER
    ]
    return steps
