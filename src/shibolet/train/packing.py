"""Which utterances make a step, which rank takes them, and in which packs: pure functions of lengths and a seed.

A step is the same utterances whatever the hardware; ranks and memory only decide how they are divided.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from shibolet.errors import RecipeError


def steps_per_epoch(num_utterances: int, utterances_per_step: int) -> int:
    """Steps in which every utterance is seen once; the last one takes what is left."""
    return math.ceil(num_utterances / utterances_per_step)


@lru_cache(maxsize=4)  # a step asks for it several times, and who reads ahead for the next epoch's
def epoch_order(num_utterances: int, *, seed: int, epoch: int, of: tuple[int, ...] = ()) -> np.ndarray:
    """The permutation in which an epoch visits the utterances; `of` tells one from others of the same seed."""
    order = np.random.default_rng([seed, epoch, *of]).permutation(num_utterances)
    order.flags.writeable = False
    return order


def step_utterances(step: int, *, num_utterances: int, utterances_per_step: int, seed: int) -> list[int]:
    """Utterances of a step, counted from 0 over the whole run."""
    epoch, position = divmod(step, steps_per_epoch(num_utterances, utterances_per_step))
    order = epoch_order(num_utterances, seed=seed, epoch=epoch)
    return order[position * utterances_per_step : (position + 1) * utterances_per_step].tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Which of a list of utterances make each step: the training's own stand first, then those that are replayed.

    An epoch is one pass of its own. Each step has `replayed_per_step` of the others too, and the last of an epoch,
    which takes what is left, as many as keep their share, at least one. They come in passes of their own, each in
    another order, that know no epochs.
    """

    num_own: int
    utterances_per_step: int  # the replayed ones among them
    seed: int
    num_replayed: int = 0
    replayed_per_step: int = 0  # less than `utterances_per_step`

    @property
    def own_per_step(self) -> int:
        return self.utterances_per_step - self.replayed_per_step

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.num_own, self.own_per_step)

    def utterances(self, step: int) -> list[int]:
        """Places in the list of a step's utterances; the step is counted from 0 over the whole run."""
        own = step_utterances(step, num_utterances=self.num_own, utterances_per_step=self.own_per_step, seed=self.seed)
        return own + [self.num_own + self._replayed(turn) for turn in self._turns(step)]

    def _turns(self, step: int) -> range:
        """The turns of a step among all replayed utterances of the run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        before = epoch * self._turns_after(self.num_own)
        seen = [min(self.num_own, place * self.own_per_step) for place in (position, position + 1)]
        return range(*(before + self._turns_after(num) for num in seen))

    def _turns_after(self, num_own: int) -> int:
        """How many are replayed beside so many of the training's own from the beginning of an epoch."""
        return -(-num_own * self.replayed_per_step // self.own_per_step)

    def _replayed(self, turn: int) -> int:
        number, place = divmod(turn, self.num_replayed)
        return int(epoch_order(self.num_replayed, seed=self.seed, epoch=number, of=(1,))[place])


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
    for utterance in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if len(chosen) == most:
            break
        if lengths[utterance] <= room:
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
