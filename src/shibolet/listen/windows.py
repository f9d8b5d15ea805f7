"""How much audio a Whisper is given for a short clip: it pads everything to 30 s, and most clips need a third of it.

The encoder's work grows with the window. Some models go wrong with a shorter one than they were trained with (they run
on, or loop), so a short window is chosen by trying it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from shibolet.listen.loops import is_loop
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language
from shibolet.speech.text.reading import compare
from shibolet.speech.text.rules import letters_of

SHORT_S = 10.0
PADDING_S = 1.0  # of silence that a window has after the clip: without it a model does not know that the speech ended
TRIAL_CLIPS = 24
MIN_TRIAL_CLIPS = 4
MAX_WORSE = 0.05  # mean CER of the clips' own texts, over that under the full window
MAX_LONGER = 1.3  # letters of one clip, against those under the full window
SPARE_LETTERS = 5  # beyond that, in a clip of a word or two


def fits(clip: np.ndarray, window_s: float) -> bool:
    return len(clip) + PADDING_S * SAMPLE_RATE_HZ <= window_s * SAMPLE_RATE_HZ


def choose_window(
    clips: Sequence[np.ndarray],
    words: Sequence[list[str]],
    full_s: float,
    transcribe: Callable[[Sequence[np.ndarray], float], list[str]],
    language: str,
) -> float:
    """`SHORT_S` where clips spread over those that fit it are heard as well as under the full window, else `full_s`.

    Their own texts tell, so that only what is heard counts and not how it is written. Some of them may be wrong: under
    either window alike.
    """
    own = list(
        {id(clip): (clip, said) for clip, said in zip(clips, words, strict=True) if fits(clip, SHORT_S)}.values()
    )
    if len(own) < MIN_TRIAL_CLIPS or full_s <= SHORT_S:
        return full_s
    places = np.linspace(0, len(own) - 1, min(TRIAL_CLIPS, len(own))).round().astype(int)
    trial, said = zip(*(own[place] for place in places), strict=True)
    durations_s = [len(clip) / SAMPLE_RATE_HZ for clip in trial]
    texts = [transcribe(trial, window_s) for window_s in (SHORT_S, full_s)]
    return SHORT_S if as_good(*texts, said, durations_s, language) else full_s


def as_good(
    short: Sequence[str], full: Sequence[str], words: Sequence[list[str]], durations_s: Sequence[float], language: str
) -> bool:
    """Whether texts under a short window fit the clips' words as well as those under the full one, and none runs on."""
    rates = []
    for *heard, said, duration_s in zip(short, full, words, durations_s, strict=True):
        compared = [compare(said, text, get_language(language)) for text in heard]
        letters = [letters_of("".join(one.heard)) for one in compared]
        if len(letters[0]) > MAX_LONGER * len(letters[1]) + SPARE_LETTERS or is_loop(short[len(rates)], duration_s):
            return False
        readings = [letters_of("".join(one.text)) for one in compared]
        rates.append([min(1.0, Levenshtein.distance(*pair) / len(pair[0])) for pair in zip(readings, letters)])
    under_short, under_full = np.mean(rates, axis=0)
    return under_short <= under_full + MAX_WORSE
