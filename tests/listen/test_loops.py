"""What is a repetition loop and what is somebody who repeats himself."""

import pytest

from shibolet.listen.loops import is_loop, repeated_tail


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("", 0),
        ("שלום עולם מה נשמע", 0),
        ("לא לא לא", 0),  # three times is emphasis
        ("לא לא לא לא", 11),
        ("ואז הוא אמר לא לא לא לא לא ל", 17),  # the space before the first one is part of the period
        ("abcabcabca", 0),
        ("abcabcabcab", 11),
        ("x abcabcabcabcab", 14),
        ("one two " * 10, 80),
        ("aaaa", 4),
    ],
)
def test_the_repeated_tail_is_found_at_any_period(text, tail):
    assert repeated_tail(text) == tail


def test_the_tail_against_every_period_tried():
    """The failure function against the definition, on all words of two letters."""
    for length in range(1, 13):
        for bits in range(2**length):
            text = format(bits, f"0{length}b")
            tails = [
                n
                for n in range(1, length + 1)
                for p in range(1, (n + 1) // 4 + 1)
                if all(text[-n + i] == text[-n + i + p] for i in range(n - p))
            ]
            assert repeated_tail(text) == max(tails, default=0), text


def test_a_true_repetition_is_never_a_loop():
    """Protects people who say a word ten times: there is room for it in the audio."""
    ten_times = " ".join(["לא"] * 10)
    assert not is_loop(ten_times, 2.0)  # five a second is as fast as anyone says it
    assert not is_loop("בוקר טוב " + ten_times, 3.0)
    assert is_loop(" ".join(["לא"] * 60), 2.0)
    assert is_loop("בוקר טוב " + " ".join(["ואז הוא הלך הביתה"] * 12), 4.0)


def test_long_text_without_repetition_is_no_loop():
    """Fast speech, or a model that invents: too much text is another matter."""
    assert not is_loop(" ".join(map(str, range(1000))), 2.0)


def test_audio_shorter_than_a_model_hears_has_the_room_of_what_it_hears():
    assert not is_loop("כן כן כן כן", 0.01)
    assert is_loop("כן כן כן כן כן כן כן", 0.01)
