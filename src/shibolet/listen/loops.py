"""Repetition loops: text that says one thing again and again, more of it than the audio has room for.

"No no no no no" may have been said. What tells a loop from it is time: a loop goes on beyond what anyone could say in
the whole clip. So a text is judged with the length of its audio, and never by its repetition alone.
"""

LOOP_CHARS_PER_S = 25.0  # spaces included; fast speech has about 20, and none of it is repetition from end to end
MIN_REPEATS = 4  # of the phrase; the space after the last one may be missing
MIN_AUDIO_S = 0.5  # shorter audio is padded to this before a model hears it


def is_loop(text: str, duration_s: float) -> bool:
    """Whether the repetition that a text ends in is longer than could be said in its audio."""
    room = LOOP_CHARS_PER_S * max(duration_s, MIN_AUDIO_S)
    return len(text) > room and repeated_tail(text) > room


def repeated_tail(text: str) -> int:
    """Characters at the end of a text that are one phrase at least `MIN_REPEATS` times; 0: it ends in no repetition.

    Periods of the reversed text's prefixes by its failure function (Knuth, Morris and Pratt 1977).
    """
    mirrored = text[::-1]
    border, fails, longest = 0, [0], 0
    for i in range(1, len(mirrored)):
        while border and mirrored[i] != mirrored[border]:
            border = fails[border - 1]
        border += mirrored[i] == mirrored[border]
        fails.append(border)
        if (i + 1 - border) * MIN_REPEATS <= i + 2:
            longest = i + 1
    return longest
