"""Real Whisper models on real speech: that a right text scores as right, in both forms and under both windows.

Skipped without real models and speech; `tests/real_models.py` says how to build them.
"""

import json

import numpy as np
import pytest
from real_models import real_model, real_speech

from shibolet.listen.open import open_recogniser
from shibolet.speech.audio import SAMPLE_RATE_HZ

NUM_CLIPS = 12
pytestmark = pytest.mark.slow("listen", seconds=20)


@pytest.fixture(scope="module")
def speech() -> tuple[list[np.ndarray], list[list[str]]]:
    """Clips of two to seven seconds, and their words."""
    import soundfile

    manifest = real_speech()
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if 2 < row["duration"] < 7][:NUM_CLIPS]
    clips = [soundfile.read(manifest.parent / row["audio"], dtype="float32") for row in rows]
    assert len(clips) == NUM_CLIPS and {rate for _, rate in clips} == {SAMPLE_RATE_HZ}
    return [clip for clip, _ in clips], [row["text"].lower().split() for row in rows]


@pytest.mark.parametrize("window_s", [30.0, 10.0])
@pytest.mark.parametrize("name", ["whisper-base-ct2", "whisper-base", "whisper-tiny.en-ct2", "whisper-tiny.en"])
def test_right_texts_score_above_swapped_ones(name: str, window_s: float, speech) -> None:
    clips, words = speech
    recogniser = open_recogniser(str(real_model(name)), "English")
    recogniser.set_window(window_s)
    right = recogniser.hear(clips, words)
    swapped = recogniser.hear(clips, words[5:] + words[:5])
    for field in ("text_logp", "text_score", "worst_score"):
        above = [getattr(r, field) > getattr(s, field) for r, s in zip(right, swapped, strict=True)]
        assert np.mean(above) > 0.9, field
    assert np.median([h.text_score for h in right]) > -1 and np.median([h.text_score for h in swapped]) < -3


def test_the_two_forms_of_a_model_agree(speech) -> None:
    clips, words = speech
    first, second = (
        open_recogniser(str(real_model(name)), "English").hear(clips, words)
        for name in ("whisper-tiny.en-ct2", "whisper-tiny.en")
    )
    apart = [abs(a.text_logp - b.text_logp) for a, b in zip(first, second, strict=True)]
    assert np.median(apart) < 0.1
    assert np.mean([a.hypothesis == b.hypothesis for a, b in zip(first, second, strict=True)]) >= 0.7


def test_words_lie_where_they_are_spoken(speech) -> None:
    """Against energy: speech begins before the first word ends, and ends after the last one begins."""
    from shibolet.speech.activity import speech_spans

    clips, words = speech
    heard = open_recogniser(str(real_model("whisper-base-ct2")), "English").hear(clips, words)
    for clip, hearing, said in zip(clips, heard, words, strict=True):
        spans, spoken = hearing.word_spans_s, speech_spans(clip)
        assert spans.shape == (len(said), 2) and (np.diff(spans.ravel()) >= 0).all()
        assert spans[0, 1] > spoken[0][0] and spans[-1, 0] < spoken[-1][1]


def test_the_short_window_is_good_enough_for_a_real_model(speech) -> None:
    assert open_recogniser(str(real_model("whisper-base-ct2")), "English").choose_window(*speech) == 10.0
