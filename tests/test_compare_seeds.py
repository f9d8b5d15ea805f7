"""Protects the verdict where other seeds of a training are known: the variance between them counts, and is named."""

import pytest
from made_scores import ROUNDS
from test_compare_keep import better, config, rows

from shibolet.compare import compare
from shibolet.compare.seeds import ONE_TRAINING
from shibolet.errors import DataError, RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.documents.comparison import Comparison

NUM = 400


def seeds(gains: list[float]) -> list:
    """Rows of the baseline, then of a candidate for each gain in points."""
    before, _ = better(NUM, 0)
    return [rows(before, 20), *(rows(better(NUM, gain, seed=0)[1], 20) for gain in gains)]


def judged(gains: list[float], **settings) -> Comparison:
    baseline, own, *others = seeds(gains)
    return compare((baseline, own), ROUNDS, config(loop_cost=0, **settings), other_seeds=((), others))


def test_seeds_that_agree_keep_and_the_sentence_says_which_variance_is_in():
    """Protects from a mean over seeds of which nobody reads that it is one."""
    made = judged([5, 5, 5.5])
    assert made.is_kept and made.seeds.shown == "better"
    assert made.seeds.candidate.wer_pct[0] == pytest.approx(100 * made.overall.wer.candidate.rate)
    rates = made.seeds.candidate.wer_pct
    assert made.seeds.delta_points == pytest.approx(sum(rates) / 3 - 100 * made.overall.wer.baseline.rate)
    assert f"Over 3 seeds of Round 2 the mean difference is {made.seeds.delta_points:+.2f} points" in made.sentence
    assert "with the variance between seeds (standard deviation" in made.sentence
    assert "so does that of the mean over seeds, with the variance between them" in made.rule
    assert ONE_TRAINING not in made.beside and made.seeds.baseline.spread_points is None


def test_one_lucky_seed_is_not_kept():
    """Protects from the gain of one seed that the next one does not have: alone it is shown, and kept."""
    assert judged([6]).is_kept
    made = judged([6, 0, 1])
    assert made.overall.wer.shown == "better" and not made.is_kept
    assert [refusal.limit for refusal in made.refusals] == ["seeds"]
    assert "another seed may show no gain" in made.sentence


def test_one_training_is_named_as_that():
    """Protects from a verdict on one seed that passes for one on the recipe."""
    made = judged([5])
    assert made.seeds is None and made.beside.count(ONE_TRAINING) == 1
    assert "seeds" not in made.rule


def test_seeds_of_the_baseline_count_too():
    """Protects from a baseline's lucky seed: what beats it alone may not beat its training."""
    _, own, *others = seeds([3, 3.1, 2.9])
    bad = rows(better(NUM, -4)[0], 20)
    lucky, usual = own, rows(better(NUM, 0)[1], 20)
    made = compare((bad, lucky), ROUNDS, config(loop_cost=0), other_seeds=((usual, lucky), others))
    assert len(made.seeds.baseline.wer_pct) == 3 and made.seeds.baseline.spread_points > 0
    assert "3 seeds of Round 1 and 3 seeds of Round 2" in made.seeds.sentence


def test_a_seed_without_scores_of_an_utterance_is_refused():
    """Protects from a mean over seeds that were scored on different utterances."""
    baseline, own, other, third = seeds([5, 5, 5])
    with pytest.raises(DataError, match="have no score in another seed of Round 2"):
        compare((baseline, own), ROUNDS, config(), other_seeds=((), (other[1:], third)))


def test_a_recipe_names_two_other_seeds_or_none(tmp_path):
    """Protects from a variance of two numbers, which has one degree of freedom."""
    with pytest.raises(RecipeError, match=r"compare.candidate_seeds names one run folder.*takes three trainings"):
        load_recipe("demo", [f"compare.candidate_seeds=[{tmp_path}]"])
