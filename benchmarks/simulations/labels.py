"""Texts by machines: whether bounds on false accepts hold where the better hearer is chosen on the same clips.

Two hearers are alike: each has its own difficulty in each recording, of one distribution, and a share of their errors
in common. So whoever is chosen, the share of false accepts is the same, and the choice can only flatter the bound.
"""

import numpy as np

from shibolet.label.agreement import Tried, choose_limit
from shibolet.label.authors import chance_of
from shibolet.label.config import LETTERS, SURPRISE
from simulations.rates import COVERAGE, decided

WORDS, CLIPS, MAX_WER = 8, 10, 0.2  # of a clip, of a recording; as `label.max_wer`
COMMON = 0.3  # of a hearer's errors, which the other makes too
MOST_PCT = 5.0  # as `label.max_false_accept_pct`
MANY = 40_000  # recordings of which the true shares are


def hear(recordings: int, spread: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Words that each of the two has wrong [2, R, CLIPS, WORDS], and those that both write alike [R, CLIPS, WORDS]."""
    mean = 0.15
    rates = rng.beta(mean / spread, (1 - mean) / spread, (2, recordings))
    common = rng.random((recordings, CLIPS, WORDS)) < COMMON * rates.min(axis=0)[:, None, None]
    wrong = common | (rng.random((2, recordings, CLIPS, WORDS)) < rates[:, :, None, None])
    return wrong, common | ~wrong.any(axis=0)


def told(wrong: np.ndarray, alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one hearer's texts [R, CLIPS]: the disagreement, and whether letting it pass would be a false accept."""
    return 1 - alike.mean(axis=-1), wrong.sum(axis=-1) > MAX_WER * WORDS


def surprise(apart: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nats a token: the more words differ the more, and not in step with them."""
    return 4 * apart * rng.gamma(4, 0.25, apart.shape)


def bounds(recordings: int, spread: float, chooses: bool, runs: int, seed: int) -> dict[str, float]:
    """Shares of runs in which all bounds hold, in which more false ones pass than is asked for, and of the listener."""
    wrong, alike = hear(MANY, spread, np.random.default_rng(seed))
    apart, false = told(wrong[0], alike)
    scores = surprise(apart, np.random.default_rng([seed, MANY]))
    truth = [100 * false[apart <= limit].mean() for limit in LETTERS]
    truth += [100 * false[scores <= limit].mean() for limit in SURPRISE]
    held = listened = wrong_limit = 0
    places = [("letters", limit) for limit in LETTERS] + [("surprise", limit) for limit in SURPRISE]
    for run in range(runs):
        wrong, alike = hear(recordings, spread, rng := np.random.default_rng([seed, run]))
        errors = wrong.sum(axis=(2, 3))
        by = int(chooses and chance_of(errors[0] - errors[1]) <= 0.05)
        listened += by
        apart, false = told(wrong[by], alike)
        scores = surprise(apart, rng)
        tried = [
            Tried(f"{r}/{c}", str(r), apart[r, c], is_wrong=bool(false[r, c]), surprise=scores[r, c])
            for r in range(recordings)
            for c in range(CLIPS)
        ]
        found = choose_limit(tried, MOST_PCT)
        held += all(real <= step.upper_pct for real, step in zip(truth, found.steps, strict=True))
        wrong_limit += found.limit is not None and truth[places.index((found.by, found.limit))] > MOST_PCT
    return {"held": held / runs, "too_many": wrong_limit / runs, "listener": listened / runs}


def cells(runs: int, seed: int) -> dict[str, dict]:
    """With the choice and without it."""
    found = {}
    for recordings in (10, 30):
        for name, spread in (("alike", 0.02), ("far apart", 0.3)):
            for who, chooses in (("always the writer", False), ("the better one", True)):
                found[f"{recordings} recordings, {name}, {who}"] = decided(
                    lambda n, world=(recordings, spread, chooses): bounds(*world, n, seed), runs,
                    lambda cell: cell["held"] >= COVERAGE and cell["too_many"] <= 0.05 and cell["listener"] <= 0.06,
                    f"held >= {COVERAGE}, too many <= .05, listener <= .06",
                )  # fmt: skip
    return found
