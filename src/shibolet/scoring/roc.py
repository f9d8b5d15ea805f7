"""How well a score tells damaged clips from good ones: area under the ROC curve, recall at a false-alarm rate.

Clips of one recording share their fate, so intervals are over recordings. No files, no models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores `[n]`, higher is better, and the recording of each clip."""

    values: np.ndarray
    recordings: Sequence[str]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Area:
    """The chance that a good clip scores over a damaged one, with its interval."""

    value: float
    lower: float
    upper: float


def auroc(good: Scores, bad: Scores, level: float = 0.95) -> Area:
    """Area under the ROC curve; a tie counts half.

    The variance is that between recordings, each of which may hold good and damaged clips (Obuchowski 1997, Biometrics
    53, 567-578). Where every pair is in order nothing shows a variance: the lower end is then that of as many
    recordings without an error.
    """
    from scipy.special import ndtri

    of_good = _share_under(bad.values, good.values)  # of each good clip the share of its pairs that are in order
    of_bad = 1 - _share_under(good.values, bad.values)
    area = float(of_good.mean())
    place = {name: i for i, name in enumerate(sorted({*good.recordings, *bad.recordings}))}
    deviations, num_recordings = np.zeros((2, len(place))), []
    for row, (shares, scores) in enumerate(((of_good, good), (of_bad, bad))):
        np.add.at(deviations[row], [place[name] for name in scores.recordings], (shares - area) / len(scores))
        num_recordings.append(len(set(scores.recordings)))
    correction = [m / max(m - 1, 1) for m in (*num_recordings, len(place))]
    variance = (
        correction[0] * (deviations[0] ** 2).sum()
        + correction[1] * (deviations[1] ** 2).sum()
        + 2 * correction[2] * (deviations[0] * deviations[1]).sum()
    )
    if variance <= 0:
        return Area(area, (1 - level) ** (1 / min(num_recordings)) if area == 1 else area, area)
    reach = float(ndtri((1 + level) / 2) * np.sqrt(variance))
    return Area(area, max(0.0, area - reach), min(1.0, area + reach))


def _share_under(values: np.ndarray, than: np.ndarray) -> np.ndarray:
    """For each of `than` the share of `values` under it, ties half."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, than) + np.searchsorted(ordered, than, "right")) / (2 * len(values))


def recall_at(false_alarms: float, good: np.ndarray, bad: np.ndarray) -> float:
    """Share of the damaged clips under the line that at most this share of the good clips is under."""
    return float((bad < np.sort(good)[int(false_alarms * len(good))]).mean())
