"""The share of a population that is low quality, estimated from a stratified sample whose clips lie in recordings.

The sample is drawn 40/40/20 and the population is not, so strata are weighted back to their sizes; clips of one
recording share their fate, so the variance is that between recordings. No files, no verdicts.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shibolet.errors import DataError

THIN_UTTERANCES, THIN_RECORDINGS = 30, 2  # a stratum under either is named in the notes


@dataclass(frozen=True, kw_only=True, slots=True)
class StratumSize:
    """One stratum of the population from which the sample was drawn."""

    num_utterances: int
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRecord:
    """The verdict on one utterance that was heard; a failure (undecodable, no words) is low quality."""

    stratum: str
    cluster: str | None  # the recording, or else the speaker; None: unknown, the utterance then counts as its own
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
    effective_n: float  # independent utterances that would say as much; infinite when everything was heard
    degrees_of_freedom: int  # 0 when everything was heard

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
    strata: dict[str, Rate]
    hours_rate: float | None  # share of the hours that is low quality; None: a stratum has hours and none were heard
    level: float  # of all intervals
    notes: tuple[str, ...]  # sentences


def estimate_rate(
    records: Iterable[GateRecord], population: Mapping[str, StratumSize], level: float = 0.95
) -> RateEstimate:
    """The population's rate of low quality, sum(W_h * p_h), with a Korn-Graubard interval, and each stratum's own.

    DataError when nothing was heard of a stratum, more than it holds, or one that the population does not have.
    """
    heard: dict[str, list[GateRecord]] = {name: [] for name in population}
    for record in records:
        if record.stratum not in heard:
            raise DataError(f"stratum '{record.stratum}' was heard but not counted; run 'shibolet audit' again")
        heard[record.stratum].append(record)
    if not heard:
        raise DataError("there is no stratum to estimate a rate for; run 'shibolet audit' again")
    for name, size in population.items():
        if not 1 <= len(heard[name]) <= size.num_utterances:
            raise DataError(
                f"stratum '{name}' has {size.num_utterances} utterances and {len(heard[name])} verdicts; "
                "at least one and at most all are needed: run 'shibolet audit' again"
            )
    return RateEstimate(
        total=_rate(heard, population, level),
        strata={name: _rate({name: heard[name]}, {name: population[name]}, level) for name in population},
        hours_rate=_hours_rate(heard, population),
        level=level,
        notes=tuple(_notes(heard, population)),
    )


def _rate(heard: Mapping[str, Sequence[GateRecord]], population: Mapping[str, StratumSize], level: float) -> Rate:
    """Stratified rate, its linearised variance between recordings, and the interval.

    Domain rules look at single utterances, so a recording may lie in several strata: its scores are added over strata
    before they are squared. Where recordings nest in strata this is the usual sum of the strata's variances.
    """
    num_population = sum(size.num_utterances for size in population.values())
    weight = {name: size.num_utterances / num_population for name, size in population.items()}
    num_heard = {name: len(heard[name]) for name in population}
    num_low = {name: sum(record.is_low_quality for record in heard[name]) for name in population}
    rate = math.fsum(weight[name] * num_low[name] / num_heard[name] for name in population)

    scores: dict[object, float] = defaultdict(float)  # recording -> what it adds to the estimate's deviation
    within = variance = 0.0  # between recordings, each stratum by itself; the second never under independent utterances
    inverse_n = 0.0  # 1 / effective n by the weights alone (Kish)
    sampled = [name for name in population if num_heard[name] < population[name].num_utterances]
    for name in sampled:
        n, mean = num_heard[name], num_low[name] / num_heard[name]
        deviations: dict[object, float] = defaultdict(float)
        for position, record in enumerate(heard[name]):
            deviations[_recording(record, position)] += record.is_low_quality - mean
        m = len(deviations)
        unheard = 1 - n / population[name].num_utterances  # finite population correction
        scale = weight[name] / n * math.sqrt(unheard * m / max(m - 1, 1))
        for recording, deviation in deviations.items():
            scores[recording] += scale * deviation
        between = scale**2 * math.fsum(deviation**2 for deviation in deviations.values())
        # With few events the variance between recordings is mostly noise: without this floor a 95% interval covers
        # 91% at a rate of 3%, n = 300, ICC .2. Two clips at the overall rate keep five good clips from proving
        # a stratum good.
        smooth = (num_low[name] + 2 * rate) / (n + 2)
        independent = weight[name] ** 2 * unheard * smooth * (1 - smooth) / max(n - 1, 1)
        within += between
        variance += max(between, independent)
        inverse_n += weight[name] ** 2 * unheard / n

    if sampled:
        variance += max(math.fsum(score**2 for score in scores.values()) - within, 0.0)  # covariance over strata
        if 0 < sum(num_low.values()) < sum(num_heard.values()):
            effective_n = 1 + rate * (1 - rate) / variance  # k independent ones have a variance of p(1 - p) / (k - 1)
        else:
            effective_n = 1 / inverse_n  # all alike: nothing shows a variance, only the weights count
        freedom = max(len(scores) - len(sampled), 1)
        num_sampled = sum(num_heard[name] for name in sampled)
        lower, upper = korn_graubard(rate, effective_n, num_sampled, freedom, level)
        # what was heard is known: neither end may contradict it
        lower = max(lower, sum(num_low.values()) / num_population)
        upper = min(upper, 1 - (sum(num_heard.values()) - sum(num_low.values())) / num_population)
    else:
        effective_n, freedom, lower, upper = math.inf, 0, rate, rate
    return Rate(
        rate=rate,
        lower=lower,
        upper=upper,
        num_heard=sum(num_heard.values()),
        num_low_quality=sum(num_low.values()),
        num_population=num_population,
        num_recordings=_num_recordings(heard, population),
        effective_n=effective_n,
        degrees_of_freedom=freedom,
    )


def korn_graubard(
    rate: float, effective_n: float, num_utterances: int, degrees_of_freedom: int, level: float
) -> tuple[float, float]:
    """Clopper-Pearson on the effective sample size, shrunk for few degrees of freedom (Korn and Graubard 1998)."""
    from scipy.special import stdtrit

    upper_tail = (1 + level) / 2
    shrink = stdtrit(max(num_utterances - 1, 1), upper_tail) / stdtrit(degrees_of_freedom, upper_tail)
    return clopper_pearson(rate, effective_n * float(shrink) ** 2, level)


def clopper_pearson(rate: float, num_trials: float, level: float) -> tuple[float, float]:
    """The exact binomial interval from beta quantiles; neither trials nor hits need be whole."""
    from scipy.special import betaincinv

    hits, misses = rate * num_trials, (1 - rate) * num_trials
    lower = float(betaincinv(hits, misses + 1, (1 - level) / 2)) if hits > 0 else 0.0
    upper = float(betaincinv(hits + 1, misses, (1 + level) / 2)) if misses > 0 else 1.0
    return lower, upper


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


def _recording(record: GateRecord, position: int) -> object:
    return (record.stratum, position) if record.cluster is None else record.cluster


def _num_recordings(heard: Mapping[str, Sequence[GateRecord]], names: Iterable[str]) -> int:
    return len({_recording(record, position) for name in names for position, record in enumerate(heard[name])})


def _notes(heard: Mapping[str, Sequence[GateRecord]], population: Mapping[str, StratumSize]) -> list[str]:
    num_heard = sum(map(len, heard.values()))
    whole = [name for name, size in population.items() if len(heard[name]) == size.num_utterances]
    if len(whole) == len(population):
        return [
            f"All {num_heard:,} utterances were heard: the interval has no width from sampling; "
            "what error is left is the detector's."
        ]
    notes = [f"Heard whole, so without sampling error: {', '.join(whole)}."] if whole else []
    unknown = sum(record.cluster is None for records in heard.values() for record in records)
    if unknown:
        which = f"Neither recording nor speaker is known of {'all' if unknown == num_heard else f'{unknown:,} of'}"
        notes.append(
            f"{which} {num_heard:,} utterances heard: these count as independent, and the interval is too narrow if "
            "they are not."
        )
    for name in (name for name in population if name not in whole):
        num_recordings = _num_recordings(heard, [name])
        if len(heard[name]) < THIN_UTTERANCES or num_recordings < THIN_RECORDINGS:
            notes.append(
                f"Stratum '{name}' is thin: {len(heard[name])} utterances of {num_recordings} recordings speak for "
                f"{population[name].num_utterances:,}."
            )
    return notes
