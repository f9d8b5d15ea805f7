"""Protects keep from losses that a set happens not to hold: limits against the binomial, costs worked by hand."""

from dataclasses import replace

import pytest
from scipy.stats import binom, binomtest

from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.rare import PairedLosses, cost_of_loop, losses, pieces_for, told
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.tallies import has_looped, is_failure, is_loop

TITLES = ("Round 1", "Round 2")
LOOP = "כן " * 20


def row(reference: str, hypothesis: str) -> ScoredRow:
    utterance = Utterance(id="a", audio=AudioRef(path=""), text=reference, duration_s=1.0, source="s")
    return score_row(utterance, hypothesis, set="d", normaliser=str.strip)


def counted(first_alone: int, second_alone: int, both: int = 0, num: int = 412) -> PairedLosses:
    return PairedLosses(num, num, first_alone + both, second_alone + both, first_alone, second_alone)


def test_the_upper_limit_is_what_so_few_losses_are_just_compatible_with() -> None:
    assert counted(0, 0).upper_frac == pytest.approx(1 - 0.025 ** (1 / 412))
    for seen in (1, 7):
        assert binom.cdf(seen, 412, counted(0, seen).upper_frac) == pytest.approx(0.025)
        assert counted(0, seen).unseen_frac == pytest.approx(counted(0, seen).upper_frac - seen / 412)
    assert counted(0, 3, num=3).upper_frac == 1.0


def test_a_text_that_was_written_again_is_a_loop_of_its_model() -> None:
    """Protects keep from a model that loops more and passes, since a bias writes its loops again."""
    plain, again = [row("א ב", "א ב")] * 6, [replace(row("א ב", "א ב"), written_again=True)] * 6
    found = losses(plain, again, has_looped)
    assert (found.first, found.second, found.second_alone) == (0, 6, 6) and found.p_more < 0.05
    said = told(found, losses(plain, again, is_failure), 5.0, TITLES, (0, 6))
    assert said[0].startswith("Round 2 loops in 6 of 6 utterances")
    assert said[1].endswith("(evaluate.loop_bias) count as loops: 0 of Round 1, 6 of Round 2.")
    assert cost_of_loop(again, 5.0) == 5.0, "what was written again cost no loop"


def test_more_losses_than_chance_explains_is_an_exact_test_of_those_that_are_not_shared() -> None:
    for first, second in ((0, 0), (0, 4), (0, 5), (3, 9), (9, 3)):
        expected = binomtest(second, first + second, alternative="greater").pvalue if first + second else 1.0
        assert counted(first, second, both=30).p_more == pytest.approx(expected)
    assert counted(0, 4).p_more > 0.05 > counted(0, 5).p_more


def test_losses_are_counted_by_utterance_in_both_systems() -> None:
    first = [row("א ב", LOOP), row("א ב", LOOP), row("א ב", "א"), row("א ב", ""), row("", "")]
    second = [row("א ב", LOOP), row("א ב", "א ב"), row("א ב", LOOP), row("א ב", ""), row("", "")]
    assert losses(first, second, is_loop) == PairedLosses(5, 5, 2, 2, 1, 1)
    assert losses(first, second, is_failure) == PairedLosses(5, 5, 1, 1, 0, 0), "an empty reference asks for no words"
    assert not is_failure(row("א", "ב"))
    dot = Utterance(id="a", audio=AudioRef(path=""), text="א ב", duration_s=1.0, source="s")
    blank = score_row(dot, ".", set="d", normaliser=lambda text: text.replace(".", " "))
    assert is_failure(blank), "a normaliser may leave a space of a text without letters"


def test_a_loop_costs_what_loops_cost_here_and_what_is_assumed_at_least() -> None:
    plain = [row("א ב ג ד", "א ב ג ד")] * 9
    looped = row("א ב ג ד", "א ב ג ד " + LOOP)  # 20 errors, of references of 4 words on average
    assert cost_of_loop([*plain, looped], 3.0) == pytest.approx(20 / 4)
    assert cost_of_loop([*plain, looped], 7.0) == 7.0
    assert cost_of_loop(plain, 3.0) == 3.0


def test_so_many_utterances_without_a_loop_rule_a_cost_out() -> None:
    for cost, rate in ((5.0, 0.02), (5.0, 0.001), (12.0, 0.3)):
        num = pieces_for(cost, rate)
        assert cost * counted(0, 0, num=num).unseen_frac <= rate < cost * counted(0, 0, num=num - 1).unseen_frac
    assert pieces_for(5.0, 6.0) == 1


def test_the_sentences_say_what_was_seen_and_what_may_be_missing() -> None:
    none = counted(0, 0)
    assert told(none, none, 5.0, TITLES) == [
        "0 loops in 412 utterances are compatible with 0.9% (upper 97.5% limit); at 5.0 times an utterance's words each"
        " that is 4.5 points."
    ]
    loops, failures = told(counted(1, 2, both=1), counted(0, 3), 5.0, TITLES)
    assert loops.startswith("Round 2 loops in 3 of 412 utterances, Round 1 in 2; Round 2 alone in 2, which is ")
    assert "those not seen come to 6.3 points" in loops
    assert failures == "Round 2 recognises nothing in 3 utterances that have words, Round 1 in 0."
    cut = PairedLosses(17, 340, 0, 0, 0, 0)
    assert told(cut, cut, 5.0, TITLES)[0].startswith(
        "0 loops in 17 utterances (340 pieces of 30 s or less) are compatible with 1.1% (upper 97.5% limit); at 5.0 "
        "times a piece's words each"
    )
    assert told(none, none, 0.0, TITLES)[0].endswith("no allowance is made for them (compare.loop_cost: 0).")
