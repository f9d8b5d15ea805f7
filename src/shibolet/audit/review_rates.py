"""What a person's answers on a random draw say of the whole data set: the rate of bad utterances, with its interval.

Stratified prediction-powered inference (Fisch and others, 2024): the audit's score parts what it heard into bands in
which people mostly agree with each other, and the answers of each band speak for its share of the population. Two
samples stand behind it: the audit's shows how large each band is, the person's what share of it is bad (Neyman, 1938).
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import Forecast
from shibolet.scoring.rates import WeightedRate, clopper_pearson, combine

EDGES = (0.1, 0.5, 0.75, 0.95)  # of the score, between bands; 0.5 parts what is flagged from what passed
EXPECTED_BAD = (0.95, 0.7, 0.3, 0.1, 0.03)  # of each band, before anybody answered, where no probability is known
MIN_OF_BAND = 3  # answers; a band with fewer is taken together with its neighbour on the same side of the line
MORE = (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # times as many answers, for which the interval is forecast
Cell = tuple[str, int]  # domain, band


def band_of(row: Audited) -> int:
    """0 for the lowest scores; the verdict decides on which side of the line a row lies."""
    side = EDGES.index(0.5)
    band = 0 if row.confidence is None else bisect_right(EDGES, row.confidence)
    return min(band, side) if row.is_low_quality else max(band, side + 1)


def told(band: int) -> str:
    """Where the scores of a band lie, in words."""
    low, high = (0.0, *EDGES)[band], (*EDGES, 1.0)[band]
    return f"between {low:g} and {high:g}"


def is_flagged(band: int) -> bool:
    return band <= EDGES.index(0.5)


@dataclass(frozen=True)
class Bands:
    """What was heard and what was answered, by domain and band."""

    sizes: Mapping[str, int]  # utterances of the population, by domain
    heard: Mapping[str, int]
    failed: Mapping[str, int]  # of these, what could not be heard: bad, and nobody need judge it
    members: Mapping[Cell, int]  # of these, what could
    answered: Mapping[Cell, int]  # of these, good or bad
    bad: Mapping[Cell, int]

    def stakes(self, rows: Sequence[Audited]) -> dict[Cell, float]:
        """How much the answers of a cell may move the rate: its share of the population times the spread expected."""
        expected: dict[Cell, list[float]] = {cell: [] for cell in self.members}
        for row in rows:
            if not row.failure and row.probability is not None:
                expected[row.domain, band_of(row)].append(1 - row.probability)
        stakes = {}
        for (domain, band), own in expected.items():
            bad = min(max(sum(own) / len(own), 0.02), 0.98) if own else EXPECTED_BAD[band]
            stakes[domain, band] = self._weight((domain, band)) * math.sqrt(bad * (1 - bad))
        return stakes

    def groups(self) -> list[list[int]]:
        """Bands that are taken together, in order; those of one side only."""
        groups = []
        for flagged in (True, False):
            own: list[list[int]] = []
            for band in sorted({band for _, band in self.members if is_flagged(band) == flagged}):
                if own and min(self._answers(own[-1]), self._answers([band])) < MIN_OF_BAND:
                    own[-1].append(band)
                else:
                    own.append([band])
            groups += own
        return groups

    def rate(self, level: float, factor: float = 1.0) -> WeightedRate:
        """The share of bad ones in the population; with `factor` times as many answers, if they stay what they are."""
        from scipy.special import ndtri

        parts = {tuple(group): self._part(group, level, factor) for group in self.groups()}
        failed = sum(self.sizes[d] / self._population * num / self.heard[d] for d, num in self.failed.items())
        unknown = [
            WeightedRate(self._weight(cell), parts[group].rate, 0.0, 1.0)
            for group in parts
            for cell in self._unknown(group)
        ]
        found = combine([*parts.values(), *unknown, WeightedRate(failed, 1.0, 1.0, 1.0)])
        rate_of = {band: part.rate for group, part in parts.items() for band in group}
        reach = float(ndtri((1 + level) / 2)) ** 2 * sum(self._variance(domain, rate_of) for domain in self.heard)
        below = math.sqrt((found.rate - found.lower) ** 2 + reach)
        above = math.sqrt((found.upper - found.rate) ** 2 + reach)
        return WeightedRate(1.0, found.rate, max(0.0, found.rate - below), min(1.0, found.rate + above))

    def side(self, *, flagged: bool, level: float) -> WeightedRate | None:
        """The share of bad ones among what the audit flagged, or passed; None where that is nothing."""
        parts = [self._part(group, level) for group in self.groups() if is_flagged(group[0]) == flagged]
        if not parts:
            return None
        weight = sum(part.weight for part in parts)
        return combine(WeightedRate(part.weight / weight, part.rate, part.lower, part.upper) for part in parts)

    def share_passed(self) -> float:
        """Of the population, the share that the audit would let pass."""
        return sum(self._weight(cell) for cell in self.members if not is_flagged(cell[1]))

    def forecast(self, level: float) -> tuple[Forecast, ...]:
        """Intervals with more answers, in percent, until everything heard is judged."""
        lines, total = [], sum(self.members.values())
        for factor in MORE:
            part = self.rate(level, factor)
            num = round(sum(min(factor * self.answered.get(cell, 0), num) for cell, num in self.members.items()))
            ends = {"lower": round(100 * part.lower, 3), "upper": round(100 * part.upper, 3)}
            lines.append(Forecast(num_answers=num, **ends))
            if num >= total:
                break
        return tuple(lines)

    @property
    def _population(self) -> int:
        return sum(self.sizes[domain] for domain in self.heard)

    def _weight(self, cell: Cell) -> float:
        """Its share of the population."""
        domain, _ = cell
        return self.sizes[domain] / self._population * self.members[cell] / self.heard[domain]

    def _answers(self, group: Sequence[int]) -> int:
        return sum(num for (_, band), num in self.answered.items() if band in group)

    def _part(self, group: Sequence[int], level: float, factor: float = 1.0) -> WeightedRate:
        """Bands that are taken together, as far as they are answered; exact on the effective number of answers."""
        own = [cell for cell in self.members if cell[1] in group]
        judged = [cell for cell in own if self.answered.get(cell)]
        weight = sum(self._weight(cell) for cell in judged)
        rate = variance = unheard = 0.0
        for cell in judged:
            share = self._weight(cell) / weight
            num = min(factor * self.answered[cell], self.members[cell])
            rate += share * self.bad.get(cell, 0) / self.answered[cell]
            variance += share**2 / num
            # Of the cell's part of the population; `_variance` has what the audit's own sample adds between bands.
            unheard += share**2 / num * (1 - num * self.heard[cell[0]] / (self.members[cell] * self.sizes[cell[0]]))
        lower, upper = clopper_pearson(rate, 1 / variance, level)
        left = math.sqrt(max(0.0, unheard / variance))
        return WeightedRate(weight, rate, rate - (rate - lower) * left, rate + (upper - rate) * left)

    def _unknown(self, group: Sequence[int]) -> list[Cell]:
        """Cells without an answer: anything may be true of them."""
        return [cell for cell in self.members if cell[1] in group and not self.answered.get(cell)]

    def _variance(self, domain: str, rate_of: Mapping[int, float]) -> float:
        """What the audit's sample of a domain adds: it shows the bands' sizes, and not exactly."""
        num, size = self.heard[domain], self.sizes[domain]
        failed = self.failed.get(domain, 0) / num
        shares = {band: self.members[d, band] / num for d, band in self.members if d == domain}
        mean = failed + sum(share * rate_of[band] for band, share in shares.items())
        spread = failed + sum(share * rate_of[band] ** 2 for band, share in shares.items()) - mean**2
        return (size / self._population) ** 2 * (1 - num / size) * max(spread, 0.0) / max(num - 1, 1)


def bands_of(
    rows: Sequence[Audited],
    sizes: Mapping[str, int],
    sure: Mapping[Cell, Sequence[str]],
    verdicts: Mapping[str, str],
) -> Bands:
    """`sure` are the ids of each cell that count and were judged good or bad."""
    return Bands(
        sizes=sizes,
        heard=Counter(row.domain for row in rows),
        failed=Counter(row.domain for row in rows if row.failure),
        members=Counter((row.domain, band_of(row)) for row in rows if not row.failure),
        answered={cell: len(ids) for cell, ids in sure.items()},
        bad={cell: sum(verdicts[id] == "bad" for id in ids) for cell, ids in sure.items()},
    )
