"""One rank of a training over gloo, in a process of its own; for test_ranks."""

import hashlib
import itertools
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from killed import PREEMPTED, at_call, dev_score
from tiny_run import tiny_config

from shibolet.errors import Preempted
from shibolet.train import stage
from shibolet.train.config import LoraSettings, TrainConfig
from shibolet.train.trainer import GradualUnfreezeTrainer, PackedLoss

CONFIG = tiny_config(lora=LoraSettings(part="decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0))


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def failing_at(function: Callable, number: int) -> Callable:
    """The function, out of memory in its call `number` (from 1)."""
    calls = itertools.count(1)

    def wrapped(*args: Any) -> Any:
        if next(calls) == number:
            raise torch.OutOfMemoryError("injected")
        return function(*args)

    return wrapped


def train(
    rank: int, world_size: int, port: int, base: Path, prepared: Path, out: Path, config: TrainConfig,
    terminate_at: int, out_of_memory_at: int,
) -> None:  # fmt: skip
    """Train as one of `world_size` ranks.

    The last rank gets a SIGTERM before it ends step `terminate_at`, and runs out of memory in its pack
    `out_of_memory_at` (0: never). A hash of all weights after each phase goes to `out/rank<rank>`.
    """
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    run_phase = GradualUnfreezeTrainer._run_phase

    def hashed(self: GradualUnfreezeTrainer, *args):
        carried = run_phase(self, *args)
        digest = hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in self.model.parameters()))
        with (out / f"rank{rank}").open("a") as file:
            file.write(digest.hexdigest() + "\n")
        return carried

    GradualUnfreezeTrainer._run_phase = hashed
    if terminate_at and rank == world_size - 1:
        after_step = GradualUnfreezeTrainer._after_step
        GradualUnfreezeTrainer._after_step = at_call(after_step, terminate_at, signal.SIGTERM)
    if out_of_memory_at and rank == world_size - 1:
        PackedLoss.forward = failing_at(PackedLoss.forward, out_of_memory_at)
    try:
        stage.run_train(
            prepared_dir=prepared, out_dir=out, base=str(base), config=config, language="Hebrew", seed=5,
            score_dev=dev_score, about={}, num_threads=1,
        )  # fmt: skip
    except Preempted:
        os._exit(PREEMPTED)
