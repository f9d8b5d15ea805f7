"""Clips without speech: protects from another sound at another time, and from kinds that sound like each other."""

import numpy as np
import pytest

from shibolet.records.documents.non_speech import MADE
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.non_speech import non_speech_clip


@pytest.mark.parametrize("kind", MADE)
def test_a_clip_is_a_pure_function_of_kind_and_number(kind):
    clips = [non_speech_clip(kind, number, 3.0) for number in range(4)]
    assert all(len(clip) == 3 * SAMPLE_RATE_HZ and clip.dtype == np.float32 for clip in clips)
    assert all(np.array_equal(clip, non_speech_clip(kind, number, 3.0)) for number, clip in enumerate(clips))
    assert not any(np.array_equal(clips[0], clip) for clip in clips[1:])
    assert max(np.abs(clip).max() for clip in clips) < 1, "nothing is clipped"


def test_silence_begins_with_nothing_at_all_and_goes_on_below_what_is_audible():
    first, *others = [non_speech_clip("silence", number, 2.0) for number in range(4)]
    assert not first.any()
    levels_db = [20 * np.log10(np.sqrt(np.mean(clip**2))) for clip in others]
    assert all(-81 < level < -59 for level in levels_db)


def test_music_has_tones_and_breathing_swells():
    """Protects from two kinds of the same noise: tones stand out of a spectrum, breath comes and goes."""

    def peak(clip: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(clip)) ** 2
        return float(power.max() / power.mean())

    def swell(clip: np.ndarray) -> float:
        level = np.sqrt(np.mean(clip.reshape(-1, SAMPLE_RATE_HZ // 10) ** 2, axis=1))
        return float(level.std() / level.mean())

    made = {kind: [non_speech_clip(kind, number, 10.0) for number in (0, 3)] for kind in MADE}  # noise: white
    assert min(map(peak, made["music"])) > 20 * max(map(peak, made["noise"]))
    assert min(map(swell, made["breathing"])) > 10 * max(map(swell, made["noise"]))
