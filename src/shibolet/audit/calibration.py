"""Confidence: the score that decides whether a transcript belongs to its audio, from signals that weigh less in noise.

A logistic over signals of clips that stand for good ones (untouched, harmless copies, copies in noise) and of damaged
copies. Without a calibration file the judged data's own clips stand for good, robustly: some are not, so those that
look damaged are left out with their copies and the fit is made again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.audit.probability import each_product
from shibolet.audit.signals import Signals
from shibolet.records.documents.calibration import Calibration, Map

# Confidence 0.5 stands where this share of the good would fail. A line at 2% of them flags 4 to 5% of new speakers
# (docs/decisions.md), and under 50 clips it is simply the worst clip.
GOOD_FAILURES = 0.05
BAD_FAILURES = 0.02  # where good and damaged lie apart, the line goes half of the way to the best 2% of the damaged
EVIDENCE = ("text_logp", "text_score", "worst_score", "cer", "edge_cer")  # what earned its place, docs/decisions.md
HYPOTHESIS = ("cer", "edge_cer")  # of these, what every clip has
CANDIDATES = ("length_ratio", "letters_per_s", "words_heard", "coverage")  # what did not
KNOWING_NOISE = ("text_logp", "text_score", "worst_score", "cer")  # these weigh less the noisier the clip
MAX_NOT_TAKEN = 0.2  # of a harmless change's copies may look damaged (docs/decisions.md, The line of confidence)
# These five are chosen, not measured.
MIN_KNOWN = 20  # untouched clips that a signal is known of, or all of them, before a map has it
MAX_FITS = 6  # of a map whose good clips are not trusted; it settles in three or four
RIDGE = 1.0  # penalty on standardised weights; a few hundred clips stand behind a dozen of them
LOUDEST_DB, QUIETEST_DB = 10, 40  # of noise behind speech: under the first nothing was taught, the second is silence
RATE_ROOM = 1.3  # around the middle 98% of the good clips' letters per second
Product = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of columns [n, k] and weights [k]


@dataclass(frozen=True, kw_only=True, slots=True)
class Good:
    """A clip that stands for a good one."""

    signals: Signals
    clip: str  # the untouched clip that it is, or is a copy of
    is_untouched: bool = True
    kind: str = ""  # of change, where several that the listeners may not take are among the good


def logits(calibration: Calibration, signals: Sequence[Signals]) -> np.ndarray:
    """Logit `[n]` of the confidence, 0 at the line; each by the first map whose evidence it has."""
    return _logits(calibration.maps, signals)


def confidence(calibration: Calibration, signals: Sequence[Signals]) -> np.ndarray:
    """Score `[n]` from 0 to 1: 0.5 is the line under which 5% of the good fail. No probability."""
    return confidence_at(logits(calibration, signals))


def each_logit(calibration: Calibration, signals: Sequence[Signals]) -> np.ndarray:
    """`logits`, each in the bits that it has alone: what is judged beside a clip changes nothing of its row."""
    return _logits(calibration.maps, signals, each_product)


def confidence_at(logits: np.ndarray) -> np.ndarray:
    """The scores `[n]` with these logits."""
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))


def knows(signals: Signals, evidence: Sequence[str]) -> bool:
    return all(getattr(signals, name) is not None for name in evidence)


def _logits(maps: Sequence[Map], signals: Sequence[Signals], product: Product = np.matmul) -> np.ndarray:
    """By the first map whose evidence a clip has."""
    found = np.zeros(len(signals))
    which = np.array([next(i for i, one in enumerate(maps) if knows(s, one.evidence)) for s in signals], int)
    for number, one in enumerate(maps):
        if len(own := np.flatnonzero(which == number)):
            found[own] = _by_map(one, [signals[i] for i in own], product)
    return found


def _by_map(made: Map, signals: Sequence[Signals], product: Product = np.matmul) -> np.ndarray:
    """Logit `[n]` by one map; every signal of its evidence is known."""
    standardised = (columns(signals, made.evidence) - made.center) / made.scale
    return product(standardised, np.array(made.weights)) + made.intercept


def columns(signals: Sequence[Signals], evidence: Sequence[str]) -> np.ndarray:
    """Evidence, and products of it with the noise `[n, k]`.

    Noise by itself is no evidence: with it a map knows copies by their sound and not by what was heard in them.
    """
    values = np.array([[getattr(s, name) for name in evidence] for s in signals], float)
    noise = 1 - np.clip(np.array([s.snr_db for s in signals], float), LOUDEST_DB, QUIETEST_DB) / QUIETEST_DB
    product = values[:, [i for i, name in enumerate(evidence) if name in KNOWING_NOISE]] * noise[:, None]
    return np.concatenate([values, product], axis=1)


def fit(
    good: Sequence[Good],
    damaged: Sequence[Signals],
    identities: tuple[str, ...],
    *,
    trusted: bool = False,
    evidence: Sequence[str] = EVIDENCE,
) -> Calibration:
    """Confidence maps from clips that stand for good and damaged copies.

    Where the good are not `trusted`, untouched clips that look damaged are left out with their copies, and the fit is
    made again. The first map has all signals that these listeners give; a clip that lacks one (Whisper has no
    likelihood of what is longer than its window) is judged by the second, of the hypothesis alone.
    """
    maps, kept = _fit_maps(good, damaged, trusted, evidence)
    untouched = np.array([one.is_untouched for one in good])
    stays = [one.signals for one, k in zip(good, kept, strict=True) if k]
    taken = _taken(maps, good) if trusted else {one.kind for one in good}
    steady = [one.signals for one, k in zip(good, kept, strict=True) if k and one.kind in taken]
    return Calibration(
        kind="self",
        identities=identities,
        maps=tuple(_with_line(one, steady, damaged) for one in maps),
        letters_per_s=_letters_per_s(stays),
        num_clean=int((kept & untouched).sum()),
        num_left_out=int((~kept & untouched).sum()),
    )


def looks_damaged(good: Sequence[Good], damaged: Sequence[Signals], evidence: Sequence[str] = EVIDENCE) -> set[str]:
    """Untouched clips that `fit` leaves out where the good are not trusted."""
    _, kept = _fit_maps(good, damaged, False, evidence)
    return {one.clip for one, k in zip(good, kept, strict=True) if one.is_untouched and not k}


def _fit_maps(
    good: Sequence[Good], damaged: Sequence[Signals], trusted: bool, evidence: Sequence[str]
) -> tuple[tuple[Map, ...], np.ndarray]:
    """Maps with the line where a good one is as likely as a damaged one, and a mask `[n]` of the good that are kept."""
    always = tuple(name for name in evidence if name in HYPOTHESIS)
    own = [one.signals for one in good if one.is_untouched]
    enough = min(MIN_KNOWN, len(own))
    known = tuple(
        name
        for name in evidence
        if name in HYPOTHESIS or sum(getattr(s, name) is not None for s in own) >= max(1, enough)
    )
    kinds = dict.fromkeys([known, always])
    signals = [one.signals for one in good]
    if not any(knows(s, known) for s in damaged):
        kinds = {always: None}
    untouched = np.array([one.is_untouched for one in good])
    clip = np.array([one.clip for one in good])
    kept = np.ones(len(good), bool)
    for step in range(1 if trusted else MAX_FITS):
        stays = [s for s, k in zip(signals, kept, strict=True) if k]
        # Of few clips with every signal all may be among those that left: the hypothesis alone judges them then.
        kinds = {names: None for names in kinds if names == always or sum(knows(s, names) for s in stays) >= enough / 2}
        maps = tuple(_fit_map(stays, damaged, names) for names in kinds)
        if not trusted:
            logit = _logits(maps, signals)[untouched]
            # The better half first: a map that many damaged clips have fitted as good ones finds them good, and stays.
            # Where fewer than half are good, the instrument cannot tell its copies apart: the self-test will say so.
            is_half = step == 0 or (logit > 0).sum() < len(logit) / 2
            is_good = logit >= np.median(logit) if is_half else logit > 0
            kept = np.isin(clip, clip[untouched][is_good])
    return maps, kept


def _taken(maps: Sequence[Map], good: Sequence[Good]) -> set[str]:
    """Kinds of harmless changes that the listeners take: of the others most copies look damaged.

    A listener that does not take rooms, say, would move the line into its own mistakes.
    """
    looks_bad = _logits(maps, [one.signals for one in good]) <= 0
    kinds = np.array([one.kind for one in good])
    taken = {kind for kind in np.unique(kinds) if looks_bad[kinds == kind].mean() <= MAX_NOT_TAKEN}
    return taken or set(kinds)


def _fit_map(good: Sequence[Signals], damaged: Sequence[Signals], evidence: tuple[str, ...]) -> Map:
    """With the line where a good one is as likely as a damaged one."""
    x, bad = (columns([s for s in side if knows(s, evidence)], evidence) for side in (good, damaged))
    center = np.median(x, axis=0)
    scale = np.maximum(np.concatenate([x, bad]).std(axis=0), 1e-3)
    weights, intercept = _logistic((x - center) / scale, (bad - center) / scale)
    return Map(
        evidence=evidence,
        center=tuple(center.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights.tolist()),
        intercept=intercept,
    )


def _with_line(made: Map, good: Sequence[Signals], damaged: Sequence[Signals]) -> Map:
    """The map with its line where `GOOD_FAILURES` of the good fail.

    Where good and damaged lie apart, it goes between them: on the edge of the good a breath would decide.
    """
    own, bad = (_by_map(made, [s for s in side if knows(s, made.evidence)]) for side in (good, damaged))
    line = np.quantile(own, GOOD_FAILURES)
    line -= max(0.0, line - np.quantile(bad, 1 - BAD_FAILURES)) / 2
    return made.model_copy(update={"intercept": made.intercept - float(line)})


def _letters_per_s(good: Sequence[Signals]) -> tuple[float, float]:
    rates = [s.letters_per_s for s in good if s.letters_per_s > 0]
    low, high = np.quantile(rates, [0.01, 0.99]) if rates else (0.0, 100.0)
    return float(low / RATE_ROOM), float(high * RATE_ROOM)


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
