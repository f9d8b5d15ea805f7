"""Which utterances the audit hears: a stratified sample that depends on content only and grows without redrawing.

Knows nothing of verdicts: the gate weights what was heard back to the population with the sizes kept here.
"""

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from shibolet.errors import DataError, RecipeError
from shibolet.records.config import Config
from shibolet.records.utterance import Utterance
from shibolet.scoring.allocation import turns


class SampleConfig(Config):
    """How many utterances the audit hears, and of which domains."""

    # Share of all utterances; 1.0 hears all of them, and there is no sampling error
    sample_frac: float = Field(0.10, gt=0, le=1)
    # Domain -> its share of the sample, adding up to 1; a domain that is not named is drawn as in the population.
    # Empty: in proportion to the sizes of the domains, with 30 utterances of each or more.
    shares: dict[str, float] = Field({})
    # Most utterances of the sample; null: no limit. 2,500 take a 0.6B aligner 1 to 3 hours on a CPU
    max_utterances: int | None = Field(None, ge=1)
    # Fewest utterances of the sample; of 300 independent ones, 18 bad ones (6%) still prove a rate under 10%
    min_utterances: int = Field(300, ge=1)
    seed: int = 0  # seed of the sample
    # Size of a sample that grew after the first look; `shibolet audit --extend` sets it. null: it did not grow
    extend_to: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "SampleConfig":
        total = math.fsum(self.shares.values())
        if any(share <= 0 for share in self.shares.values()) or (self.shares and not math.isclose(total, 1)):
            raise RecipeError(
                f"audit sample: shares must be positive and add up to 1, got {self.shares} (sum {total:g})"
            )
        if self.max_utterances is not None and self.max_utterances < self.min_utterances:
            raise RecipeError(
                f"audit sample: max_utterances {self.max_utterances} is under min_utterances {self.min_utterances}; "
                "lower the second"
            )
        return self

    def num_utterances(self, population: int) -> int:
        """How many of `population` utterances are drawn at the first look."""
        wanted = max(math.ceil(self.sample_frac * population - 1e-9), self.min_utterances)
        return min(wanted, population, self.max_utterances or population)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """One domain: its size in the population and the utterances drawn from it."""

    num_utterances: int  # in the population
    hours: float  # in the population
    places: array  # of those that are drawn, in the order in which a growing sample takes them


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The utterances to hear, by stratum, and what a reader must know about how they were drawn."""

    strata: dict[str, Stratum]
    in_order: array  # places over all strata: a larger sample of the same data begins with a smaller one
    notes: tuple[str, ...]  # sentences


def draw_sample(utterances: Sequence[Utterance], config: SampleConfig) -> Sample:
    """A stratified random sample of utterances that have their domain.

    Within a stratum the utterances with the smallest hash of (seed, id) are drawn, and places are given out one after
    the other: the order of the input does not matter, and a larger sample of the same data contains a smaller one.
    Utterances are named by their places in the input. DataError where two have the same id, or there is none.
    """
    population = _Population.of(utterances, config.seed)
    if not population.domains:
        raise DataError("no utterance to sample: the data set is empty")
    if (again := population.first_repeated()) is not None:
        utterance = utterances[again]
        raise DataError(
            f"utterance id '{utterance.id}' occurs twice, again in '{utterance.source}'; each row needs its own"
        )
    of_domain = {name: population.of_domain(name) for name in sorted(population.domains)}
    sizes = {name: len(places) for name, places in of_domain.items()}
    num_first = config.num_utterances(sum(sizes.values()))
    shares = _shares(sizes, config.shares)
    order = list(turns(sizes, num_first, shares if config.shares else None))
    order += turns(sizes, max(num_first, config.extend_to or 0), given=Counter(order))
    places = Counter(order)
    strata = {
        name: Stratum(
            num_utterances=size,
            hours=math.fsum(population.durations_s[of_domain[name]]) / 3600,
            places=array("q", of_domain[name][: places[name]].tobytes()),
        )
        for name, size in sizes.items()
    }
    left = {name: iter(stratum.places) for name, stratum in strata.items()}
    in_order = array("q", (next(left[name]) for name in order))
    return Sample(strata=strata, in_order=in_order, notes=tuple(_notes(sizes, shares, num_first, len(order), config)))


@dataclass(frozen=True, slots=True)
class _Population:
    """What a draw looks at, of N utterances."""

    domains: dict[str, int]  # and the number of each
    number_of_domain: np.ndarray  # [N]
    durations_s: np.ndarray  # [N]
    lots: np.ndarray  # [N, 2], the first 16 bytes of each
    order: np.ndarray  # [N] places, that of the smallest lot first

    @classmethod
    def of(cls, utterances: Iterable[Utterance], seed: int) -> "_Population":
        domains: dict[str, int] = {}
        numbers, durations_s, lots = array("i"), array("d"), bytearray()
        for utterance in utterances:
            if utterance.domain is None:
                raise ValueError(f"utterance '{utterance.id}' has no domain")
            numbers.append(domains.setdefault(utterance.domain, len(domains)))
            durations_s.append(utterance.duration_s)
            lots += lot(seed, utterance.id)[:16]
        both = np.frombuffer(lots, ">u8").reshape(-1, 2)
        order = np.lexsort((both[:, 1], both[:, 0]))
        return cls(domains, np.frombuffer(numbers, np.intc), np.frombuffer(durations_s), both, order)

    def of_domain(self, name: str) -> np.ndarray:
        """Places of a domain's utterances, that of the smallest lot first."""
        return self.order[self.number_of_domain[self.order] == self.domains[name]]

    def first_repeated(self) -> int | None:
        """The first place whose id stood before; None: each has its own. Equal ids have equal lots."""
        is_same = (self.lots[self.order[1:]] == self.lots[self.order[:-1]]).all(axis=1)
        return int(self.order[1:][is_same].min()) if is_same.any() else None


def _shares(sizes: Mapping[str, int], named: Mapping[str, float]) -> dict[str, float]:
    """Share of the sample by stratum: unnamed strata as in the population, the named divide the rest as asked."""
    population = sum(sizes.values())
    unnamed = {name: size / population for name, size in sizes.items() if name not in named}
    present = {name: share for name, share in named.items() if name in sizes}
    rest = (1 - sum(unnamed.values())) / (sum(present.values()) or 1)
    return unnamed | {name: share * rest for name, share in present.items()}


def lot(seed: int, id: str) -> bytes:
    """The place of an utterance in every random order of a sample; the smallest are drawn."""
    return hashlib.sha256(f"{seed}/{id}".encode()).digest()


def _notes(
    sizes: Mapping[str, int], shares: Mapping[str, float], num_first: int, num_drawn: int, config: SampleConfig
) -> list[str]:
    population = sum(sizes.values())
    if num_drawn == population:
        return [f"Every one of {population:,} utterances is heard: there is no sampling error."]
    notes = []
    asked = math.ceil(config.sample_frac * population - 1e-9)
    if num_first != asked:
        limit = "max_utterances" if num_first < asked else "min_utterances"
        notes.append(
            f"{config.sample_frac:.0%} of {population:,} utterances is {asked:,}: "
            f"{num_first:,} are drawn because of {limit}."
        )
    if num_drawn > num_first:
        notes.append(
            f"After the first {num_first:,}, {num_drawn - num_first:,} more are drawn in proportion (--extend)."
        )
    for name in sorted(config.shares.keys() - sizes.keys()):
        notes.append(f"No utterance belongs to '{name}': its share of {config.shares[name]:.0%} goes to the others.")
    for name, size in sizes.items() if config.shares else ():
        if name not in config.shares:
            notes.append(f"'{name}' has no share in the recipe: drawn as in the population ({size / population:.1%}).")
        elif size < math.floor(shares[name] * num_first):
            notes.append(
                f"'{name}' has {size:,} utterances where its share asks for {shares[name] * num_first:,.0f}: "
                "all are drawn and the rest of its share goes to the others."
            )
    return notes
