"""The share of a data set that is low quality, estimated from a stratified sample. No files, no verdicts.

Utterances are drawn at random within a stratum, and strata are weighted back to their sizes. The question is the rate
of this data set: then the interval is that of simple random sampling without replacement in each stratum, whatever
recordings the utterances share. Each stratum's own interval is exact, and they are put together by squares (MOVER, Zou
and Donner, Statistics in Medicine 2008): one effective sample size for unlike strata covers too seldom.

The rate of new recordings from the same sources is another question, of another interval (`target`).
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from shibolet.errors import DataError
from shibolet.records.documents.alignment import StratumSize
from shibolet.records.documents.gate import Target

THIN_UTTERANCES = 30  # a stratum that is heard with fewer is named in the notes
MIN_RECORDINGS = 30  # that new ones can be judged by: ten gave 17% wrong PROCEED at an intraclass correlation of .6
ENDLESS = 10_000  # a population of so many times what was drawn is drawn from as if it had no end
_ROUNDING = 1e-6  # of an utterance: what floating point leaves of a whole number


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRecord:
    """The verdict on one utterance that was heard; a failure (undecodable, no words) is low quality."""

    stratum: str
    cluster: str | None  # the recording, or else the speaker; None: unknown
    is_low_quality: bool
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """The share of low-quality utterances with its interval, fractions of 1, and the counts behind it."""

    rate: float  # weighted to the population
    lower: float
    upper: float
    num_heard: int
    num_low_quality: int  # of those heard
    num_population: int
    num_recordings: int  # heard; utterances of unknown recordings count as one each

    @property
    def is_whole(self) -> bool:
        return self.num_heard == self.num_population

    @property
    def sample_rate(self) -> float:
        """Unweighted: the sample's, not the population's."""
        return self.num_low_quality / self.num_heard


@dataclass(frozen=True, kw_only=True, slots=True)
class RateEstimate:
    """The rate of a population and of its strata, and what a reader must know about them."""

    total: Rate
    strata: dict[str, Rate]  # each of this data set, whatever the target
    hours_rate: float | None  # share of the hours that is low quality; None: a stratum has hours and none were heard
    level: float  # of all intervals
    target: Target
    of: str  # a sentence: whose rate it is
    notes: tuple[str, ...]  # sentences


@dataclass(frozen=True, slots=True)
class WeightedRate:
    """A share with its interval, and what it weighs in a sum."""

    weight: float
    rate: float
    lower: float
    upper: float


def estimate_rate(
    records: Iterable[GateRecord],
    population: Mapping[str, StratumSize],
    level: float = 0.95,
    target: Target = "data_set",
) -> RateEstimate:
    """The population's rate of low quality, sum(W_h * p_h), with its interval, and each stratum's own.

    DataError when nothing was heard of a stratum, more than it holds, or one that the population does not have; and
    for new recordings when there are under `MIN_RECORDINGS`.
    """
    heard: dict[str, list[GateRecord]] = {name: [] for name in population}
    for record in records:
        if record.stratum not in heard:
            raise DataError(f"stratum '{record.stratum}' was heard but not counted; run 'shibolet audit' again")
        heard[record.stratum].append(record)
    if not heard:
        raise DataError("there are no utterances to estimate a rate from; run 'shibolet audit' again")
    for name, size in population.items():
        if not 1 <= len(heard[name]) <= size.num_utterances:
            raise DataError(
                f"stratum '{name}' has {size.num_utterances} utterances and {len(heard[name])} verdicts; "
                "at least one and at most all are needed: run 'shibolet audit' again"
            )
    strata = {name: _stratum(heard[name], population[name].num_utterances, level) for name in population}
    everything = [record for own in heard.values() for record in own]
    if target == "data_set":
        num, num_heard = sum(size.num_utterances for size in population.values()), len(everything)
        of = f"The rate is that of these {num:,} utterances, of which {num_heard:,} were heard."
        ends = combine_strata(strata.values(), level)
    else:
        num = len({record.cluster for record in everything} - {None})
        of = (
            f"The rate is that of new recordings from the same sources, as far as the {num:,} recordings heard show it."
        )
        ends = _of_new_recordings(heard, population, level)
    return RateEstimate(
        total=_rate(everything, sum(size.num_utterances for size in population.values()), ends),
        strata=strata,
        hours_rate=_hours_rate(heard, population),
        level=level,
        target=target,
        of=of,
        notes=tuple(_notes(heard, population) if target == "data_set" else ()),
    )


def combine_strata(strata: Iterable[Rate], level: float) -> WeightedRate:
    """The rate of all strata together; its ends are shares that the population can have, rounded outwards.

    Of strata that are nearly heard whole a few utterances decide, and without rounding 90% are covered. Of strata of
    which twenty were heard, squares give too little below (wrong STOP in 3.1 to 3.6%), so no end is nearer than that of
    one sample with the same variance.
    """
    strata = list(strata)
    num = sum(one.num_population for one in strata)
    found = combine(WeightedRate(one.num_population / num, one.rate, one.lower, one.upper) for one in strata)
    below, above = _as_one_sample([one for one in strata if not one.is_whole], num, level)
    lower = math.floor(num * (found.rate - max(found.rate - found.lower, below)) + _ROUNDING) / num
    upper = math.ceil(num * (found.rate + max(found.upper - found.rate, above)) - _ROUNDING) / num
    least = sum(one.num_low_quality for one in strata)
    most = num - sum(one.num_heard - one.num_low_quality for one in strata)
    return WeightedRate(
        1.0, found.rate, max(min(lower, found.rate), least / num), min(max(upper, found.rate), most / num)
    )


def _as_one_sample(strata: Sequence[Rate], population: int, level: float) -> tuple[float, float]:
    """Distances to the ends if the strata that were not heard whole were one sample with the variance of theirs."""
    if len(strata) < 2:  # whose own interval is exact
        return 0.0, 0.0
    weight = sum(one.num_population for one in strata)
    rate = variance = unheard = 0.0
    for one in strata:
        share, num = one.num_population / weight, one.num_heard
        own = share**2 * one.rate * (1 - one.rate) / max(num - 1, 1)
        rate += share * one.rate
        variance += own
        unheard += own * (1 - num / one.num_population)
    if variance == 0:
        return 0.0, 0.0
    lower, upper = clopper_pearson(rate, 1 + rate * (1 - rate) / variance, level)
    scale = weight / population * math.sqrt(unheard / variance)
    return scale * (rate - lower), scale * (upper - rate)


def combine(parts: Iterable[WeightedRate]) -> WeightedRate:
    """A weighted sum of independent shares: distances to the ends add up by squares; what is known adds nothing."""
    parts = list(parts)
    rate = math.fsum(part.weight * part.rate for part in parts)
    below = math.sqrt(math.fsum((part.weight * (part.rate - part.lower)) ** 2 for part in parts))
    above = math.sqrt(math.fsum((part.weight * (part.upper - part.rate)) ** 2 for part in parts))
    return WeightedRate(math.fsum(part.weight for part in parts), rate, rate - below, rate + above)


@lru_cache(maxsize=100_000)
def share_interval(hits: int, num: int, population: int, level: float) -> tuple[float, float]:
    """The exact interval of a share of a population, of which `num` were drawn: hypergeometric, each tail by itself.

    The ends are shares that the population can have, within what was seen.
    """
    if num == population:
        return hits / num, hits / num
    if population >= ENDLESS * num:
        return clopper_pearson(hits / num, num, level)
    from scipy.stats import hypergeom  # takes a second to import

    tail, least, most = (1 - level) / 2, hits, population - (num - hits)
    lower = least + bisect_left(
        range(least, most), True, key=lambda bad: hypergeom.sf(hits - 1, population, bad, num) > tail
    )
    too_many = lower + bisect_left(
        range(lower, most + 1), True, key=lambda bad: hypergeom.cdf(hits, population, bad, num) <= tail
    )
    return lower / population, (too_many - 1) / population


def clopper_pearson(rate: float, num_trials: float, level: float) -> tuple[float, float]:
    """The exact binomial interval from beta quantiles; neither trials nor hits need be whole."""
    from scipy.special import betaincinv

    hits, misses = rate * num_trials, (1 - rate) * num_trials
    lower = float(betaincinv(hits, misses + 1, (1 - level) / 2)) if hits > 0 else 0.0
    upper = float(betaincinv(hits + 1, misses, (1 + level) / 2)) if misses > 0 else 1.0
    return lower, upper


def _stratum(heard: Sequence[GateRecord], population: int, level: float) -> Rate:
    num_low = sum(record.is_low_quality for record in heard)
    ends = share_interval(num_low, len(heard), population, level)
    return _rate(heard, population, WeightedRate(1.0, num_low / len(heard), *ends))


def _rate(heard: Sequence[GateRecord], population: int, found: WeightedRate) -> Rate:
    return Rate(
        rate=found.rate,
        lower=found.lower,
        upper=found.upper,
        num_heard=len(heard),
        num_low_quality=sum(record.is_low_quality for record in heard),
        num_population=population,
        num_recordings=_num_recordings(heard),
    )


def _of_new_recordings(
    heard: Mapping[str, Sequence[GateRecord]], population: Mapping[str, StratumSize], level: float
) -> WeightedRate:
    """Linearised variance between recordings, and Clopper-Pearson on the effective size (Korn and Graubard 1998).

    Domain rules look at single utterances, so a recording may lie in several strata: its scores are added over strata
    before they are squared. Files that could not be read have no recording; their share is taken as it is.
    """
    from scipy.special import stdtrit

    num_population = sum(size.num_utterances for size in population.values())
    scores: dict[str, float] = defaultdict(float)  # recording -> what it adds to the estimate's deviation
    rate = independent = 0.0
    for name, own in heard.items():
        weight, n = population[name].num_utterances / num_population, len(own)
        mean = sum(record.is_low_quality for record in own) / n
        rate += weight * mean
        if n == population[name].num_utterances and all(record.cluster is None for record in own):
            continue
        independent += weight**2 * mean * (1 - mean) / n
        for record in own:
            if record.cluster is None:
                raise DataError(
                    "gate.target: new_recordings needs the recording (or speaker) of each utterance, and some of "
                    f"stratum '{name}' have none; give these columns, or set gate.target: data_set"
                )
            scores[record.cluster] += weight / n * (record.is_low_quality - mean)
    num = len(scores)
    if num < MIN_RECORDINGS:
        raise DataError(
            f"gate.target: new_recordings needs {MIN_RECORDINGS} recordings, and {num} were heard; hear more of them, "
            "or set gate.target: data_set"
        )
    squares = [score**2 for score in scores.values()]
    between = math.fsum(squares)
    variance = max(between * num / (num - 1), independent)
    if variance == 0:  # All alike: nothing shows how far recordings differ, so each counts once.
        return WeightedRate(1.0, rate, *clopper_pearson(rate, num, level))
    # Of a few bad recordings, or one that is long, the variance itself is hardly known: only those count as freedom.
    freedom = min(between**2 / math.fsum(square**2 for square in squares), num - 1) if between else num - 1
    shrink = float(stdtrit(10**6, (1 + level) / 2) / stdtrit(freedom, (1 + level) / 2))
    return WeightedRate(1.0, rate, *clopper_pearson(rate, rate * (1 - rate) / variance * shrink**2, level))


def _hours_rate(heard: Mapping[str, Sequence[GateRecord]], population: Mapping[str, StratumSize]) -> float | None:
    """Share of the hours that is low quality: the ratio of seconds heard, by stratum, weighted by hours."""
    hours = math.fsum(size.hours for size in population.values())
    low = 0.0
    for name, size in population.items():
        seconds = math.fsum(record.duration_s for record in heard[name])
        if size.hours > 0 and seconds > 0:
            low += size.hours * math.fsum(r.duration_s for r in heard[name] if r.is_low_quality) / seconds
        elif size.hours > 0:
            return None
    return low / hours if hours > 0 else None


def _num_recordings(records: Sequence[GateRecord]) -> int:
    named = {record.cluster for record in records if record.cluster is not None}
    return len(named) + sum(record.cluster is None for record in records)


def _notes(heard: Mapping[str, Sequence[GateRecord]], population: Mapping[str, StratumSize]) -> list[str]:
    whole = [name for name, size in population.items() if len(heard[name]) == size.num_utterances]
    if len(whole) == len(population):
        return [
            f"All {sum(map(len, heard.values())):,} utterances were heard: the interval has no width from sampling; "
            "what error is left is the detector's."
        ]
    notes = [f"Heard whole, so without sampling error: {', '.join(whole)}."] if whole else []
    return notes + [
        f"Stratum '{name}' is thin: {len(heard[name])} utterances speak for {population[name].num_utterances:,}."
        for name in population
        if name not in whole and len(heard[name]) < THIN_UTTERANCES
    ]
