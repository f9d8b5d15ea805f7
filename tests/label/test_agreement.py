"""Protects training from a limit on the disagreement that lets wrong texts pass, or that few clips seem to show."""

import math
from dataclasses import replace

import numpy as np

from shibolet.label.agreement import Tried, choose_limit, is_false_accept, letters_apart
from shibolet.label.config import LETTERS
from shibolet.speech.text import get_language

ENGLISH = get_language("English")


def tried(num: int, disagreement: float, wrong: int = 0, groups: int = 1000, first: int = 0) -> list[Tried]:
    return [
        Tried(f"c{first + i}", f"g{(first + i) % groups}", disagreement, is_wrong=i < wrong)
        for i in range(num)
    ]  # fmt: skip


def test_the_loosest_limit_that_is_shown_to_be_good_is_taken():
    clips = [*tried(300, 0.0), *tried(100, 0.08, first=300), *tried(100, 0.18, wrong=80, first=400)]
    found = choose_limit(clips, 5.0)
    assert (found.limit, found.by, found.clips) == (0.15, "letters", 500)
    by_limit = {step.limit: step for step in found.steps}
    assert (by_limit[0.0].accepted, by_limit[0.15].accepted, by_limit[0.30].accepted) == (300, 400, 500)
    assert by_limit[0.30].false_accepts == 80 and by_limit[0.30].upper_pct > 16


def test_of_letters_and_surprise_the_one_that_more_right_texts_pass():
    """A hearer that writes something else may still know a right text when it is told."""
    likely = [replace(one, surprise=0.8) for one in tried(300, 0.5)]
    alike = [replace(one, surprise=0.0) for one in tried(100, 0.0, first=300)]
    unlikely = [replace(one, surprise=4.0) for one in tried(100, 0.2, wrong=100, first=400)]
    found = choose_limit([*likely, *alike, *unlikely], 5.0)
    assert (found.by, found.limit) == ("surprise", 2.0), "the loosest of those that as many right texts pass"
    assert choose_limit([*alike, *(replace(one, surprise=0.0) for one in unlikely)], 5.0).by == "letters"
    known = [step for step in choose_limit([*likely, replace(alike[0], surprise=None)], 5.0).steps]
    assert {step.by for step in known} == {"letters"}, "of some nobody can tell"
    infinite = choose_limit([replace(one, surprise=math.inf, disagreement=math.inf) for one in likely], 5.0)
    assert infinite.limit is None and {step.accepted for step in infinite.steps} == {0}


def test_few_clips_show_nothing_however_good_they_are():
    """0 of 30 is no proof of under 5%; without this a tiny corpus would let everything pass."""
    assert choose_limit(tried(30, 0.0), 5.0).limit is None
    assert choose_limit(tried(200, 0.0), 5.0).limit == max(LETTERS)
    assert choose_limit([], 5.0).limit is None


def test_copies_of_a_clip_are_no_further_clips():
    """A clip and its damaged copy err together: twice each of 60 clips must not count as 120."""
    assert choose_limit(tried(60, 0.0) * 2, 5.0).limit is None
    assert choose_limit(tried(120, 0.0), 5.0).limit is not None


def test_errors_of_one_speaker_widen_the_bound():
    """Errors that all come from one group say less of the next one than the same number spread over all."""
    spread = [Tried(f"c{i}", f"g{i % 20}", 0.0, i < 20) for i in range(400)]
    one = [Tried(f"c{i}", f"g{i // 20}", 0.0, i < 20) for i in range(400)]
    bounds = [choose_limit(clips, 49.0).steps[0].upper_pct for clips in (spread, one)]
    assert bounds[1] > 2 * bounds[0] > 10


def test_of_all_that_is_tried_the_share_that_passes():
    """Wrong texts are all wrong: what counts is how many of them pass."""
    clips = [*tried(95, 0.5, wrong=95), *tried(5, 0.12, wrong=5, first=95)]
    found = choose_limit(clips, 6.0, of_all=True)
    assert found.limit == 0.05
    assert next(step for step in found.steps if step.limit == 0.15).upper_pct > 10


def test_the_bounds_of_all_limits_hold_together():
    """Of many calibrations at a true rate just over the most that is allowed, few may find any limit good."""
    rng, wrongly = np.random.default_rng(0), 0
    for _ in range(100):
        apart, wrong = rng.uniform(0, 0.3, 300), rng.random(300) < 0.05
        clips = [Tried(f"c{i}", f"g{i}", a, bool(w)) for i, (a, w) in enumerate(zip(apart, wrong, strict=True))]
        wrongly += choose_limit(clips, 5.0).limit is not None
    assert wrongly <= 0.05 * 100 + 2 * np.sqrt(100 * 0.05 * 0.95)


def test_a_false_accept_is_a_text_that_differs_from_the_truth_by_more_than_the_rate():
    truth = "one two three four five"
    assert not is_false_accept(truth, "One, two three four five.", 0.2, ENGLISH)
    assert not is_false_accept(truth, "one two three four nine", 0.2, ENGLISH)
    assert is_false_accept(truth, "one two three eight nine", 0.2, ENGLISH)
    assert is_false_accept("", "thank you", 0.2, ENGLISH), "where nobody speaks any word is wrong"
    assert not is_false_accept("", "", 0.2, ENGLISH)


def test_digits_and_words_are_no_disagreement():
    words = ENGLISH.to_words("room twenty six").tokens
    assert letters_apart(words, "Room 26", ENGLISH) == 0
    assert letters_apart(words, "", ENGLISH) == 1
    assert letters_apart((), "something", ENGLISH) == 1
