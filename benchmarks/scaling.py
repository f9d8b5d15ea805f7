"""Training speed on 1, 2 and 4 GPUs of one host: phases B and A in the 1.7B size, 64 utterances a GPU and step.

    python benchmarks/scaling.py --gpus 1 2 4 --seconds 20 --out scaling.json

A process a GPU, gradients summed over NCCL as in training. `--tiny` tries it over gloo without a GPU.
"""

import argparse
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from real_size import (
    Report,
    Stepper,
    audio_s,
    best_device,
    machine,
    mean_batches,
    new_model,
    new_pack,
    peak_gib,
    recipe_config,
    timed,
)

from shibolet.train.packing import divide

NUM_BATCHES = 3


def rank_main(rank: int, world_size: int, port: int, args: argparse.Namespace, answers) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world_size)
    try:
        for phase in recipe_config().phases:
            row = run(rank, world_size, phase, args)
            if rank == 0:
                answers.put({"phase": phase.name, **row})
    finally:
        dist.destroy_process_group()


def run(rank: int, world_size: int, phase, args: argparse.Namespace) -> dict:
    device = best_device(rank)
    model = new_model(device, args.tiny)
    stepper = Stepper(model, recipe_config(), phase)
    packs, batches = [], mean_batches(NUM_BATCHES, args.utterances * world_size, seed=1)
    for number, batch in enumerate(batches):
        mine = divide(range(len(batch)), [tokens for tokens, _, _ in batch], world_size)[rank]
        packs.append([new_pack(model, [batch[u] for u in mine], device, seed=number, cached=False)])

    def step(number: int) -> float:
        stepper(packs[number % NUM_BATCHES])
        return 0.0

    counted = timed(step, warm_up=5, seconds=0.0, most=6)  # every rank has to take the same number of steps
    length = torch.tensor(max(6, int(args.seconds / (sum(counted) / len(counted)))), device=device)
    dist.broadcast(length, 0)
    times = timed(step, warm_up=0, seconds=1e9, most=int(length))
    seconds = sum(audio_s(batches[n % NUM_BATCHES]) for n in range(len(times)))
    return {
        "gpus": world_size, "utterances": args.utterances * world_size, "steps": len(times), "peak_gib": peak_gib(),
        "audio_s_per_s": round(seconds / sum(times), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--utterances", type=int, default=64, help="of a GPU and step")
    parser.add_argument("--seconds", type=float, default=20.0)
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
            first = alone.setdefault(row["phase"], row["audio_s_per_s"] / row["gpus"])
            report.add(**row, speed_up=round(row["audio_s_per_s"] / first, 2))


if __name__ == "__main__":
    main()
