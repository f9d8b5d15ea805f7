"""A training as several ranks, each in a process of its own, over gloo or NCCL; for test_ranks and test_two_gpus."""

import faulthandler
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from killed import PREEMPTED, at_call, dev_score
from tiny_run import tiny_config
from torch import Tensor

from shibolet.errors import Preempted
from shibolet.model import weights
from shibolet.train import shards, stage
from shibolet.train.config import LoraSettings, Replay, TrainConfig
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.ranks import join_ranks, leave_ranks
from shibolet.train.shards import Shards
from shibolet.train.trainer import GradualUnfreezeTrainer

CONFIG = tiny_config(lora=LoraSettings(part="decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0))
FAILING = {
    "forward": (Transcribe, "loss"),
    "backward": (Shards, "_arrive"),  # sums of the gradients before it have begun
}
FORK = multiprocessing.get_context("forkserver")
SHARD_SIZE = "1MB"  # on CPUs, of the result
BLOCK_NUMEL = 4_096  # on CPUs: several weights in a block, and weights in several blocks


def train(
    world_size: int, base: Path, prepared: Path, out: Path, config: TrainConfig = CONFIG, *, terminate_at: int = 0,
    failing: Mapping[str, int] | None = None, on_cpu: bool = True, within_s: float = 180.0,
    replay: Replay | None = None, teacher: Path | None = None, num_nodes: int = 1,
) -> list[int]:  # fmt: skip
    """Train as `world_size` ranks on so many nodes; their exit codes. Ranks that hang say where, and are killed.

    The last rank gets a SIGTERM before it ends step `terminate_at` (0: never), and runs out of memory in calls of
    functions of `FAILING`, each given by its number from 1.
    """
    out.mkdir(exist_ok=True)
    port = free_port()
    sizes = world_size, world_size // num_nodes
    job = (sizes, port, base, prepared, out, config, terminate_at, failing or {}, on_cpu, replay, teacher)
    processes = [FORK.Process(target=_train_as_rank, args=(rank, *job)) for rank in range(world_size)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + within_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    hanging = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for rank in hanging:
        os.kill(processes[rank].pid, signal.SIGABRT)  # faulthandler writes its stacks
        processes[rank].join(5)
        processes[rank].kill()
    assert not hanging, f"ranks {hanging} have not ended in {within_s:.0f} s"
    return [process.exitcode for process in processes]


def phases(out: Path, rank: int) -> list[dict]:
    """A rank at the end of each phase: its backend and device, and a hash of its weights, masters and moments.

    And of how many blocks the sum over ranks began within a backward pass.
    """
    return [json.loads(line) for line in (out / f"rank{rank}.jsonl").read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def failing_at(function: Callable, *numbers: int) -> Callable:
    """The function, out of memory in its calls `numbers` (from 1)."""
    calls = itertools.count(1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) in numbers:
            raise torch.OutOfMemoryError("injected")
        return function(*args, **kwargs)

    return wrapped


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _train_as_rank(
    rank: int, sizes: tuple[int, int], port: int, base: Path, prepared: Path, out: Path, config: TrainConfig,
    terminate_at: int, failing: Mapping[str, int], on_cpu: bool, replay: Replay | None, teacher: Path | None,
) -> None:  # fmt: skip
    faulthandler.enable()
    world_size, num_of_node = sizes
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank % num_of_node), "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(num_of_node),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **({"ACCELERATE_USE_CPU": "true"} if on_cpu else {}),
    }  # fmt: skip
    torch.set_num_threads(1)
    run_phase, begun = GradualUnfreezeTrainer._run_phase, set()

    def hashed(self: GradualUnfreezeTrainer, *args):
        optimizer = run_phase(self, *args)
        held = [tensor for name in sorted(optimizer.weights) for _, tensor in optimizer.state(name)]
        digest = _digest([*self.model.parameters(), *held])
        joined = join_ranks()
        with (out / f"rank{rank}.jsonl").open("a") as file:
            line = {
                "backend": joined.backend, "device": str(joined.device), "num_held": len(held), "digest": digest,
                "begun_early": max(begun, default=0),
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")
        return optimizer

    GradualUnfreezeTrainer._run_phase = hashed
    if terminate_at and rank == world_size - 1:
        after_step = GradualUnfreezeTrainer._after_step
        GradualUnfreezeTrainer._after_step = at_call(after_step, terminate_at, signal.SIGTERM)
    for name, number in failing.items():
        if rank == world_size - 1:
            owner, method = FAILING[name]
            setattr(owner, method, failing_at(getattr(owner, method), number))
    if on_cpu:
        shards.BLOCK_NUMEL = BLOCK_NUMEL
        weights.SHARD_SIZE = SHARD_SIZE
    finish = Shards.finish

    def counted(self: Shards, **kwargs):
        begun.add(len(self._works))
        finish(self, **kwargs)

    Shards.finish = counted
    try:
        stage.run_train(
            prepared_dir=prepared, out_dir=out, base=str(base), config=config, language="Hebrew", seed=5,
            score_dev=dev_score, about={}, num_threads=1, replay=replay, teacher=teacher and str(teacher),
        )  # fmt: skip
    except Preempted:
        os._exit(PREEMPTED)
    leave_ranks()
