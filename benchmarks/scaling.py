"""Training speed on 1, 2 and 4 GPUs of one host: phases B and A in the 1.7B size, 64 utterances a GPU and step.

    python benchmarks/scaling.py --gpus 1 2 4 --seconds 20 --out scaling.json

A process a GPU, each updating its share, gradients and weights exchanged as in training. `--exchange training late
none` also exchanges all gradients after the backward pass, and nothing at all: what unequal GPUs and one host for all
of them cost; `--launches single graphs` also launches layers one by one. A rate is the median of turns; where the host
waits for the device for next to nothing, the host is what was measured. `--tiny` tries it over gloo without a GPU.
"""

import argparse
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median

import torch
import torch.multiprocessing as mp
from accelerate import PartialState
from real_size import (
    Report,
    Stepper,
    audio_s,
    free,
    launch_layers,
    machine,
    mean_batches,
    new_model,
    new_pack,
    peak_gib,
    recipe_config,
    timed,
)

from shibolet.train import shards
from shibolet.train.config import PhaseConfig
from shibolet.train.packing import divide
from shibolet.train.ranks import gather_rows, join_ranks
from shibolet.train.shards import Shards

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
        free()
    ranks.destroy_process_group()


class Late(Shards):
    """All gradients after the backward pass."""

    def early(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext()


class Nothing(Late):
    """Ranks wait for each other once a step, update their shares and exchange nothing."""

    def finish(self, *, void: bool) -> None:
        pass

    def spread(self, blocks: range) -> None:
        pass


EXCHANGES = {"training": Shards, "late": Late, "none": Nothing}


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

    exchanges = args.exchange if world_size > 1 else ["one GPU"]
    found = {(how, launched): [] for launched in args.launches for how in exchanges}
    for _ in range(args.turns):
        for (how, launched), rows in found.items():
            shards.Shards = EXCHANGES.get(how, Shards)
            launch_layers(launched)
            stepper.optimizer = stepper.new_optimizer(stepper.optimizer)
            stepper.optimizer.set_lr(1e-3)
            free()  # peaks begin anew
            counted = timed(step, warm_up=3 * NUM_BATCHES, seconds=0.0, most=3)
            enough = torch.tensor([args.seconds / args.turns / (sum(counted) / len(counted))], device=device)
            most = max(NUM_BATCHES, int(gather_rows(enough).max()))  # the same on every rank
            waited_s = stepper.waited_s
            times = timed(step, warm_up=0, seconds=1e9, most=most)
            seconds = sum(audio_s(batches[number % NUM_BATCHES]) for number in range(most))
            rows.append((seconds / sum(times), (stepper.waited_s - waited_s) / most, peak_gib()))
    for (how, launched), rows in found.items():
        rates, waits_s, peaks = zip(*rows, strict=True)
        yield {
            "gpus": world_size, "exchange": how, "launches": launched,
            "utterances": args.utterances * world_size, "peak_gib": peaks[-1],
            "audio_s_per_s": round(median(rates), 1), "turns": [round(rate) for rate in rates],
            "host_waits_ms": [round(1000 * wait_s, 1) for wait_s in waits_s],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--utterances", type=int, default=64, help="of a GPU and step")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a row, in all its turns")
    parser.add_argument("--turns", type=int, default=4, help="of each row; rows of as many GPUs take turns")
    parser.add_argument("--exchange", nargs="+", default=["training"], choices=EXCHANGES)
    parser.add_argument("--launches", nargs="+", default=["graphs"], choices=("graphs", "single"), help="of layers")
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
