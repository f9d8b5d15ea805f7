"""Whether a text repeats itself as a decoder does that has run into a loop."""

import re
from collections.abc import Sequence

MAX_PERIOD_WORDS = 10
MIN_TIMES = 4  # as often in a row; people say a word three times
_LETTERS = re.compile(r"(\S{1,8}?)\1{9,}")  # ten times within one word


def times_repeated(words: Sequence[str]) -> int:
    """How often in a row the most repeated stretch of 1 to 10 words stands; 0 for no words."""
    most = min(1, len(words))
    for period in range(1, min(MAX_PERIOD_WORDS, len(words) // 2) + 1):
        run = 0
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            most = max(most, run // period + 1)
    return most


def repeats_beyond(hypothesis: str, reference: str = "") -> bool:
    """Whether the hypothesis repeats a stretch more often than people do, and than the reference does."""
    if _LETTERS.search(hypothesis) and not _LETTERS.search(reference):
        return True
    times = times_repeated(hypothesis.split())
    return times >= MIN_TIMES and times > times_repeated(reference.split())
