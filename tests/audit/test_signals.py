"""Signals are low where they should be: wrong text, missing words, times in disorder."""

import numpy as np
import pytest

from shibolet.audit.signals import measure, zero_length_runs
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.listen.word_times import longest_in_order
from shibolet.speech.activity import sound_of
from shibolet.speech.text import get_language

WORDS = ["הילד", "הלך", "לבית", "הספר", "היום", "בבוקר"]
STARTS = np.arange(6) * 0.4 + 0.2


def alignment(starts: np.ndarray = STARTS, length: float = 0.4) -> Alignment:
    return Alignment(starts_s=starts, ends_s=starts + length)


def hearing(text: str, score: float = -0.1) -> Hearing:
    letters = len(text.replace(" ", ""))
    return Hearing(hypothesis=text, text_score=score, letter_times_s=np.linspace(0.2, 2.5, letters))


def signals(said: Alignment | None, heard: Hearing, words: list[str] = WORDS):
    noise = 0.01 * np.random.default_rng(0).standard_normal(16000 * 3).astype(np.float32)
    verifiable = get_language("Hebrew").to_words(" ".join(words)).verifiable
    assert len(verifiable) == len(words)
    return measure(sound_of(noise), words, verifiable, said, heard, "Hebrew")


def test_a_good_clip_has_full_evidence() -> None:
    found = signals(alignment(), hearing(" ".join(WORDS)))
    assert found.coverage == 1.0 and found.cer == found.edge_cer == 0.0 and found.words_heard == 1.0
    assert found.length_ratio == 1.0 and found.text_score == -0.1


def test_another_text_has_no_evidence_though_every_word_is_aligned() -> None:
    found = signals(alignment(), hearing("פץ שק רגז צם דן"))
    assert found.coverage < 0.2 and found.cer > 0.7


def test_constant_and_random_times_have_no_evidence() -> None:
    heard = hearing(" ".join(WORDS))
    assert signals(alignment(np.full(6, 1.0), length=0.0), heard).coverage == 0.0
    random = np.random.default_rng(1).uniform(0, 3, 6)
    assert signals(alignment(random), heard).coverage < 1.0


def test_a_text_that_lacks_half_of_what_was_said_is_too_short_for_what_was_heard() -> None:
    found = signals(alignment(STARTS[:3]), hearing(" ".join(WORDS)), WORDS[:3])
    assert found.length_ratio > 1.5 and found.edge_cer > 0.5
    assert found.words_heard == 1.0, "all of its words were said: only the length tells"


def test_what_is_not_known_is_none_and_no_number() -> None:
    """A number that stands for "not known" would be taken for evidence."""
    found = signals(None, Hearing(hypothesis=" ".join(WORDS), text_score=None))
    assert found.coverage is found.text_score is found.text_logp is found.worst_score is None
    assert found.words_heard == 1.0 and found.cer == 0.0


def test_one_signal_alone_cannot_outweigh_the_rest() -> None:
    """A hypothesis that runs on, or one impossible token, says no more than that the text is wrong."""
    runs_on = " ".join(a + b + a for a in "פצק" for b in "זטסחעכ")
    heard = Hearing(hypothesis=runs_on, text_score=-50.0, text_logp=-1e4, worst_score=-np.inf)
    found = signals(alignment(), heard)
    assert found.cer == found.edge_cer == 1.0
    assert found.text_score == found.text_logp == found.worst_score == -10.0


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


def test_a_number_in_digits_is_the_number_that_was_said() -> None:
    """Or every text with a number in it looks damaged, or cannot be checked."""
    written, said = [*WORDS[:-1], "26"], " ".join([*WORDS[:-1], "עשרים ושש"])
    right = signals(alignment(), hearing(said), written)
    assert right.cer == right.edge_cer == 0.0 and right.length_ratio == right.words_heard == 1.0
    spelled = signals(None, hearing(" ".join(written)), [*WORDS[:-1], "עשרים", "ושש"])
    assert spelled.cer == 0.0 and spelled.words_heard == 1.0
    wrong = signals(alignment(), hearing(said), [*WORDS[:-1], "48"])
    assert wrong.cer > 0.1 and wrong.words_heard < 1.0


def test_a_word_that_cannot_be_checked_may_be_said_with_any_number_of_letters() -> None:
    words = [*WORDS[:-1], "www"]
    said = " ".join([*WORDS[:-1], "דאבליודאבליודאבליו"])
    found = signals(alignment(), hearing(said), words)
    assert found.length_ratio == 1.0 and found.words_heard == found.coverage == 1.0
    assert signals(alignment(), hearing(said), WORDS).length_ratio > 1.3  # a word that can be checked may not
