"""Random numbers of an utterance in an epoch: they follow from (seed, epoch, utterance id) and a stream, nothing else.

Each thing that is drawn has a stream of its own, so turning one on leaves the draws of all others alone.
"""

import hashlib
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Stream(IntEnum):
    """What is drawn; a number stands for the same for ever, or trainings that were cut off go on as others."""

    SPEED = 0
    NOISE = 1
    CODEC = 2
    SPEC = 3
    LOSS = 4  # of packets
    GIVEN = 5  # previous text, and timestamps
    CONTEXT = 6
    PAUSE = 7


def generator(seed: int, epoch: int, utterance_id: str, stream: Stream) -> np.random.Generator:
    """The numbers of one stream."""
    name = int.from_bytes(hashlib.sha256(utterance_id.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, epoch, name, int(stream)])


def seed_step(seed: int, step: int, rank: int, device: "torch.device") -> None:
    """Seed everything that torch draws within a step on a rank: as `torch.manual_seed`, on its device and the CPU.

    That looks for every other kind of device too, which takes the host a millisecond in each step.
    """
    import torch

    own = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(own)
        return
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(own)
