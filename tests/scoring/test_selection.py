"""Protects the statement of how much too good a chosen score is: against the truth, and from folds that differ."""

import numpy as np
import pytest

from shibolet.records.documents.scores import Folds
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.selection import MAX_FOLDS, fold_sums, optimism, optimism_of


def rows(num_groups: int, each: int = 3, wrong: int = 1) -> list[ScoredRow]:
    return [
        ScoredRow(
            id=f"u{i}", set="dev", domain=None, recording=f"r{i % num_groups}", speaker=None, duration_s=1.0,
            reference="", hypothesis="", said="", heard="", words=EditCounts(10 - wrong, wrong), chars=EditCounts(),
        )
        for i in range(num_groups * each)
    ]  # fmt: skip


@pytest.mark.parametrize(("num_groups", "num_folds"), [(4, 4), (20, 20), (50, MAX_FOLDS)])
def test_folds_are_groups_and_the_same_for_every_candidate(num_groups: int, num_folds: int) -> None:
    one, other = fold_sums(rows(num_groups)), fold_sums(rows(num_groups, wrong=4))
    assert len(one.words) == num_folds and one.words == other.words
    assert sum(one.words) == 30 * num_groups and sum(one.errors) == 3 * num_groups
    assert max(one.words) - min(one.words) <= 30
    assert [4 * errors for errors in one.errors] == list(other.errors)


def test_each_fold_is_scored_by_the_choice_of_the_others() -> None:
    """The first leads by the first fold alone: without it the second is chosen, which is worse there."""
    words = [100, 100, 100]
    candidates = [Folds(errors=[0, 20, 20], words=words), Folds(errors=[30, 15, 15], words=words)]
    assert optimism(candidates) == pytest.approx((30 + 20 + 20 - 40) / 300)
    assert optimism_of(candidates).sentence == (
        "chosen as the best of 2 on dev: its WER there is too good by about 10.0 points"
    )


def test_nothing_is_said_where_nothing_was_chosen_or_nothing_can_be_left_out() -> None:
    one = Folds(errors=[1, 2, 3], words=[9, 9, 9])
    assert optimism([one]) is None and optimism_of([one]) is None
    assert optimism([Folds(errors=[1, 2], words=[9, 9])] * 2) is None
    assert optimism([one, one]) == 0.0


def test_on_average_it_is_as_much_as_the_choice_was_too_good() -> None:
    rng, found, truths = np.random.default_rng(0), [], []
    for _ in range(1000):
        errors = rng.binomial(300, np.clip(0.15 + rng.normal(0, 0.02, (8, 12)), 0, 1))
        found.append(100 * optimism([Folds(errors=own.tolist(), words=[300] * 12) for own in errors]))
        truths.append(15 - 100 * errors.sum(axis=1).min() / 3600)
    assert np.mean(truths) > 0.5, "there is something to estimate"
    assert abs(np.mean(found) - np.mean(truths)) < 0.15
