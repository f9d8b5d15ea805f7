"""A hypothesis laid along a text, letter by letter.

Shapes: W words, R letters written, N letters heard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.speech.text.rules import letters_of

HEARD_SHARE = 0.5  # of a word's letters have to stand in the hypothesis for it to count as heard


@dataclass(frozen=True, slots=True)
class LaidLetters:
    """Which letters of a text were heard, and where in the text each letter heard belongs."""

    num_letters: np.ndarray  # [W]
    is_found: np.ndarray  # [R] bool
    written_at: np.ndarray  # [N] the place in R of the same letter, or of the one heard in its stead; -1: there is none

    @property
    def owner(self) -> np.ndarray:
        """The word `[R]` of each letter written."""
        return np.repeat(np.arange(len(self.num_letters)), self.num_letters)

    @property
    def share_found(self) -> np.ndarray:
        """Share `[W]` of each word's letters that was heard; 0 where it has none."""
        return np.bincount(self.owner, self.is_found, len(self.num_letters)) / np.maximum(self.num_letters, 1)

    @property
    def num_heard(self) -> np.ndarray:
        """Letters `[W]` heard where each word stands: for its own, and beside them those that the text lacks."""
        count, places = len(self.written_at), np.arange(len(self.written_at))
        known = self.written_at >= 0
        before = np.maximum.accumulate(np.where(known, places, -1))
        after = np.minimum.accumulate(np.where(known, places, count)[::-1])[::-1]
        word = np.append(np.where(known, self.owner[self.written_at] if known.any() else -1, -1), -1)  # -1: beside none
        first, second = word[before], word[after]
        found = np.concatenate([first[first >= 0], second[(second >= 0) & (second != first)]])
        return np.bincount(found, minlength=len(self.num_letters))


def lay_letters(words: Sequence[str], hypothesis: str) -> LaidLetters:
    """The alignment of fewest edits; what is no letter does not count."""
    from jiwer import process_characters

    written, heard = [letters_of(word) for word in words], letters_of(hypothesis)
    num_letters = np.array([len(word) for word in written], int)
    is_found, written_at = np.zeros(num_letters.sum(), bool), np.full(len(heard), -1)
    for chunk in process_characters("".join(written), heard).alignments[0] if any(written) and heard else []:
        if chunk.type in ("equal", "substitute"):
            written_at[chunk.hyp_start_idx : chunk.hyp_end_idx] = range(chunk.ref_start_idx, chunk.ref_end_idx)
            is_found[chunk.ref_start_idx : chunk.ref_end_idx] = chunk.type == "equal"
    return LaidLetters(num_letters, is_found, written_at)
