"""Whether a text repeats itself as a decoder does that has run into a loop, and the text without the loop."""

import re
from collections.abc import Sequence

MAX_PERIOD_WORDS = 10
MIN_TIMES = 4  # as often in a row; people say a word three times
MIN_TIMES_IN_WORD = 10
_LETTERS = re.compile(rf"(\S{{1,8}}?)\1{{{MIN_TIMES_IN_WORD - 1},}}")


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


def collapse_loops(text: str, reference: str = "") -> str:
    """The text with every loop cut to as many times as people say a thing, or the reference does where that is more.

    A text without a loop comes back as it is; of a cut one, space between words becomes one space. What remains does
    not repeat beyond the reference, see `repeats_beyond`.
    """
    if not repeats_beyond(text, reference):
        return text
    if not _LETTERS.search(reference):
        while found := _LETTERS.search(text):
            text = text[: found.start()] + found[1] * (MIN_TIMES_IN_WORD - 1) + text[found.end() :]
    words, times = text.split(), max(MIN_TIMES - 1, times_repeated(reference.split()))
    while times_repeated(words) > times:
        for period in range(1, MAX_PERIOD_WORDS + 1):
            words = _cut(words, period, times)
    return " ".join(words)


def _cut(words: list[str], period: int, times: int) -> list[str]:
    """The words without those that repeat the ones `period` before them for more than `times` in a row."""
    kept: list[str] = []
    run = 0
    for word in words:
        run = run + 1 if len(kept) >= period and word == kept[-period] else 0
        kept.append(word)
        if run == period * times:
            del kept[-period:]
            run -= period
    return kept
