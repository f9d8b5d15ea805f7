"""Confidence: the probability that a transcript belongs to its audio, from signals, knowing how noisy the clip is.

A logistic over signals of untouched clips and of damaged copies. Without a calibration file the judged data's own clips
stand for clean, robustly: some are not, so those that look damaged are left out and the fit is made again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from shibolet.audit.signals import Signals

CLEAN_FAILURES = 0.02  # confidence 0.5 stands where at most this share of clean clips would fail
EVIDENCE = ("text_score", "worst_word_score", "cer", "edge_cer")  # what earned its place, see docs/decisions.md
CANDIDATES = ("uncovered_frac", "uncovered_head_s", "uncovered_tail_s", "words_heard", "coverage")  # what did not
KNOWING_NOISE = ("text_score", "worst_word_score", "cer")  # these weigh less the noisier the clip
RIDGE = 1.0  # penalty on standardised weights; a few hundred clips stand behind a dozen of them


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted confidence map and the clean range of letters per second, bound to the models that listened."""

    kind: str  # "self", or the name of what it was made of
    identities: tuple[str, ...]  # aligner, recogniser
    evidence: tuple[str, ...]  # signals that it looks at
    center: tuple[float, ...]  # of each column of `columns`
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    letters_per_s: tuple[float, float]  # clean range
    num_clean: int  # clips that stood for clean
    num_left_out: int  # clips that were taken for damaged and left out

    def logits(self, signals: Sequence[Signals]) -> np.ndarray:
        """Log-odds `[n]` that each transcript belongs to its audio."""
        return (columns(signals, self.evidence) - self.center) / self.scale @ np.array(self.weights) + self.intercept

    def confidence(self, signals: Sequence[Signals]) -> np.ndarray:
        """Probability `[n]` that each transcript belongs to its audio."""
        return 1 / (1 + np.exp(-np.clip(self.logits(signals), -30, 30)))

    def to_json(self) -> dict:
        return asdict(self)


def columns(signals: Sequence[Signals], evidence: Sequence[str]) -> np.ndarray:
    """Evidence, noise, and their products `[n, k]`."""
    values = np.array([[getattr(s, name) for name in evidence] for s in signals])
    # 40 dB is as good as silence behind the speech; a band of 4 kHz is a telephone's.
    noise = np.array([[1 - np.clip(s.snr_db, 0, 40) / 40, 1 - min(s.bandwidth_hz, 8000) / 8000] for s in signals])
    product = values[:, [i for i, name in enumerate(evidence) if name in KNOWING_NOISE]] * noise[:, :1]
    return np.concatenate([values, noise, product], axis=1)


def fit(
    clean: Sequence[Signals],
    damaged: Sequence[Signals],
    identities: tuple[str, ...],
    *,
    trusted: bool = False,
    evidence: Sequence[str] = EVIDENCE,
) -> Calibration:
    """A confidence map from clips that stand for clean and damaged copies.

    Where the clean ones are not `trusted` to be, those that look damaged are left out and the fit is made again.
    """
    good, bad = columns(clean, evidence), columns(damaged, evidence)
    center = np.median(good, axis=0)
    scale = np.maximum(np.concatenate([good, bad]).std(axis=0), 1e-3)
    good, bad = (good - center) / scale, (bad - center) / scale
    kept = np.ones(len(good), bool)
    for _ in range(1 if trusted else 4):
        weights, intercept = _logistic(good[kept], bad)
        logit = good @ weights + intercept
        kept = kept if trusted else logit > 0
        if kept.sum() < len(good) / 2:  # the instrument cannot tell its own copies apart; the self-test will say so
            kept = logit >= np.median(logit)
    # Where clean and damaged lie apart, the line goes between them: on the edge of the clean a breath would decide.
    line = np.quantile(logit[kept], CLEAN_FAILURES)
    line -= max(0.0, line - np.quantile(bad @ weights + intercept, 1 - CLEAN_FAILURES)) / 2
    intercept -= line
    rates = np.array([s.letters_per_s for s, k in zip(clean, kept, strict=True) if k and s.letters_per_s > 0])
    low, high = np.quantile(rates, [0.01, 0.99]) if len(rates) else (0.0, 100.0)
    return Calibration(
        kind="self",
        identities=identities,
        evidence=tuple(evidence),
        center=tuple(center.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights.tolist()),
        intercept=float(intercept),
        letters_per_s=(float(low / 1.3), float(high * 1.3)),
        num_clean=int(kept.sum()),
        num_left_out=int((~kept).sum()),
    )


def _logistic(good: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge logistic regression by Newton's method, both classes of equal weight; returns weights and intercept."""
    x = np.concatenate([good, bad])
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = np.concatenate([np.ones(len(good)), np.zeros(len(bad))])
    weight = np.concatenate([np.full(len(good), 0.5 / len(good)), np.full(len(bad), 0.5 / len(bad))]) * len(x)
    penalty = np.full(x.shape[1], RIDGE)
    penalty[-1] = 0.0
    theta = np.zeros(x.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ theta, -30, 30)))
        gradient = x.T @ (weight * (p - y)) + penalty * theta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        theta -= step
        if np.abs(step).max() < 1e-6:
            break
    return theta[:-1], float(theta[-1])
