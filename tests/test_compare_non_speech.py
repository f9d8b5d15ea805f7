"""Words where nobody speaks in a verdict: protects from keeping a model that invents text, and from chance."""

import numpy as np
import pytest
from made_non_speech import CLIP_S, heard
from made_scores import ROUNDS
from scipy.stats import t as student
from test_compare_keep import better, rows

from shibolet.compare import CompareConfig, compare
from shibolet.errors import DataError, RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.non_speech import NonSpeech


def judged(before: NonSpeech | None, after: NonSpeech | None, **settings) -> Comparison:
    """Of a gain that is kept for itself."""
    config = CompareConfig(bootstrap_samples=2000, loop_cost=0, **settings)
    sides = tuple(rows(side, 20) for side in better(600, 5))
    return compare(sides, ROUNDS, config, non_speech=(before, after) if before and after else None)


def test_the_interval_is_students_over_clips():
    """By another implementation: the difference of each clip, all of one length."""
    rng = np.random.default_rng(1)
    before, after = rng.integers(0, 4, 20), rng.integers(0, 6, 20)
    found = judged(heard(before.tolist()), heard(after.tolist(), name=1)).non_speech
    more = (after - before) * 60 / CLIP_S
    assert found.more_per_minute == pytest.approx(more.mean())
    assert found.words_per_minute == pytest.approx((before.mean() * 12, after.mean() * 12))
    reach = student.ppf(0.975, 19) * more.std(ddof=1) / np.sqrt(20)
    assert found.interval == pytest.approx((more.mean() - reach, more.mean() + reach), abs=0.05 * reach)


def test_clips_of_one_recording_are_not_independent():
    """A limit would be kept, or a difference shown, by one recording that was cut into many clips."""
    before, after = [0] * 24, [1, 1, 1, 1, 0, 0, 0, 0, 2, 2, 2, 2] * 2
    apart, cut = (
        judged(heard(before), heard(after, name=1, together=1)).non_speech,
        judged(heard(before, together=4), heard(after, name=1, together=4)).non_speech,
    )
    assert cut.more_per_minute == apart.more_per_minute
    assert cut.interval[1] - cut.interval[0] > 1.8 * (apart.interval[1] - apart.interval[0])
    assert judged(heard([0] * 8, together=4), heard([1] * 8, name=1, together=4)).non_speech.interval is None


def test_one_that_is_shown_to_write_more_is_refused_and_chance_is_no_reason():
    worse = judged(heard([0] * 16), heard([1, 2] * 8, name=1))
    assert worse.verdict == "reject" and [one.limit for one in worse.refusals] == ["non_speech"]
    assert "Not kept: Round 2 writes more where nobody speaks." in worse.sentence
    assert (
        "Where nobody speaks (16 clips, 1.3 min) Round 1 writes 0.0 words a minute and Round 2 18.0" in worse.sentence
    )
    once = judged(heard([0] * 16), heard([0] * 15 + [9], name=1))
    assert once.verdict == "keep" and any("Where nobody speaks" in line for line in once.beside)
    assert "not shown to write more where nobody speaks" in once.rule
    same = judged(heard([3] * 16), heard([3] * 16, name=1))
    assert same.verdict == "keep" and same.non_speech.interval == (0, 0)


def test_a_limit_has_to_be_shown_to_hold():
    """Non-inferiority: the end of the interval lies below it, also where the mean is far below."""
    noisy = heard([0] * 16), heard([0] * 15 + [9], name=1)
    assert judged(*noisy, max_extra_words_per_minute=30).verdict == "keep"
    refused = judged(*noisy, max_extra_words_per_minute=10)
    assert refused.verdict == "reject" and "not shown to stay below 10 more words a minute" in refused.sentence
    allowed = judged(heard([0] * 16), heard([1, 2] * 8, name=1), max_extra_words_per_minute=25)
    assert allowed.verdict == "keep" and "less than 25 more words a minute" in allowed.rule
    few = judged(heard([0, 0]), heard([0, 0], name=1), max_extra_words_per_minute=10)
    assert few.verdict == "reject" and "too few clips for an interval" in few.sentence
    unheard = judged(None, None, max_extra_words_per_minute=10)
    assert unheard.verdict == "reject" and "No clip without speech was heard" in unheard.sentence
    assert judged(None, None).verdict == "keep" and "nobody speaks" not in judged(None, None).rule


def test_repeats_of_a_context_beyond_chance_are_refused():
    quiet = heard([0] * 16)
    assert judged(quiet, heard([0] * 16, echoes=4, name=1)).verdict == "keep"
    refused = judged(quiet, heard([0] * 16, echoes=5, name=1))
    assert refused.verdict == "reject" and "in 5 clips and Round 1 in 0, more than chance explains" in refused.sentence


def test_words_of_speech_in_another_language_count_for_no_limit_and_its_echoes_do():
    before, after = heard([0] * 4, foreign=[2] * 8), heard([0] * 4, foreign=[9] * 8, name=1)
    assert judged(before, after).non_speech.more_per_minute == 0
    assert judged(before, after).non_speech.kinds["speech: english"].candidate.words == 72
    echoing = heard([0] * 4, foreign=[2] * 8, echoes=12, name=1)
    assert judged(before, echoing).verdict == "reject"


def test_two_that_heard_other_clips_are_not_compared():
    with pytest.raises(DataError, match="heard other clips without speech"):
        judged(heard([0] * 4), heard([0] * 5, name=1))


def test_a_limit_without_clips_is_refused_before_anything_is_heard():
    with pytest.raises(RecipeError, match=r"needs evaluate\.non_speech"):
        load_recipe("demo", ["compare.max_extra_words_per_minute=3", "evaluate.non_speech=null"])
