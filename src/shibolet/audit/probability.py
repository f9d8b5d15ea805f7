"""Probability: recalibrated from the score, for a stated mixture of good, grossly and mildly damaged clips.

`confidence` decides by one line, and its other values promise nothing. Here copies that fitted no map say which share
of the clips with about that score is good in the mixture. No verdict depends on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.records.documents.alignment import Probability
from shibolet.records.documents.calibration import Recalibration, Reliability

MIXTURE = {"good": 0.80, "gross": 0.10, "mild": 0.10}  # good: untouched clips and harmless copies
MIN_CLIPS = 20  # distinct clips of each part; fewer give no probability
NUM_BINS = 10
MAX_LOGIT = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A clip or copy that was heard, with the logit of its confidence by a map that it did not fit."""

    logit: float
    part: str  # of the mixture
    row: str  # what was done to it
    clip: str  # the untouched clip that it is, or is a copy of
    fold: int  # of its recording or speaker


def probability_at(curve: Recalibration, logits: np.ndarray) -> np.ndarray:
    """Probability `[n]` that the text belongs to the audio and is complete, in the mixture."""
    return _probability(logits, curve.weights, curve.limits, each_product)


def each_product(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Product `[n]` of each row with weights `[k]`, in the bits that it has alone: many at once may add otherwise."""
    return np.concatenate([row @ weights for row in rows[:, None]]) if len(rows) else np.zeros(0)


def reported(curve: Recalibration) -> Probability:
    """What a reader needs of it."""
    return Probability(
        sentence=sentence(**curve.mixture),
        num_clips=curve.num_clips,
        table=curve.table,
        expected_error=curve.expected_error,
    )


def sentence(good: float, gross: float, mild: float) -> str:
    """What the probability is of, with the shares of the mixture."""
    return (
        f"If {good:.0%} of the clips are right, {gross:.0%} grossly damaged and "
        f"{mild:.0%} mildly damaged, the probability of a clip is the share of clips with about its score "
        "whose text belongs to the audio and is complete. Another mixture gives other numbers, and no verdict depends "
        "on them."
    )


def recalibrate(examples: Sequence[Example]) -> Recalibration | None:
    """The curve of all examples, and a table in which each fold is judged by the curve of the others.

    None where a part of the mixture has under `MIN_CLIPS` clips, or all are in one fold.
    """
    clips = {part: {one.clip for one in examples if one.part == part} for part in MIXTURE}
    if min(map(len, clips.values())) < MIN_CLIPS or len({one.fold for one in examples}) < 2:
        return None
    logits, fold = np.array([one.logit for one in examples]), np.array([one.fold for one in examples])
    good, weights = np.array([one.part == "good" for one in examples]), weights_of(examples)
    held_out = np.zeros(len(examples))
    for number in np.unique(fold):
        own = fold == number
        others = [one for one in examples if one.fold != number]
        held_out[own] = _probability(logits[own], *_fit(others))
    table = reliability(held_out, good, weights)
    curve, limits = _fit(examples)
    return Recalibration(
        weights=curve,
        limits=limits,
        mixture=MIXTURE,
        num_clips={part: sum(one.part == part for one in examples) for part in MIXTURE},
        table=tuple(table),
        expected_error=expected_error(table),
    )


def weights_of(examples: Sequence[Example]) -> np.ndarray:
    """Weights `[n]` that make these examples the mixture: within a part each row weighs the same; they sum to n."""
    rows = {part: {one.row for one in examples if one.part == part} for part in MIXTURE}
    of_row = {}
    for one in examples:
        of_row[one.part, one.row] = of_row.get((one.part, one.row), 0) + 1
    weights = [MIXTURE[one.part] / len(rows[one.part]) / of_row[one.part, one.row] for one in examples]
    return np.array(weights) * len(examples) / sum(weights)


def reliability(probability: np.ndarray, good: np.ndarray, weights: np.ndarray) -> list[Reliability]:
    """By tenth of the probability: how many clips, and in the mixture their share, mean probability and share good."""
    tenth = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    lines = []
    for number in range(NUM_BINS):
        own = tenth == number
        if own.any():
            mean = lambda values: round(float(np.average(values[own], weights=weights[own])), 4)  # noqa: B023, E731
            lines.append(
                Reliability(
                    lower=number / NUM_BINS, upper=(number + 1) / NUM_BINS, num_clips=int(own.sum()),
                    share=round(float(weights[own].sum() / weights.sum()), 4), probability=mean(probability),
                    good=mean(good),
                )
            )  # fmt: skip
    return lines


def expected_error(table: Sequence[Reliability]) -> float:
    """Mean distance between probability and share of good clips over the tenths, by their share of the mixture."""
    return round(sum(line.share * abs(line.probability - line.good) for line in table), 4)


def _fit(examples: Sequence[Example]) -> tuple[tuple[float, ...], tuple[float, float]]:
    """Weights of a monotone beta calibration (Kull, Silva Filho and Flach 2017, AISTATS 54, 623-631), and limits."""
    from scipy.optimize import minimize

    good = np.array([one.part == "good" for one in examples])
    num_good, num_clips = int(good.sum()), len({one.clip for one in examples if one.part != "good"})
    low, high = 1 / (num_clips + 2), 1 - 1 / (num_good + 2)
    targets = np.where(good, high, low)  # as Platt has it; wrong ones by clips, as good ones like them were left out
    x, weights = _columns(np.array([one.logit for one in examples])), weights_of(examples) / len(examples)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        logit = x @ theta
        value = float(weights @ (np.logaddexp(0, logit) - targets * logit))
        return value, x.T @ (weights * (1 / (1 + np.exp(-logit)) - targets))

    bounds = [(0, None), (0, None), (None, None)]
    found = minimize(loss, np.array([1.0, 1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return tuple(np.round(found, 5).tolist()), (round(low, 5), round(high, 5))


def _probability(
    logits: np.ndarray, weights: Sequence[float], limits: tuple[float, float], product: Callable = np.matmul
) -> np.ndarray:
    return np.clip(1 / (1 + np.exp(-product(_columns(logits), np.array(weights)))), *limits)


def _columns(logits: np.ndarray) -> np.ndarray:
    """ln s, -ln(1 - s) and 1 `[n, 3]`, where s is the score with these logits."""
    logits = np.clip(logits, -MAX_LOGIT, MAX_LOGIT)
    return np.stack([-np.logaddexp(0, -logits), np.logaddexp(0, logits), np.ones(len(logits))], axis=1)
