"""Where an interval lies between the lines of the gate, and how much more has to be heard until it is clear of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shibolet.gate.correction import correct
from shibolet.records.documents.calibration import ErrorRates
from shibolet.records.documents.gate import Decision, GateLimits
from shibolet.scoring.allocation import in_proportion
from shibolet.scoring.rates import Rate, clopper_pearson, combine_strata

# Of the clips that would settle it if the rates stayed what they are, for an even chance. Only samples whose rate lies
# near a line are extended, and it lies nearer than the truth more often than not; less so where much of the sample was
# spent on small strata, since such a one is extended whatever it shows (benchmarks/verdicts.py, extend).
EVEN_CHANCE = 0.6


def level_of_look(config: GateLimits, look: int) -> float:
    """The level of the interval at the first, second, ... look at data of which more is heard until it is settled.

    What may go wrong is halved at each look, so that asking again does not open the gate by itself: of data of which
    exactly 10% are low quality, extended up to three times, 4% pass; at the same level each time it would be 10%.
    """
    return 1 - (1 - config.confidence_level) / 2 ** (look - 1)


def verdict_on(lower_pct: float, upper_pct: float, config: GateLimits) -> Decision:
    """What an interval in percent comes to; the instrument may still be INVALID."""
    if upper_pct < config.proceed_below_pct:
        return "PROCEED"
    return "STOP" if lower_pct > config.stop_above_pct else "CAUTION"


def straddled(lower_pct: float, upper_pct: float, config: GateLimits) -> tuple[float, ...]:
    """The lines that the rate may still lie on both sides of; a rate exactly on a line is CAUTION."""
    low, high = config.proceed_below_pct, config.stop_above_pct
    is_straddled = {low: lower_pct < low <= upper_pct, high: lower_pct <= high < upper_pct}
    return tuple(line for line, straddles in is_straddled.items() if straddles)


def clips_to_settle(
    strata: Mapping[str, Rate], level: float, config: GateLimits, errors: ErrorRates | None = None
) -> int | None:
    """About how many more utterances have an even chance to leave no line of the gate inside the interval.

    They are drawn in proportion to the strata's sizes, as `audit --extend` does. With `errors` it is the interval of
    the corrected rate; None where hearing everything would not settle it.
    """
    sizes = {name: rate.num_population for name, rate in strata.items()}
    given = {name: rate.num_heard for name, rate in strata.items()}
    heard, population = sum(given.values()), sum(sizes.values())

    def is_settled(num: int) -> bool:
        places = in_proportion(sizes, num, given)
        expected = []
        for name, rate in strata.items():
            share, unheard = rate.rate, math.sqrt(max(0.0, 1 - places[name] / sizes[name]))
            lower, upper = clopper_pearson(share, places[name], level)
            ends = {"lower": share - (share - lower) * unheard, "upper": share + (upper - share) * unheard}
            counts = {"num_heard": places[name], "num_low_quality": share * places[name]}
            expected.append(replace(rate, **ends, **counts))
        whole = combine_strata(expected, level)
        found = correct(whole, errors, level) if errors else whole
        return found is not None and not straddled(pct(found.lower), pct(found.upper), config)

    if not is_settled(population):
        return None
    unsettled, settled = heard, population
    while settled - unsettled > 1:
        middle = (unsettled + settled) // 2
        unsettled, settled = (unsettled, middle) if is_settled(middle) else (middle, settled)
    share = 1 - (1 - EVEN_CHANCE) * _efficiency(list(strata.values()))
    more = settled - heard if settled == population else math.ceil(share * (settled - heard))
    step = 10 ** max(len(str(more)) - 2, 0)  # an estimate: two digits, rounded up
    return min(math.ceil(more / step) * step, population - heard)


def _efficiency(strata: Sequence[Rate]) -> float:
    """Share of the utterances heard that a sample in proportion would need to say as much (Kish)."""
    drawn = [one for one in strata if not one.is_whole]
    weight = sum(one.num_population for one in drawn)
    effective = 1 / sum((one.num_population / weight) ** 2 / one.num_heard for one in drawn)
    return effective / sum(one.num_heard for one in drawn)


def pct(fraction: float) -> float:
    """Percent, rounded so that a tenth is 10 and not 9.999999999999998."""
    return round(100 * fraction, 9)
