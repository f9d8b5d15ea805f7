"""Protects keep from what the interval cannot say: loops not seen, one group that decides, rounds that hear nothing."""

import random

import pytest
from made_scores import ROUNDS

from shibolet.compare import CompareConfig, compare
from shibolet.records.documents.comparison import Comparison, Refusal
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow

LOOP = "כן " * 30
EMPTY = "nothing"


def config(**settings) -> CompareConfig:
    return CompareConfig(bootstrap_samples=500, **settings)


def rows(wrong: list[int | str], num_groups: int) -> list[ScoredRow]:
    """An utterance of ten words for each number of wrong ones, each recording in turn; or LOOP, or EMPTY."""
    made = []
    for i, errors in enumerate(wrong):
        words = {
            LOOP: EditCounts(10, 0, 0, 30), EMPTY: EditCounts(0, 0, 10),
        }.get(errors) or EditCounts(10 - errors, errors)  # fmt: skip
        made.append(
            ScoredRow(
                id=f"u{i}", set="eval", domain=None, recording=f"r{i % num_groups}", speaker=None, duration_s=5.0,
                reference=f"text {i}", hypothesis="", said="", heard=LOOP if errors == LOOP else "", words=words,
                chars=words,
            )
        )  # fmt: skip
    return made


def better(num: int, gain_points: float, num_groups: int = 20, seed: int = 0) -> tuple[list[int], list[int]]:
    """Errors of both rounds, the second better by about that much."""
    rng = random.Random(seed)
    before = [rng.randint(1, 4) for _ in range(num)]
    return before, [max(0, wrong - (rng.random() < gain_points / 10)) for wrong in before]


def judged(before: list, after: list, num_groups: int = 20, **settings) -> Comparison:
    return compare((rows(before, num_groups), rows(after, num_groups)), ROUNDS, config(**settings))


def test_a_gain_is_not_kept_while_as_many_loops_as_the_set_may_have_missed_could_outweigh_it() -> None:
    few = judged(*better(200, 5))
    assert few.overall.wer.shown == "better" and few.verdict == "reject"
    assert few.losses.unseen_points == pytest.approx(500 * (1 - 0.025 ** (1 / 200)))
    assert "0 loops in 200 utterances are compatible with 1.8% (upper 97.5% limit)" in few.sentence
    assert "that is 9.1 points." in few.sentence and len(few.refusals) == 1
    assert not any("0 loops" in line for line in few.beside), "it is said once"
    enough = int(few.sentence.split("About ")[1].split(" ")[0].replace(",", ""))
    assert judged(*better(enough * 5 // 4, 5)).verdict == "keep"
    assert judged(*better(enough // 2, 5)).verdict == "reject"
    trusting = judged(*better(200, 5), loop_cost=0)
    assert trusting.verdict == "keep" and "no allowance is made for them" in trusting.beside[0]
    assert "loops" not in trusting.rule.split(",")[1] and "an allowance for loops" in few.rule


def test_distances_add_by_squares_and_loops_that_were_seen_cost_what_they_cost() -> None:
    result = judged(*better(1000, 3))
    wer, unseen = result.overall.wer, result.losses.unseen_points
    reach = ((wer.interval_points[1] - wer.delta_points) ** 2 + unseen**2) ** 0.5
    assert wer.interval_points[1] < 0 < wer.delta_points + reach + unseen, "both must be asked for"
    assert (result.verdict == "keep") == (wer.delta_points + reach < 0)
    before, after = better(1000, 3)
    dear = judged([LOOP, *before[1:]], after).losses
    assert dear.loop_cost == 5.0 and judged([LOOP, *before[1:]], after, loop_cost=2.0).losses.loop_cost == 3.0


def test_more_loops_or_failures_than_chance_explains_are_not_kept() -> None:
    before, after = better(2000, 6)
    assert judged(before, after).verdict == "keep"
    for lost, verb in ((LOOP, "loops"), (EMPTY, "recognises nothing")):
        worse = judged(before, [*[lost] * 5, *after[5:]])
        assert worse.overall.wer.shown == "better" and worse.verdict == "reject"
        said = f"Round 2 {verb} in 5 utterances and Round 1 in 0, more than chance explains (p 0.031)."
        assert Refusal(limit="losses", sentence=said) in worse.refusals
    shared = judged([*[EMPTY] * 50, *before[50:]], [*[EMPTY] * 50, *after[50:]])
    assert shared.verdict == "keep" and shared.losses.failures.candidate == 50


@pytest.mark.parametrize("deaf", [0, 1])
def test_a_round_that_recognises_nothing_decides_nothing(deaf: int) -> None:
    """Once a model that wrote nothing (WER 100%) was kept over one at 155%."""
    num = 800
    sides = [[EMPTY] * num, [EMPTY] * num]
    sides[1 - deaf] = [8 if deaf else 1] * num
    if deaf:
        sides[0] = [LOOP] * num
    result = judged(*sides)
    assert result.overall.wer.shown == "better" and result.verdict == "reject"
    assert f"Round {deaf + 1} recognises 0.0% of the words" in result.sentence


def test_two_rounds_with_a_wer_over_100_percent_are_not_compared() -> None:
    before = [LOOP] * 800
    after = [LOOP if i % 2 else EMPTY for i in range(800)]
    assert any("WER 300.0% and 200.0%" in one.sentence for one in judged(before, after, loop_cost=0).refusals)


def test_one_group_must_not_decide() -> None:
    """Ten recordings of 20 utterances; what they gain in words is shown (t 2.4), without the first it is not (2.1)."""
    changes = [-50, -30, -20, 0, -20, 10, -10, 5, -30, 0]
    after = [5 + changes[i % 10] // 20 + (i // 10 < changes[i % 10] % 20) for i in range(200)]
    result = judged([5] * 200, after, num_groups=10, loop_cost=0)
    assert result.overall.wer.shown == "better" and result.verdict == "reject"
    largest = result.largest_group
    assert largest.name == "recording r0" and largest.points == pytest.approx(-2.5)
    assert largest.without.delta_points == pytest.approx(100 * (sum(changes) + 50) / 1800)
    assert result.refusals == (Refusal(limit="one_group", sentence=f"One group decides it. {largest.sentence}"),)
    assert "contribution of the 10 groups is -2.50 points; without it -5.28 points, -1" in largest.sentence


def test_three_groups_of_which_each_decides_are_not_kept() -> None:
    result = judged([4] * 3000, [2 - i % 2 for i in range(3000)], num_groups=3)
    assert result.overall.wer.shown == "better" and result.verdict == "reject"
    (refusal,) = result.refusals
    assert refusal.sentence == (
        "There are too few groups to leave one out. The largest contribution of the 3 groups is -8.33 points; without "
        "it -25.00 points, of too few groups for an interval."
    )
