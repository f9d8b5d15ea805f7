"""WER apart for words of a list and for all others: B-WER and U-WER (Le et al. 2021, "Contextualized streaming
end-to-end speech recognition with trie-based deep biasing and shallow fusion", Interspeech).

A word of the reference counts where it belongs by itself, and so does an inserted one. Of all alignments with the
fewest errors, one with the fewest errors in words of the list is taken, and of these one with the fewest words of the
list where the reference has none, so that the numbers do not depend on how a program breaks ties.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from shibolet.records.documents.scores import Biasing, WordRate
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.intervals import rate_interval
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.sclite import DELETION, DIAGONAL, steps

_ERROR, _LISTED, _FALSE = 10**12, 10**6, 1  # weights, each over all that can come below it


class Apart(NamedTuple):
    """The edits of one utterance, or of several."""

    listed: EditCounts  # of words of the list
    others: EditCounts
    false_words: int  # words of the list that the hypothesis has where the reference has another word, or none


def biasing(rows: Sequence[ScoredRow], terms: Collection[str]) -> Biasing | None:
    """Both rates of a system; `terms` are words as scores count them. None where there are none."""
    if not terms:
        return None
    counts = [count_apart(row.said.split(), row.heard.split(), terms) for row in rows]
    groups = groups_of(rows)
    return Biasing(
        words=len(terms),
        listed=_rate([one.listed for one in counts], groups),
        others=_rate([one.others for one in counts], groups),
        false_words=sum(one.false_words for one in counts),
    )


def count_apart(said: Sequence[str], heard: Sequence[str], terms: Collection[str]) -> Apart:
    """The edits of one utterance's words, apart for words of the list and others."""
    came_from = _came_from(said, heard, terms)
    found = {True: [0, 0, 0, 0], False: [0, 0, 0, 0]}  # hits, substitutions, deletions, insertions
    i, j, false_words = len(said), len(heard), 0
    while i or j:
        step = came_from[i, j]
        one = said[i - 1] if step in (DIAGONAL, DELETION) else None
        two = heard[j - 1] if step != DELETION else None
        place = 3 if one is None else 2 if two is None else int(one != two)
        found[(two if one is None else one) in terms][place] += 1
        false_words += two is not None and two != one and two in terms
        i, j = i - (one is not None), j - (two is not None)
    return Apart(EditCounts(*found[True]), EditCounts(*found[False]), false_words)


def _came_from(said: Sequence[str], heard: Sequence[str], terms: Collection[str]) -> np.ndarray:
    number_of = {word: number for number, word in enumerate(dict.fromkeys((*said, *heard)))}
    numbers = np.array([number_of[word] for word in heard], dtype=np.int64)
    is_listed = np.array([word in terms for word in heard], dtype=np.int64)

    def row(word: str) -> tuple[np.ndarray, int]:
        own = _ERROR + _LISTED * (word in terms)
        return np.where(numbers == number_of[word], 0, own + _FALSE * is_listed), own

    return steps(map(row, said), len(said), _ERROR + (_LISTED + _FALSE) * is_listed)


def _rate(counts: Sequence[EditCounts], groups: Sequence[str]) -> WordRate:
    found = rate_interval(counts, groups)
    return WordRate(
        **dict(sum(counts, EditCounts()).word_errors()),
        interval=None if found.low is None else (found.low, found.high),
        groups=len(set(groups)),
    )
