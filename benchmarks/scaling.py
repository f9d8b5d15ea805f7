"""Training speed on 1, 2 and 4 GPUs of one host: phases B and A in the 1.7B size, 64 utterances a GPU and step.

    python benchmarks/scaling.py --gpus 1 2 4 --seconds 20 --out scaling.json

A process a GPU, gradients summed over NCCL as in training. `--sums early late none` also sums them after the backward
pass, and not at all: what unequal GPUs and one host for all of them cost. `--tiny` tries it over gloo without a GPU.
"""

import argparse
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.multiprocessing as mp
from accelerate import PartialState
from real_size import (
    Report,
    Stepper,
    audio_s,
    machine,
    mean_batches,
    new_model,
    new_pack,
    peak_gib,
    recipe_config,
    timed,
)

from shibolet.train.config import PhaseConfig
from shibolet.train.packing import divide
from shibolet.train.ranks import GradientSum, gather_rows, join_ranks

NUM_BATCHES = 3


def rank_main(rank: int, world_size: int, port: int, args: argparse.Namespace, answers) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    ranks = join_ranks()
    for phase in recipe_config().phases:
        for row in run(ranks, phase, args):
            if rank == 0:
                answers.put({"phase": phase.name, **row})
    ranks.destroy_process_group()


class LateSum(GradientSum):
    """All of it after the backward pass."""

    def early(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext()


class NoSum(LateSum):
    """Ranks wait for each other once a step and share nothing."""

    def finish(self, *, void: bool) -> None:
        pass


SUMS = {"early": GradientSum, "late": LateSum, "none": NoSum}


def run(ranks: PartialState, phase: PhaseConfig, args: argparse.Namespace) -> Iterator[dict]:
    world_size, device = ranks.num_processes, ranks.device
    model = new_model(device, args.tiny)
    stepper = Stepper(model, recipe_config(), phase)
    packs, batches = [], mean_batches(NUM_BATCHES, args.utterances * world_size, seed=1)
    for number, batch in enumerate(batches):
        mine = divide(range(len(batch)), [tokens for tokens, _, _ in batch], world_size)[ranks.process_index]
        packs.append([new_pack(model, [batch[u] for u in mine], device, seed=number, cached=False)])

    def step(number: int) -> float:
        stepper(packs[number % NUM_BATCHES])
        return 0.0

    for how in args.sums:
        stepper.optimizer.sum = SUMS[how](reversed(stepper.optimizer.weights.values()))
        counted = timed(step, warm_up=5, seconds=0.0, most=6)  # every rank has to take the same number of steps
        enough = torch.tensor([args.seconds / (sum(counted) / len(counted))], device=device)
        times = timed(step, warm_up=0, seconds=1e9, most=max(6, int(gather_rows(enough).max())))
        seconds = sum(audio_s(batches[n % NUM_BATCHES]) for n in range(len(times)))
        yield {
            "gpus": world_size, "sums": how, "utterances": args.utterances * world_size, "steps": len(times),
            "peak_gib": peak_gib(), "audio_s_per_s": round(seconds / sum(times), 1),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--utterances", type=int, default=64, help="of a GPU and step")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--sums", nargs="+", default=["early"], choices=SUMS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report, alone = Report(args.out), {}
    report.add(**machine())
    for world_size in args.gpus:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        answers = mp.get_context("spawn").SimpleQueue()
        try:
            mp.spawn(rank_main, (world_size, port, args, answers), nprocs=world_size)
        except Exception as error:  # the other numbers of GPUs still run
            report.add(gpus=world_size, error=f"{type(error).__name__}: {str(error)[-800:]}")
        while not answers.empty():
            row = answers.get()
            first = alone.setdefault(row["phase"], row["audio_s_per_s"] / row["gpus"])  # of the first of `--gpus`
            report.add(**row, speed_up=round(row["audio_s_per_s"] / first, 2))


if __name__ == "__main__":
    main()
