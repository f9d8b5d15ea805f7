"""A person's review of a random draw: coverage, and what drawing by bands of the score saves."""

from collections.abc import Mapping

import numpy as np

from shibolet.audit.review import review
from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import StratumSize
from shibolet.records.review import Answer
from simulations.rates import decided

POPULATION = 45_000
# Scores of bad and of good utterances: flagged with the detector's sensitivity and specificity, then by band.
FLAGGED_SCORES = (0.05, 0.3)
PASSED_SCORES = (0.6, 0.9, 0.99)


def sample(
    rng, design: Mapping[str, tuple[int, int, float]], sensitivity: float, specificity: float, informative: bool
):
    """Rows and a person's verdicts; `design` is by domain: its size, how many are heard, what share is bad."""
    rows, verdicts = [], {}
    for domain, (_, heard, truth) in design.items():
        bad = rng.random(heard) < truth
        flagged = np.where(bad, rng.random(heard) < sensitivity, rng.random(heard) >= specificity)
        low = [0.7, 0.3] if informative else [0.5, 0.5]
        in_bad, in_good = ([0.45, 0.35, 0.2], [0.07, 0.2, 0.73]) if informative else ([1 / 3] * 3, [1 / 3] * 3)
        of_flagged = np.where(
            bad, rng.choice(FLAGGED_SCORES, heard, p=low), rng.choice(FLAGGED_SCORES, heard, p=low[::-1])
        )
        of_passed = np.where(
            bad, rng.choice(PASSED_SCORES, heard, p=in_bad), rng.choice(PASSED_SCORES, heard, p=in_good)
        )
        for i, score in enumerate(np.where(flagged, of_flagged, of_passed)):
            id = f"{domain}{i:05d}"
            rows.append(
                Audited(
                    id=id, source="", domain=domain, text="x", duration_s=1.0, confidence=float(score),
                    is_low_quality=bool(flagged[i]),
                )
            )  # fmt: skip
            verdicts[id] = "bad" if bad[i] else "good"
    return rows, verdicts


def measure(design, answers, sensitivity, specificity, informative, runs: int, seed: int) -> dict[str, float]:
    size = sum(num for num, _, _ in design.values())
    truth = 100 * sum(num * bad for num, _, bad in design.values()) / size
    strata = {name: StratumSize(num_utterances=num, hours=1.0) for name, (num, _, _) in design.items()}
    covered, wrong, found = 0, 0, []
    for i in range(runs):
        rows, verdicts = sample(np.random.default_rng([seed, i]), design, sensitivity, specificity, informative)
        draw = review(rows, strata, {}, i, 0.95).draw[:answers]
        given = {id: Answer(id=id, verdict=verdicts[id], text="x") for id in draw}
        if (rate := review(rows, strata, given, i, 0.95).corrected_low_quality_pct) is None:
            continue  # too few were flagged
        covered += rate.lower <= truth <= rate.upper
        wrong += rate.upper < 10 <= truth
        found.append((rate.rate, rate.upper - rate.lower))
    rates, widths = np.array(found).T
    return {
        "coverage": covered / len(found), "wrong_proceed": wrong / len(found), "with_a_rate": len(found) / runs,
        "standard_deviation_points": float(np.std(rates)), "width_points": float(np.mean(widths)),
    }  # fmt: skip


def cells(runs: int, seed: int) -> dict[str, dict]:
    designs = {f"truth {truth:.0%}, {heard:,} heard": ({"a": (POPULATION, heard, truth)}, answers)
               for truth in (0.05, 0.10, 0.15, 0.30)
               for heard, answers in ((240, 240), (300, 240), (1_000, 120))}  # fmt: skip
    designs["1/90/9, all bad in the large, truth 10%, 300 heard"] = (
        {"a": (450, 120, 0.0), "b": (40_500, 120, 1 / 9), "c": (4_050, 60, 0.0)}, 120,
    )  # fmt: skip
    designs["1/90/9, truth 10%, 300 heard"] = (
        {"a": (450, 120, 0.1), "b": (40_500, 120, 0.1), "c": (4_050, 60, 0.1)}, 240,
    )  # fmt: skip
    found = {}
    for name, (design, answers) in designs.items():
        for sensitivity, specificity in ((0.5, 0.995), (0.3, 0.99), (0.9, 0.95)):
            for informative in (True, False):
                scores = "scores that tell" if informative else "scores that tell nothing beyond the verdict"
                found[f"{name}, {answers} answers, sensitivity {sensitivity}, specificity {specificity}, {scores}"] = (
                    decided(
                        lambda r, a=(design, answers, sensitivity, specificity, informative): measure(*a, r, seed),
                        runs,
                        lambda measured: measured["coverage"] >= 0.94 and measured["wrong_proceed"] <= 0.03,
                        "coverage >= 0.94, wrong PROCEED <= 0.03",
                    )
                )
    return found
