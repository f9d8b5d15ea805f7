"""Signals are low where they should be: wrong text, missing words, times in disorder."""

import numpy as np
import pytest

from shibolet.audit.signals import measure, zero_length_runs
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.listen.word_times import longest_in_order
from shibolet.speech.activity import sound_of

WORDS = ["הילד", "הלך", "לבית", "הספר", "היום", "בבוקר"]
STARTS = np.arange(6) * 0.4 + 0.2


def alignment(starts: np.ndarray = STARTS, length: float = 0.4) -> Alignment:
    return Alignment(starts_s=starts, ends_s=starts + length)


def hearing(text: str, score: float = -0.1) -> Hearing:
    letters = len(text.replace(" ", ""))
    return Hearing(hypothesis=text, text_score=score, letter_times_s=np.linspace(0.2, 2.5, letters))


def signals(said: Alignment, heard: Hearing, words: list[str] = WORDS):
    noise = 0.01 * np.random.default_rng(0).standard_normal(16000 * 3).astype(np.float32)
    return measure(sound_of(noise), words, [not word.isdigit() for word in words], said, heard)


def test_a_good_clip_has_full_evidence() -> None:
    found = signals(alignment(), hearing(" ".join(WORDS)))
    assert found.coverage == 1.0 and found.cer == 0.0 and found.words_heard == 1.0
    assert found.length_ratio == 1.0 and found.uncovered_frac == 0.0


def test_another_text_has_no_evidence_though_every_word_is_aligned() -> None:
    found = signals(alignment(), hearing("פץ שק רגז צם דן"))
    assert found.coverage < 0.2 and found.cer > 0.7


def test_constant_and_random_times_have_no_evidence() -> None:
    heard = hearing(" ".join(WORDS))
    assert signals(alignment(np.full(6, 1.0), length=0.0), heard).coverage == 0.0
    random = np.random.default_rng(1).uniform(0, 3, 6)
    assert signals(alignment(random), heard).coverage < 1.0


def test_speech_after_the_last_word_is_uncovered() -> None:
    found = signals(alignment(STARTS[:3]), hearing(" ".join(WORDS)), WORDS[:3])
    assert found.uncovered_tail_s > 0.8 and found.uncovered_frac > 0.3 and found.length_ratio > 1.5


def test_nothing_heard_is_no_evidence() -> None:
    found = signals(alignment(), hearing(""))
    assert found.coverage == 0.0 and found.length_ratio == 0.0 and found.letters_per_s == 0.0


@pytest.mark.parametrize(
    ("times", "kept"),
    [([1, 2, 3], 3), ([3, 2, 1], 1), ([1, 5, 2, 3, 3], 4), ([2, 2, 2], 3), ([], 0)],
)
def test_longest_run_in_order(times: list[int], kept: int) -> None:
    places = longest_in_order(np.array(times, float))
    assert len(places) == kept and (np.diff(places) > 0).all()
    assert (np.diff(np.array(times, float)[places]) >= 0).all()


def test_a_single_zero_length_word_among_others_is_no_run() -> None:
    one = Alignment(starts_s=np.array([0.0, 1.0, 2.0]), ends_s=np.array([1.0, 1.0, 3.0]))
    two = Alignment(starts_s=np.array([0.0, 1.0, 1.0]), ends_s=np.array([1.0, 1.0, 1.0]))
    assert not zero_length_runs(one).any()
    assert zero_length_runs(two).tolist() == [False, True, True]


def test_digits_may_be_said_with_any_number_of_letters() -> None:
    words = [*WORDS[:-1], "10"]
    said = " ".join([*WORDS[:-1], "אלףתשעמאותשמוניםוארבע"])
    assert signals(alignment(), hearing(said), words).length_ratio == 1.0
    assert signals(alignment(), hearing(said), WORDS).length_ratio > 1.3  # a word that can be checked may not
