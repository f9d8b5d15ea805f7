"""The corrected rate from a calibration file: sensitivity and specificity are themselves measured on few clips."""

import numpy as np

from shibolet.gate.correction import correct
from shibolet.records.documents.calibration import ErrorRates
from shibolet.scoring.rates import WeightedRate, share_interval
from simulations.rates import decided

POPULATION = 45_000


def measure(truth: float, sensitivity: float, specificity: float, num: int, clips: int, runs: int, seed: int) -> dict:
    rng, covered, wrong, given = np.random.default_rng(seed), 0, 0, 0
    for _ in range(runs):
        found, alarms = rng.binomial(clips, [sensitivity, 1 - specificity])
        bad = round(truth * POPULATION)
        flagged = rng.binomial(bad, sensitivity) + rng.binomial(POPULATION - bad, 1 - specificity)
        low = int(rng.hypergeometric(flagged, POPULATION - flagged, num))
        errors = ErrorRates(
            sensitivity=found / clips, specificity=1 - alarms / clips, num_damaged=clips, num_clean=clips,
            measured_on="simulated clips",
        )  # fmt: skip
        if errors.sensitivity + errors.specificity <= 1:
            continue  # refused in words
        ends = share_interval(low, num, POPULATION, 0.95)
        if (corrected := correct(WeightedRate(1.0, low / num, *ends), errors, 0.95)) is None:
            continue  # likewise: no true rate would be possible
        given += 1
        covered += corrected.lower <= truth <= corrected.upper
        wrong += corrected.upper < 0.10 <= truth
    return {"coverage": covered / given, "upper_under_10": wrong / given, "with_a_rate": given / runs}


def cells(runs: int, seed: int) -> dict[str, dict]:
    found = {}
    for num in (1_000, 2_500):
        for clips in (100, 300):
            for truth in (0.03, 0.05, 0.10, 0.15, 0.30):
                for sensitivity, specificity in ((0.74, 0.95), (0.90, 0.95), (0.98, 0.99), (0.60, 0.90)):
                    name = (
                        f"truth {truth:.0%}, sensitivity {sensitivity}, specificity {specificity}, {num:,} heard, "
                        f"{clips} calibration clips"
                    )
                    found[name] = decided(
                        lambda r, a=(truth, sensitivity, specificity, num, clips): measure(*a, r, seed),
                        min(runs, 2_000),
                        lambda measured: measured["coverage"] >= 0.93,
                        "coverage >= 0.93",
                    )
    return found
