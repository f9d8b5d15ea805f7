"""A training in a process of its own that kills itself (SIGKILL) where it is told to; for test_resume and test_ranks.

Nothing in the program knows of it: the kill hangs on a function that the program calls.
"""

import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tiny_run import PHASE_A, PHASE_B, tiny_config

from shibolet.errors import Preempted
from shibolet.model import weights
from shibolet.model.family import LoadedModel
from shibolet.records.documents.training import DevRates
from shibolet.train import checkpoint, stage
from shibolet.train.config import AugmentConfig, CodecConfig, NoiseConfig, PhaseConfig, SpecAugmentConfig

PREEMPTED = 75
CONFIG = tiny_config(
    phases=(
        PhaseConfig(name="B", num_epochs=1, lr_by_part=PHASE_B, warmup_steps=2),
        # the head is frozen again: its trained weights have to survive without an optimizer
        PhaseConfig(name="A", num_epochs=1.5, lr_by_part={p: lr for p, lr in PHASE_A.items() if p != "head"}),
    ),
    eval_every_steps=4,  # and at 0, 3, 6 and 8: before the first step, after both epochs, at the end
    augment=AugmentConfig(
        speeds=(0.9, 1.1),
        noise=NoiseConfig(share=0.5, kinds=("white",)),
        codec=CodecConfig(share=0.5, channels=("opus", "telephone")),
        spec_augment=SpecAugmentConfig(),
    ),
)


def at_call(function: Callable, number: int, kill: signal.Signals) -> Callable:
    """The function, with a signal to this process before its call `number` (from 1)."""
    calls = count(1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), kill)
        return function(*args, **kwargs)

    return wrapped


def dev_score(loaded: LoadedModel, when: str) -> DevRates:
    """A number that depends on the weights; a teacher is better than all."""
    if when == "of the teacher":
        return DevRates(wer=0.0, cer=0.0)
    return DevRates(wer=float(loaded.model.lm_head.weight.abs().mean()), cer=0.5)


def train(base: Path, prepared: Path, out: Path, at: tuple[str, int] | None, kill: int = signal.SIGKILL) -> None:
    """Train; `at` says before which call to kill: ("step", 3), ("file", 2) ..., counted within this process."""
    torch.set_num_threads(1)
    # The server that this process is a copy of is deaf where a test of the reader started it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    kill = signal.Signals(kill)
    on_step = None
    if at is not None:
        where, number = at
        if where == "step":
            on_step = at_call(lambda row: None, number, kill)
        elif where == "replace":
            checkpoint.os.replace = at_call(os.replace, number, kill)
        elif where == "file":
            weights._write = at_call(weights._write, number, kill)
        elif where == "write_final":
            stage.write_final = at_call(stage.write_final, number, kill)
        else:
            setattr(checkpoint, where, at_call(getattr(checkpoint, where), number, kill))
    try:
        stage.run_train(
            prepared_dir=prepared, out_dir=out, base=str(base), config=CONFIG, language="Hebrew", seed=5,
            score_dev=dev_score, about={}, num_threads=1, on_step=on_step,
        )  # fmt: skip
    except Preempted:
        os._exit(PREEMPTED)
