"""Tests of no difference between two systems on the same utterances, and what to do when there are several of them.

The p value of the difference in WER comes with its interval (`scoring.intervals`).
MAPSSWE (Gillick and Cox, 1989; Pallett et al., 1990) as in NIST's sc_stats: utterances are cut where both systems have
two words right, and the errors of the segments between are compared by a normal test. It takes segments for
independent, which those of one speaker are not: beside the bootstrap it is there for comparison with published figures.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from shibolet.records.documents.comparison import Mapsswe
from shibolet.scoring.sclite import Aligned, align_weighted

MIN_GOOD_WORDS = 2  # right in both systems, between two segments; NIST's default


def mapsswe(segment_differences: Sequence[int]) -> Mapsswe:
    """The test on the differences of all segments; z = 0 where they do not vary, as in NIST's tools."""
    found = np.asarray(segment_differences, dtype=float)
    spread = found.std(ddof=1) if len(found) > 1 else 0.0
    z = float(found.mean() / (spread / math.sqrt(len(found)))) if spread else 0.0
    return Mapsswe(segments=len(found), z=z, p=math.erfc(abs(z) / math.sqrt(2)))


def segment_differences(reference: str, first: str, second: str) -> list[int]:
    """Errors of the second hypothesis less those of the first, in each segment of one utterance.

    Unlike sc_stats this counts words that only the second system adds at the end of an utterance.
    """
    if first == second == reference:
        return []
    words = reference.split()
    errors = [_errors_by_place(align_weighted(words, hypothesis.split())) for hypothesis in (first, second)]
    found, one, two, num_good, is_open = [], 0, 0, 0, False
    for (before1, wrong1), (before2, wrong2) in zip(*errors, strict=True):
        one, two = one + before1 + wrong1, two + before2 + wrong2
        if before1 or before2:
            is_open, num_good = True, 0
        if wrong1 or wrong2:
            is_open, num_good = True, 0
            continue
        num_good += 1
        if is_open and num_good >= MIN_GOOD_WORDS:
            found.append(two - one)
            one, two, is_open = 0, 0, False
    return [*found, two - one] if is_open else found


def _errors_by_place(aligned: Aligned) -> list[tuple[int, int]]:
    """(words inserted before, 1 if wrong) for each reference word, and for the end, where nothing can be wrong."""
    places, inserted = [], 0
    for operation, _, _ in aligned:
        if operation == "ins":
            inserted += 1
        else:
            places.append((inserted, int(operation != "hit")))
            inserted = 0
    return [*places, (inserted, 0)]


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for there being several, after Holm (1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
