"""A step is the same utterances whatever the hardware, and nothing is lost between steps, ranks and packs."""

import numpy as np
import pytest

from shibolet.errors import RecipeError
from shibolet.train.packing import (
    check_fit,
    divide,
    epoch_order,
    fullest,
    packs_of,
    packs_of_rank,
    step_utterances,
    steps_per_epoch,
)

LENGTHS = np.random.default_rng(0).integers(20, 200, size=101).tolist()


def steps(epoch: int, seed: int = 3, per_step: int = 8) -> list[list[int]]:
    first = epoch * steps_per_epoch(len(LENGTHS), per_step)
    return [
        step_utterances(step, num_utterances=len(LENGTHS), utterances_per_step=per_step, seed=seed)
        for step in range(first, first + steps_per_epoch(len(LENGTHS), per_step))
    ]


def test_an_epoch_visits_every_utterance_once_and_drops_no_rest():
    for epoch in range(3):
        visited = steps(epoch)
        assert [len(step) for step in visited] == [8] * 12 + [5]
        assert sorted(u for step in visited for u in step) == list(range(101))


def test_the_order_follows_from_seed_and_epoch_alone():
    assert steps(1) == steps(1)
    assert steps(0) != steps(1)
    assert steps(0) != steps(0, seed=4)
    assert epoch_order(6, seed=0, epoch=0).tolist() == epoch_order(6, seed=0, epoch=0).tolist()


def test_a_set_smaller_than_a_step_is_one_step_an_epoch():
    assert steps_per_epoch(5, 64) == 1
    assert sorted(step_utterances(7, num_utterances=5, utterances_per_step=64, seed=0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("pack_tokens", [200, 512, 10_000])
def test_ranks_and_packs_divide_a_step_without_loss(world_size: int, pack_tokens: int):
    for step in steps(0):
        packs = [
            pack
            for rank in range(world_size)
            for pack in packs_of_rank(step, LENGTHS, rank=rank, world_size=world_size, pack_tokens=pack_tokens)
        ]
        assert sorted(u for pack in packs for u in pack) == sorted(step)
        assert all(0 < sum(LENGTHS[u] for u in pack) <= pack_tokens for pack in packs)


def test_ranks_and_packs_are_balanced():
    step = list(range(64))
    loads = [sum(LENGTHS[u] for u in share) for share in divide(step, LENGTHS, 4)]
    assert max(loads) - min(loads) <= max(LENGTHS)
    fewest = -(-sum(LENGTHS[:64]) // 1024)
    assert fewest <= len(packs_of(step, LENGTHS, 1024)) <= fewest + 1


def test_more_ranks_than_utterances_leave_some_without_packs():
    counts = [len(packs_of_rank([4, 9], LENGTHS, rank=r, world_size=4, pack_tokens=512)) for r in range(4)]
    assert sorted(counts) == [0, 0, 1, 1]


def test_an_utterance_longer_than_a_pack_is_named_before_training():
    with pytest.raises(RecipeError, match=r"'b' has 300 tokens but train.pack_tokens is 256"):
        check_fit(["a", "b", "c"], [256, 300, 20], 256)
    check_fit(["a", "c"], [256, 20], 256)


def test_an_utterance_that_no_pack_holds_is_an_error_and_no_endless_search():
    with pytest.raises(ValueError, match="an utterance of 108 tokens in packs of 100"):
        packs_of([0], [108], 100)
    assert packs_of([], [108], 100) == []


@pytest.mark.parametrize(
    ("lengths", "room", "most", "chosen"),
    [
        ([3, 9, 5, 9, 4], 23, 9, [1, 3, 2]),
        ([3, 9, 5, 9, 4], 22, 9, [1, 3, 4]),  # what does not fit is passed over
        ([3, 9, 5, 9, 4], 99, 2, [1, 3]),
        ([7, 7, 7], 14, 9, [0, 1]),
        ([7], 6, 9, []),
        ([], 6, 9, []),
    ],
)
def test_the_fullest_pack_has_the_longest_that_fit_and_of_equal_ones_the_first(lengths, room, most, chosen):
    """All ranks try the same one before the first step, and its memory is what a plan promises."""
    assert fullest(lengths, room, most) == chosen
