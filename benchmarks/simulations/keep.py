"""The comparison: how often keep, "shown" and the smallest difference are wrong, and how well optimism is estimated.

False keep is decided by `compare`; the rest goes through `ratio_intervals` and `optimism`, a column or a table a run.
"""

import numpy as np

from shibolet.compare import CompareConfig, compare
from shibolet.records.candidate import named
from shibolet.records.documents.comparison import BETTER
from shibolet.records.documents.scores import Folds
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import Estimate, ratio_intervals
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.selection import optimism
from simulations.rates import decided

SAMPLES = 2000  # of a bootstrap
NUM_UTTERANCES, LOOP_FRAC, LOOP_WORDS = 200, 0.01, 45
LOOP = "לא " * LOOP_WORDS


def cells(runs: int, seed: int) -> dict[str, dict]:
    """Every bar of the comparison."""
    found = {}
    for name, k in (("17 recordings", 17), ("54 recordings", 54), ("each on its own", NUM_UTTERANCES)):
        found[f"false keep, {name}"] = decided(
            lambda n, k=k: false_keep(k, n, seed), runs, lambda cell: cell["keep"] <= 0.04, "keep <= 0.04"
        )
    for zipf in (False, True):
        shape = "Zipf" if zipf else "equal"
        for k in (3, 5, 12, 17, 54):
            least = 0.0 if zipf and k == 3 else 0.03  # three groups that count as 2.5: the quantiles are caution enough
            found[f"type I, {k} groups, {shape}"] = decided(
                lambda n, k=k, zipf=zipf: {"shown": type_one(k, zipf, n, seed)}, runs,
                lambda cell, least=least: least <= cell["shown"] <= 0.06, f"{least:g} to 0.06",
            )  # fmt: skip
        for k in (3, 5, 12, 17, 54, 200):
            found[f"power at the smallest difference, {k} groups, {shape}"] = decided(
                lambda n, k=k, zipf=zipf: {"shown": power(k, zipf, n, seed)}, runs,
                lambda cell: 0.77 <= cell["shown"] <= 0.83, "0.77 to 0.83",
            )  # fmt: skip
    for name, spread in (("alike", 0.0), ("0.3 points apart", 0.003), ("1 point apart", 0.01)):
        found[f"optimism, 12 groups, best of 8, {name}"] = decided(
            lambda n, spread=spread: optimism_points(spread, n, seed), runs,
            lambda cell: abs(cell["estimate"] - cell["truth"]) <= 0.15, "estimate within 0.15 points of the truth",
        )  # fmt: skip
    return found


def false_keep(num_groups: int, runs: int, seed: int) -> dict[str, float]:
    """Shares of runs kept, and shown better, where the candidate gains on ordinary utterances what its loops cost."""
    rng = np.random.default_rng(seed)
    config = CompareConfig(bootstrap_samples=SAMPLES)
    names = named("Round 1"), named("Round 2")
    results = [compare(looping(num_groups, rng), names, config) for _ in range(runs)]
    return {
        "keep": float(np.mean([one.is_kept for one in results])),
        "better": float(np.mean([one.overall.wer.shown == BETTER for one in results])),
    }


def looping(num_groups: int, rng: np.random.Generator) -> tuple[list[ScoredRow], list[ScoredRow]]:
    """Both with the same expected WER: the candidate makes fewer errors, and loops in 1% of its utterances."""
    length = rng.integers(5, 10, NUM_UTTERANCES)
    hard = rng.beta(4, 12, num_groups)[np.arange(NUM_UTTERANCES) % num_groups]  # 25% of words on average
    fixed = LOOP_FRAC * LOOP_WORDS / 7 / 0.25  # of the errors, 7 words being the mean length
    before = rng.binomial(length, hard)
    after = rng.binomial(before, 1 - fixed)
    loops = rng.random(NUM_UTTERANCES) < LOOP_FRAC
    rows = ([], [])
    for i, num_words in enumerate(length.tolist()):
        for side, (wrong, inserted) in enumerate(((before[i], 0), (after[i], LOOP_WORDS * bool(loops[i])))):
            counts = EditCounts(num_words - int(wrong), int(wrong), 0, inserted)
            rows[side].append(
                ScoredRow(
                    id=f"u{i}", set="eval", domain="clean", recording=f"r{i % num_groups}", speaker=None,
                    duration_s=6.0, reference=f"text {i}", hypothesis="", said="", heard=LOOP if inserted else "",
                    words=counts, chars=counts,
                )
            )  # fmt: skip
    return rows


def differences(num_groups: int, zipf: bool, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the second system less the first's, and words: [groups, runs]; the systems are equally good."""
    rng, place = np.random.default_rng(seed), np.arange(1, num_groups + 1)
    words = np.maximum(20, np.round(2000 / place if zipf else np.full(num_groups, 200.0)))[:, None] * np.ones(runs)
    hard = rng.beta(2, 10, words.shape)
    taste = rng.normal(0, 0.05, words.shape)  # each system is better on some groups
    first, second = (rng.binomial(words.astype(int), np.clip(hard + sign * taste, 0, 1)) for sign in (-0.5, 0.5))
    return (second - first).astype(float), words


def _estimates(changes: np.ndarray, words: np.ndarray) -> list[Estimate]:
    return ratio_intervals(changes, words, [str(i) for i in range(len(words))], samples=SAMPLES)


def type_one(num_groups: int, zipf: bool, runs: int, seed: int) -> float:
    """Share of equal systems of which one is shown to be better."""
    return float(np.mean([one.p < 0.05 for one in _estimates(*differences(num_groups, zipf, runs, seed))]))


def power(num_groups: int, zipf: bool, runs: int, seed: int) -> float:
    """Share of sets that show a gain of the mean of the smallest differences that they print."""
    changes, words = differences(num_groups, zipf, runs, seed)
    smallest = np.mean([one.detectable for one in _estimates(changes, words)])
    return float(np.mean([one.high < 0 for one in _estimates(changes - smallest * words, words)]))


def optimism_points(spread: float, runs: int, seed: int, num_groups: int = 12, best_of: int = 8) -> dict[str, float]:
    """Means of the estimate and of the truth in points of WER; candidates' own rates are `spread` apart."""
    rng, found, truths = np.random.default_rng(seed), [], []
    words = [300] * num_groups
    for _ in range(runs):
        own = 0.15 + rng.normal(0, spread, (best_of, 1)) if spread else np.full((best_of, 1), 0.15)
        hard = rng.normal(0, 0.04, (1, num_groups))
        taste = rng.normal(0, 0.012, (best_of, num_groups))
        errors = rng.binomial(words[0], np.clip(own + hard + taste, 0, 1))
        best = int(np.argmin(errors.sum(axis=1)))
        # The rate over new groups of the same difficulty is `own`; that of these groups is beside it.
        truths.append(own[best, 0] + hard.mean() - errors[best].sum() / sum(words))
        found.append(optimism([Folds(errors=row.tolist(), words=words) for row in errors]))
    return {"estimate": 100 * float(np.mean(found)), "truth": 100 * float(np.mean(truths))}
