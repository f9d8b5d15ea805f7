"""Random numbers of an utterance in an epoch: they follow from (seed, epoch, utterance id) and a stream, nothing else.

Each thing that is drawn has a stream of its own, so turning one on leaves the draws of all others alone.
"""

import hashlib
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn; a number stands for the same for ever, or trainings that were cut off go on as others."""

    SPEED = 0
    NOISE = 1
    CODEC = 2
    SPEC = 3
    LOSS = 4  # of packets
    GIVEN = 5  # previous text, and timestamps
    CONTEXT = 6


def generator(seed: int, epoch: int, utterance_id: str, stream: Stream) -> np.random.Generator:
    """The numbers of one stream."""
    name = int.from_bytes(hashlib.sha256(utterance_id.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, epoch, name, int(stream)])


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of everything random within a step on a rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
