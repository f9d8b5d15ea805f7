"""The arithmetic of scores, the check of a tokenizer, and the choice of a window, on numbers and texts."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from shibolet.errors import ModelError
from shibolet.listen.forced_text import check_tokenizer, judge, writings_of
from shibolet.listen.windows import SHORT_S, TRIAL_CLIPS, as_good, choose_window, fits


def test_a_text_is_judged_in_its_better_writing() -> None:
    lower, rewritten = np.array([-4.0, -1.0, -1.0]), np.array([-0.2, -0.8, -0.2])
    judged = judge([lower, rewritten], np.array([-0.1, -0.1]))
    assert judged.text_logp == pytest.approx(-0.4) and judged.worst_score == -0.8
    assert judged.text_score == pytest.approx(-0.3)


def test_a_hallucination_makes_no_text_look_right() -> None:
    """On silence a free text can be far less likely than the given one."""
    assert judge([np.array([-1.0])], np.array([-2.0])).text_score == 0.0


def test_digits_and_case_are_the_hypothesis_s_own() -> None:
    """A text that reads the same is scored as the model writes it, or "two six eight" costs as much as a wrong one."""
    assert writings_of(["two", "six", "eight"], " 268.", "English") == [" 268."]
    assert writings_of(["hello"], "hello", "English") == ["hello"]
    assert writings_of(["Doctor", "Hello"], "Dr. HELLO!", "English") == ["Dr. HELLO!"]


def test_a_text_that_reads_otherwise_is_scored_in_lower_case_and_with_what_it_shares() -> None:
    """In the hypothesis's writing alone a wrong text would be the hypothesis, and right."""
    found = writings_of(["Room", "two", "six", "was", "free"], "ROOM 26 is free.", "English")
    assert found[0] == "room two six was free" and len(found) == 2
    assert "ROOM" in found[1] and "was" in found[1] and "is" not in found[1].split()
    assert writings_of(["good", "day"], "", "English") == ["good day"]
    assert writings_of(["good", "day"], "other words", "English") == ["good day"]


def tokenizer(merges: list[tuple[str, str]]) -> Tokenizer:
    """Of single letters, and of a thousand pairs of them, in which these merges can be made."""
    letters = "ĠabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    vocabulary = {token: i for i, token in enumerate([*letters, *("".join(pair) for pair in PAIRS)])}
    made = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer, made.decoder = ByteLevel(add_prefix_space=False, use_regex=False), ByteLevelDecoder()
    return made


PAIRS = [(a, b) for a in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN" for b in "abcdefghijklmnopqrstuvwxyz"]


def test_a_tokenizer_without_a_merge_is_refused() -> None:
    """Whose words fall apart would score every text that has one as wrong."""

    def check(made: Tokenizer) -> None:
        encode = lambda texts: [e.ids for e in made.encode_batch(texts)]  # noqa: E731
        check_tokenizer("some/whisper", range(made.get_vocab_size()), made.decode_batch, encode)

    check(tokenizer(PAIRS))
    check(tokenizer(PAIRS[:-10]))
    with pytest.raises(ModelError, match=r"some/whisper.*\b11 of 1093 tokens.*'Np', which becomes 2 tokens"):
        check(tokenizer(PAIRS[:-11]))


CLIPS = [np.zeros(16000 * (i % 3 + 2), np.float32) for i in range(2 * TRIAL_CLIPS)]
SAID = ["one", "two", "three", "four"]
WORDS = [SAID] * len(CLIPS)


def test_the_short_window_is_taken_where_its_texts_fit_the_clips_as_well() -> None:
    asked = []

    def transcribe(clips, window_s):
        asked.append((window_s, len(clips)))
        return ["one two three four"] * len(clips)

    assert choose_window(CLIPS, WORDS, 30.0, transcribe, "English") == SHORT_S
    assert sorted(asked) == [(10.0, TRIAL_CLIPS), (30.0, TRIAL_CLIPS)]
    worse = lambda clips, window_s: ["one two" if window_s == SHORT_S else "one two three four"] * len(clips)  # noqa: E731
    assert choose_window(CLIPS, WORDS, 30.0, worse, "English") == 30.0


def test_each_clip_is_held_against_its_own_words() -> None:
    """Texts that have changed places would make either window look as bad as the other."""
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    words = [[numbers[i % 10], numbers[i // 10], "apples"] for i in range(len(CLIPS))]
    said = {id(clip): " ".join(own) for clip, own in zip(CLIPS, words, strict=True)}
    wrong = lambda clips, window_s: [said[id(c)] if window_s == 30.0 else "ten ripe pears" for c in clips]  # noqa: E731
    right = lambda clips, window_s: [said[id(c)] if window_s == SHORT_S else "ten ripe pears" for c in clips]  # noqa: E731
    assert choose_window(CLIPS, words, 30.0, wrong, "English") == 30.0
    assert choose_window(CLIPS, words, 30.0, right, "English") == SHORT_S


def test_the_full_window_stays_where_there_is_nothing_to_try_it_on() -> None:
    long = [np.zeros(int(16000 * 9.5), np.float32) for _ in range(20)]
    assert not fits(long[0], SHORT_S) and fits(CLIPS[0], SHORT_S)
    unasked = lambda own, s: pytest.fail("nothing to transcribe")  # noqa: E731
    for clips in (long, CLIPS[:3], [CLIPS[0]] * 20):
        assert choose_window(clips, WORDS[: len(clips)], 30.0, unasked, "English") == 30.0
    assert choose_window(CLIPS, WORDS, SHORT_S, unasked, "English") == SHORT_S


@pytest.mark.parametrize(
    ("short", "good"),
    [
        ("one two three four", True),
        ("One, two: three four!", True),
        ("1 2 3 4", True),
        ("one two three for", False),
        ("five six seven eight", False),
        ("one two three four one two three four", False),
        ("", False),
        ("one " * 100, False),
    ],
)
def test_what_counts_as_a_good_text_of_a_window(short: str, good: bool) -> None:
    assert as_good([short], ["one two three four"], [SAID], [2.0], "English") == good


def test_a_slip_in_one_clip_of_many_is_no_reason_against_a_window() -> None:
    texts = ["one two three four"] * 12
    slip = ["one two three for", *texts[1:]]
    assert as_good(slip, texts, [SAID] * 12, [2.0] * 12, "English")
    assert not as_good(["one two three for"] * 12, texts, [SAID] * 12, [2.0] * 12, "English")


def test_wrong_texts_speak_against_neither_window() -> None:
    """Some of the data are wrong, and writing is not content: neither may keep the slower window."""
    texts = ["five six seven eight"] * 12
    assert as_good(["5 6 7 8"] * 12, texts, [SAID] * 12, [2.0] * 12, "English")


def test_one_clip_that_runs_on_is_enough_against_a_window() -> None:
    texts, words = ["one two three four"] * 11, [SAID] * 12
    assert as_good([*texts, ""], [*texts, ""], words, [2.0] * 12, "English")
    runs_on = "one two three four five six seven"
    assert not as_good([*texts, runs_on], [*texts, "one two three"], words, [2.0] * 12, "English")
