"""Which utterances make a step, which rank takes them, and in which packs: pure functions of lengths and a seed.

A step is the same utterances whatever the hardware; ranks and memory only decide how they are divided.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from shibolet.errors import RecipeError


def steps_per_epoch(num_utterances: int, utterances_per_step: int) -> int:
    """Steps in which every utterance is seen once; the last one takes what is left."""
    return math.ceil(num_utterances / utterances_per_step)


@lru_cache(maxsize=2)  # a step asks for it several times, and who reads ahead for the next epoch's
def epoch_order(num_utterances: int, *, seed: int, epoch: int) -> np.ndarray:
    """The permutation in which an epoch visits the utterances."""
    order = np.random.default_rng([seed, epoch]).permutation(num_utterances)
    order.flags.writeable = False
    return order


def step_utterances(step: int, *, num_utterances: int, utterances_per_step: int, seed: int) -> list[int]:
    """Utterances of a step, counted from 0 over the whole run."""
    epoch, position = divmod(step, steps_per_epoch(num_utterances, utterances_per_step))
    order = epoch_order(num_utterances, seed=seed, epoch=epoch)
    return order[position * utterances_per_step : (position + 1) * utterances_per_step].tolist()


def divide(utterances: Sequence[int], lengths: Sequence[int], num_bins: int) -> list[list[int]]:
    """Utterances in bins of nearly equal total length: the longest first, each into the lightest bin."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [0] * num_bins
    for utterance in sorted(utterances, key=lambda u: (-lengths[u], u)):
        lightest = loads.index(min(loads))
        bins[lightest].append(utterance)
        loads[lightest] += lengths[utterance]
    return bins


def packs_of(utterances: Sequence[int], lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """As few packs of nearly equal length as keep each within `pack_tokens`, which no utterance alone may exceed."""
    fewest = math.ceil(sum(lengths[u] for u in utterances) / pack_tokens)
    for num_packs in range(fewest, len(utterances) + 1):
        packs = divide(utterances, lengths, num_packs)
        if all(sum(lengths[u] for u in pack) <= pack_tokens for pack in packs):
            return packs
    if not utterances:
        return []
    raise ValueError(f"an utterance of {max(lengths[u] for u in utterances)} tokens in packs of {pack_tokens}")


def fullest(lengths: Sequence[int], pack_tokens: int, most: int) -> list[int]:
    """The fullest pack there can be: the longest that fit, at most so many; of equal ones the first."""
    chosen, room = [], pack_tokens
    for utterance in sorted(range(len(lengths)), key=lambda u: (-lengths[u], u)):
        if len(chosen) < most and lengths[utterance] <= room:
            chosen.append(utterance)
            room -= lengths[utterance]
    return chosen


def packs_of_rank(
    utterances: Sequence[int], lengths: Sequence[int], *, rank: int, world_size: int, pack_tokens: int
) -> list[list[int]]:
    """A rank's packs of a step; none when the step has fewer utterances than there are ranks."""
    return packs_of(divide(utterances, lengths, world_size)[rank], lengths, pack_tokens)


def check_fit(ids: Sequence[str], lengths: Sequence[int], pack_tokens: int) -> None:
    """RecipeError when an utterance alone is longer than a pack may be."""
    longest = max(range(len(lengths)), key=lambda u: lengths[u])
    if lengths[longest] > pack_tokens:
        raise RecipeError(
            f"utterance '{ids[longest]}' has {lengths[longest]} tokens but train.pack_tokens is {pack_tokens}; "
            f"raise it to {lengths[longest]} or lower the longest duration that prepare keeps"
        )
