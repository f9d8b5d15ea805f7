"""How much too good the best of several looks on the set that it was chosen on.

The choice is made again on all groups of recordings and speakers but a few, and what was chosen is scored on those few
(nested cross-validation): that score has not been chosen by. Sums of errors by fold are all that it takes.
"""

from collections.abc import Sequence

import numpy as np

from shibolet.records.documents.scores import Folds, Optimism
from shibolet.scoring.rows import ScoredRow, groups_of

MAX_FOLDS = 20  # of groups; no more groups than this: a fold each
MIN_FOLDS = 3


def fold_sums(rows: Sequence[ScoredRow]) -> Folds:
    """Errors and reference words of each fold, folds of about equal length: the same folds for the same references."""
    errors: dict[str, int] = {}
    words: dict[str, int] = {}
    for row, name in zip(rows, groups_of(rows), strict=True):
        errors[name] = errors.get(name, 0) + row.words.errors
        words[name] = words.get(name, 0) + row.words.reference_length
    num = min(MAX_FOLDS, len(words))
    wrong, length = [0] * num, [0] * num
    for name in sorted(words, key=lambda name: (-words[name], name)):
        shortest = min(range(num), key=lambda fold: length[fold])
        wrong[shortest] += errors[name]
        length[shortest] += words[name]
    return Folds(errors=wrong, words=length)


def optimism(candidates: Sequence[Folds]) -> float | None:
    """Rate by which the lowest error rate of several candidates is too low; `fold_sums` gives the sums of each.

    Of equal candidates the first is the best. None where there is one candidate, or too few folds.
    """
    if len(candidates) < 2 or len(words := np.array(candidates[0].words, dtype=float)) < MIN_FOLDS:
        return None
    errors = np.array([candidate.errors for candidate in candidates], dtype=float)  # [candidates, folds]
    total = errors.sum(axis=1)
    chosen_without = np.argmin(total[:, None] - errors, axis=0)  # [folds]
    nested = errors[chosen_without, np.arange(len(words))].sum()
    return float((nested - total.min()) / words.sum())


def optimism_of(candidates: Sequence[Folds]) -> Optimism | None:
    """The same in points, with the words that follow the name of what was chosen."""
    if (rate := optimism(candidates)) is None:
        return None
    return Optimism(
        candidates=len(candidates),
        points=100 * rate,
        sentence=f"chosen as the best of {len(candidates)} on dev: its WER there is too good by about "
        f"{100 * max(rate, 0.0):.1f} points",
    )
