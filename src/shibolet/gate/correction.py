"""The rate behind an apparent one, when the detector errs (Rogan and Gladen, American Journal of Epidemiology 1978)."""

from dataclasses import dataclass

from shibolet.errors import DataError
from shibolet.records.documents.alignment import Review
from shibolet.records.documents.calibration import ErrorRates
from shibolet.scoring.rates import Rate, WeightedRate, clopper_pearson

STEPS = 20_000  # of the rates that are tried: a two-hundredth of a point


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrected:
    """The rate behind the detector's errors with its interval, fractions of 1."""

    rate: float
    lower: float
    upper: float
    errors: ErrorRates | None  # as measured on clean clips and damaged copies; None: a person's review stands behind it
    review: Review | None = None


def correct(apparent: Rate | WeightedRate, errors: ErrorRates, level: float) -> Corrected | None:
    """The corrected rate; its interval has the uncertainty of all three: apparent rate, sensitivity, specificity.

    None where no true rate is possible: these error rates are not those of the detector on these data.

    A true rate t is possible where 0 lies in the interval of apparent - t * sensitivity - (1 - t) * (1 - specificity),
    a sum of three independent shares whose exact intervals are put together by squares (MOVER; for a ratio, Donner and
    Zou, Statistics in Medicine 2012).
    """
    import numpy as np

    rate = corrected_rate(apparent.rate, errors)
    true = np.linspace(0.0, 1.0, STEPS + 1)
    alarms = 1 - errors.specificity
    found_low, found_high = clopper_pearson(errors.sensitivity, errors.num_damaged, level)
    alarms_low, alarms_high = clopper_pearson(alarms, errors.num_clean, level)
    rest = apparent.rate - true * errors.sensitivity - (1 - true) * alarms
    below = [
        apparent.rate - apparent.lower,
        true * (found_high - errors.sensitivity),
        (1 - true) * (alarms_high - alarms),
    ]
    above = [
        apparent.upper - apparent.rate,
        true * (errors.sensitivity - found_low),
        (1 - true) * (alarms - alarms_low),
    ]
    reach = lambda parts: np.sqrt(sum(part**2 for part in parts))  # noqa: E731
    possible = true[(rest - reach(below) <= 0) & (rest + reach(above) >= 0)]
    if not len(possible):
        return None
    rate = min(max(rate, float(possible[0])), float(possible[-1]))
    return Corrected(rate=rate, lower=float(possible[0]), upper=float(possible[-1]), errors=errors)


def corrected_rate(rate: float, errors: ErrorRates) -> float:
    """The true rate behind an apparent one, within 0 and 1; DataError when the detector only guesses."""
    informed = errors.sensitivity + errors.specificity - 1
    if informed <= 0:
        raise DataError(
            f"sensitivity {errors.sensitivity:g} and specificity {errors.specificity:g}, measured on "
            f"{errors.measured_on}, are no better than chance; calibrate again or leave them out"
        )
    return min(max((rate + errors.specificity - 1) / informed, 0.0), 1.0)
