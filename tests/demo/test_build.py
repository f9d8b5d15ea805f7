"""Training the tiny checkpoints from nothing, for a few steps: each task learns, and what listens has heard rooms."""

import random

import numpy as np
import pytest
import torch

from shibolet.demo import tiny
from shibolet.demo.build import Clip, CtcTask, QwenTask, for_listeners

WORDS = ("שלום", "עולם")
FEATURES = {"round1": (128, 90), "aligner": (128, 90), "ctc": (45, 160)}  # shape of a clip's


@pytest.mark.parametrize("name", FEATURES)
def test_both_losses_fall_on_the_same_batch(name: str) -> None:
    rng = np.random.default_rng(1)
    clips = [
        Clip(rng.standard_normal(FEATURES[name]).astype(np.float16), words, ((0.1, 0.4), (0.4, 0.8)))
        for words in (WORDS, WORDS[::-1])
    ]
    task = CtcTask(1, "cpu") if name == "ctc" else QwenTask(name, tiny.train_tokenizer([" ".join(WORDS)] * 5), 1, "cpu")
    optimizer, losses = torch.optim.AdamW(task.parameters(), lr=1e-3), []
    for _ in range(8):
        main, auxiliary = task.losses(task.collate(clips, random.Random(0)))
        losses.append((main.item(), auxiliary.item()))
        optimizer.zero_grad()
        (main + auxiliary).backward()
        optimizer.step()
    (first, first_auxiliary), (last, last_auxiliary) = losses[0], losses[-1]
    assert last < first
    assert name == "ctc" or last_auxiliary < first_auxiliary


def test_listeners_hear_every_condition_at_the_same_length() -> None:
    rng = np.random.default_rng(2)
    samples = np.concatenate([0.1 * rng.standard_normal(8000), np.zeros(8000)]).astype(np.float32)
    heard = [for_listeners(samples, rng) for _ in range(60)]
    assert {len(x) for x in heard} == {len(samples)}
    rings = sum(np.std(x[8000:9600]) > 3 * np.std(x[-1600:]) for x in heard)  # the end of speech in a room
    at_limit = sum(np.mean(np.abs(x) >= 0.999 * np.abs(x).max()) > 5e-4 for x in heard)
    assert 10 < rings < 50 and 3 < at_limit < 30
