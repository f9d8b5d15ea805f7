"""The recogniser's hypothesis laid along the text: which words it heard, and when it heard each letter.

It needs nothing but the hypothesis and the words' times, so it is the same for every recogniser, a file of hypotheses
included. W words, N letters of the hypothesis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.listen.word_times import WordTimes
from shibolet.speech.text.rules import letters_of

HEARD_LETTERS = 0.5  # of a word have to stand in the hypothesis, as in the audit's coverage


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a text, and beside it."""

    num_letters: np.ndarray  # [W] written
    is_heard: np.ndarray  # [W] bool; words that cannot be checked (digits, another script) count as heard
    letter_times_s: np.ndarray  # [N] of the hypothesis, in order

    def num_between(self, start_s: float, end_s: float) -> int:
        """Letters heard in a stretch of audio."""
        return int(((self.letter_times_s >= start_s) & (self.letter_times_s < end_s)).sum())


def lay_along(
    words: Sequence[str], verifiable: Sequence[bool], times: WordTimes, hypothesis: str, speech_s: tuple[float, float]
) -> Heard:
    """A letter that the text has too lies where its word does, others between those beside them, from the first speech
    to the last."""
    from jiwer import process_characters

    words, heard = [letters_of(word) for word in words], letters_of(hypothesis)
    num_letters = np.array([len(word) for word in words])
    owner = np.repeat(np.arange(len(words)), num_letters)
    within = np.concatenate([(np.arange(num) + 0.5) / num for num in num_letters if num] or [np.zeros(0)])
    written_s = times.starts_s[owner] + within * (times.ends_s - times.starts_s)[owner]
    is_found, written_at = np.zeros(len(owner), bool), np.full(len(heard), -1)
    chunks = process_characters("".join(words), heard).alignments[0] if len(owner) and heard else []
    for chunk in chunks:
        if chunk.type in ("equal", "substitute"):
            written_at[chunk.hyp_start_idx : chunk.hyp_end_idx] = range(chunk.ref_start_idx, chunk.ref_end_idx)
            is_found[chunk.ref_start_idx : chunk.ref_end_idx] |= chunk.type == "equal"
    num_found = np.bincount(owner, is_found, len(words))
    known = np.flatnonzero(written_at >= 0)
    known_s = written_s[written_at[known]]
    first_s = min([speech_s[0], *known_s[:1]])
    last_s = max([speech_s[1], *known_s[-1:]])
    letter_times_s = np.interp(
        np.arange(len(heard)), [-1, *known, len(heard)], [first_s, *np.maximum.accumulate(known_s), last_s]
    )
    is_heard = (num_found >= HEARD_LETTERS * num_letters) & (num_letters > 0) | ~np.array(verifiable, bool)
    return Heard(num_letters, is_heard, letter_times_s)
