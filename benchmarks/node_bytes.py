"""The bytes that cross between two nodes in a step's exchange, counted by the network's own counters, and the formula.

    python benchmarks/node_bytes.py --ranks 2                  # four GPUs of one machine as 2 nodes x 2, over NCCL
    python benchmarks/node_bytes.py --ranks 2 --netns --numbers 4000000   # CPUs over gloo; as root

NCCL takes processes of another NCCL_HOSTID for another machine: it goes to them by sockets of the loopback device, and
to those of its own by the GPUs' links, so the device's counter is the traffic between nodes. With --netns each node is
a network namespace, and the counters are those of the link between them. Gradients and weights of `--numbers` numbers
are exchanged as in a training (`train/exchange.py`), in two levels and between all ranks at once.

JSON lines: bytes that a node sends in a step, as counted and by the formula, seconds of the exchange here, and seconds
of these bytes at 100 and at 400 Gb/s. Of S bytes exchanged by R ranks on N nodes, a node sends 2 S (N - 1) / N in two
levels, and 2 S (R - 1) / R in a ring of all ranks; gloo, which sums by an all-reduce, half as much again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from shibolet.train import exchange, shards
from shibolet.train.config import OptimizerConfig
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.ranks import join_ranks, leave_ranks, levels
from shibolet.train.update import Ran, update

NODES, PIECES, STEPS, PORT = 2, 16, 6, 29571
SPACES, LINK, ADDRESSES = ("shibolet0", "shibolet1"), "shibolet", ("10.77.0.1", "10.77.0.2")
GBIT_S = (100, 400)


def sent_bytes(device: str) -> int:
    return int(Path(f"/sys/class/net/{device}/statistics/tx_bytes").read_text())


def measure(how: str, args: argparse.Namespace) -> dict:
    """Bytes and seconds of a step's exchange; on loopback the counter has what both nodes send."""
    levels_of = exchange.exchange_on
    shards.exchange_on = levels_of if how == "two levels" else lambda device: exchange.Flat()
    ranks = join_ranks()
    dtype = torch.bfloat16 if ranks.device.type == "cuda" else torch.float32
    if ranks.device.type == "cpu":
        shards.BLOCK_NUMEL = 1 << 20
    weights = {
        str(number): nn.Parameter(torch.zeros(args.numbers // PIECES, 1, dtype=dtype, device=ranks.device))
        for number in range(PIECES)
    }
    optimizer = MasterAdamW({"all": weights}, {"all": 1e-3}, OptimizerConfig())
    optimizer.set_lr(1.0)
    loss, times = torch.ones((), device=ranks.device), []
    device = f"{LINK}{os.environ['NODE']}" if args.netns else "lo"
    for number in range(STEPS + 2):
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier()
        if number == 2:
            before = sent_bytes(device)
        began = time.perf_counter()
        update(optimizer, Ran([loss]))
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier()
        times.append(time.perf_counter() - began)
    counted = (sent_bytes(device) - before) / STEPS / (1 if args.netns else NODES)
    exchanged = sum(len(block) for block in optimizer.shards._blocks) * dtype.itemsize
    parties = NODES if how == "two levels" else ranks.num_processes
    ways = 3 if dist.get_backend() == "gloo" else 2  # gloo's reduce-scatter is an all-reduce
    formula = ways * exchanged * (parties - 1) / parties
    shards.exchange_on = levels_of
    return {
        "how": how, "nodes": NODES, "ranks_of_a_node": args.ranks, "backend": dist.get_backend(),
        "exchanged_mib": round(exchanged / 2**20, 1), "node_sends_mib": round(counted / 2**20, 1),
        "formula_mib": round(formula / 2**20, 1), "counted_by_formula": round(counted / formula, 3),
        "step_s": round(median(times[2:]), 4),
        **{f"s_at_{rate}_gbit_s": round(8 * formula / rate / 1e9, 4) for rate in GBIT_S},
    }  # fmt: skip


def rank_main(local: int, args: argparse.Namespace) -> None:
    node = int(os.environ["NODE"])
    os.environ |= {
        "RANK": str(node * args.ranks + local), "LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(args.ranks),
        "WORLD_SIZE": str(NODES * args.ranks), "MASTER_PORT": str(PORT),
    }  # fmt: skip
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(node * args.ranks + gpu) for gpu in range(args.ranks))
    join_ranks()
    assert levels() is not None
    for how in ("two levels", "all at once"):
        told = measure(how, args)
        if os.environ["RANK"] == "0":
            print(json.dumps(told), flush=True)
    leave_ranks()


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


def start(args: argparse.Namespace) -> None:
    """Each node as a process, in a namespace of its own where that is asked for."""
    if args.netns:
        for space in SPACES:
            ip("netns", "add", space)
        ip(
            "link",
            "add",
            f"{LINK}0",
            "netns",
            SPACES[0],
            "type",
            "veth",
            "peer",
            "name",
            f"{LINK}1",
            "netns",
            SPACES[1],
        )
        for node, space in enumerate(SPACES):
            ip("-n", space, "addr", "add", f"{ADDRESSES[node]}/24", "dev", f"{LINK}{node}")
            for device in ("lo", f"{LINK}{node}"):
                ip("-n", space, "link", "set", device, "up")
    running = []
    for node in range(NODES):
        env = os.environ | {"NODE": str(node), "MASTER_ADDR": ADDRESSES[0] if args.netns else "127.0.0.1"}
        if args.netns:
            env |= {"GLOO_SOCKET_IFNAME": f"{LINK}{node}", "ACCELERATE_USE_CPU": "true"}
        else:
            env |= {"NCCL_HOSTID": f"node{node}", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
        space = ["ip", "netns", "exec", SPACES[node]] if args.netns else []
        command = [*space, sys.executable, __file__, *sys.argv[1:], "--as-node"]
        running.append(subprocess.Popen(command, env=env))
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit(f"nodes ended with {codes}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="of a node")
    parser.add_argument("--numbers", type=int, default=1_022_000_000, help="that train; of phase A in the 1.7B size")
    parser.add_argument("--netns", action="store_true", help="nodes are network namespaces, over gloo")
    parser.add_argument("--as-node", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_node:
        mp.spawn(rank_main, (args,), nprocs=args.ranks)
        return
    try:
        start(args)
    finally:
        if args.netns:
            for space in SPACES:
                subprocess.run(["ip", "netns", "del", space])


if __name__ == "__main__":
    main()
