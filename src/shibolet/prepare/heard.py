"""The recogniser's hypothesis laid along the text: which words it heard, and when it heard each letter.

It needs nothing but the hypothesis and the words' times, so it is the same for every recogniser, a file of hypotheses
included. W words, N letters of the hypothesis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.listen.letters import HEARD_SHARE, lay_letters
from shibolet.listen.word_times import WordTimes


@dataclass(frozen=True, slots=True)
class LaidHypothesis:
    """What was heard of a text, and beside it."""

    num_letters: np.ndarray  # [W] written
    is_heard: np.ndarray  # [W] bool; words that cannot be checked (digits, another script) count as heard
    letter_times_s: np.ndarray  # [N] of the hypothesis, in order

    def num_between(self, start_s: float, end_s: float) -> int:
        """Letters heard in a stretch of audio."""
        return int(((self.letter_times_s >= start_s) & (self.letter_times_s < end_s)).sum())


def lay_along(
    words: Sequence[str], verifiable: Sequence[bool], times: WordTimes, hypothesis: str, speech_s: tuple[float, float]
) -> LaidHypothesis:
    """A letter that the text has too lies where its word does, others between those beside them, from the first speech
    to the last."""
    laid = lay_letters(words, hypothesis)
    owner, num_heard = laid.owner, len(laid.written_at)
    within = np.concatenate([(np.arange(num) + 0.5) / num for num in laid.num_letters if num] or [np.zeros(0)])
    written_s = times.starts_s[owner] + within * (times.ends_s - times.starts_s)[owner]
    known = np.flatnonzero(laid.written_at >= 0)
    known_s = written_s[laid.written_at[known]]
    first_s = min([speech_s[0], *known_s[:1]])
    last_s = max([speech_s[1], *known_s[-1:]])
    letter_times_s = np.interp(
        np.arange(num_heard), [-1, *known, num_heard], [first_s, *np.maximum.accumulate(known_s), last_s]
    )
    is_heard = (laid.share_found >= HEARD_SHARE) | ~np.array(verifiable, bool)
    return LaidHypothesis(laid.num_letters, is_heard, letter_times_s)
