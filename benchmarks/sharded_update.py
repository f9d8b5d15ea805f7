"""Our sharded update beside torch's `fully_shard`: speed, memory, lines, and what a rank without memory does to others.

    python benchmarks/sharded_update.py --ranks 2

Processes over gloo on CPUs, a stack of linear layers of which the upper half trains, AdamW with clipping, float32.
JSON lines: seconds of a step (median of steps in turns), bytes that a rank holds of what trains (weights, moments,
gradients and room to send them), how far apart the two trainings are, and the lines of ours that each needs; then a
step in which one rank runs out of memory in its forward pass: whether the others go on, and after how long.
"""

import argparse
import inspect
import json
import os
import socket
import time
from datetime import timedelta
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from shibolet.train import exchange, shards
from shibolet.train.config import OptimizerConfig
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.update import Ran, update

LAYERS, DIM, ROWS, LR = 8, 512, 64, 1e-3
BLOCK_NUMEL = 1 << 20  # several blocks, as in a training of the real size
TIMEOUT_S = 8.0  # of a collective that nobody answers


def new_model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM)) for _ in range(LAYERS)]
    model = nn.Sequential(*layers)
    for layer in layers[: LAYERS // 2]:
        layer.requires_grad_(False)
    return model


def batch(step: int, rank: int) -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(100 * step + rank))


class Ours:
    """As a training does it: sums over ranks, each rank updates its share, all agree whether there was a step."""

    def __init__(self) -> None:
        self.model = new_model()
        shards.BLOCK_NUMEL = BLOCK_NUMEL
        weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.optimizer = MasterAdamW({"top": weights}, {"top": LR}, OptimizerConfig(weight_decay=0.01))
        self.optimizer.set_lr(1.0)

    def step(self, x: Tensor, *, fails: bool = False) -> bool:
        ran = Ran([])
        try:
            with self.optimizer.shards.early(is_last=True):
                loss = (forward(self.model, x, fails) ** 2).mean() / dist.get_world_size()
                loss.backward()
            ran.losses.append(loss.detach())
        except torch.OutOfMemoryError:
            ran = Ran([], failed_tokens=1)
        return update(self.optimizer, ran).done

    def held_bytes(self) -> int:
        """The weights' one tensor, moments, sums, the memory that gradients leave from, and gradients of a layer."""
        parts = self.optimizer.shards
        sent = {block.untyped_storage().data_ptr(): block.untyped_storage().nbytes() for block in parts._to_send}
        whole = parts._blocks[0].untyped_storage().nbytes()
        shares = sum(piece.stop - piece.start for piece in parts.pieces) * 4
        return whole + sum(sent.values()) + 2 * shares + sum(total.nbytes for total in parts._sums) + layer_bytes(self)

    def weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters() if weight.requires_grad}


class FullyShard:
    """torch's own: weights, gradients and moments in shares, gathered for a layer and kept until its backward pass."""

    def __init__(self) -> None:
        self.model = new_model()
        for layer in self.model[LAYERS // 2 :]:
            fully_shard(layer, reshard_after_forward=False)
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        groups = [
            {"params": [w for w in self.trained if (w.ndim >= 2) == decayed], "weight_decay": 0.01 * decayed}
            for decayed in (True, False)
        ]
        config = OptimizerConfig()
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=config.betas, eps=config.eps, fused=False)
        self.clip = config.max_grad_norm

    def step(self, x: Tensor, *, fails: bool = False) -> bool:
        loss = (forward(self.model, x, fails) ** 2).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.clip)
        if not bool(norm.full_tensor().isfinite()):
            return False
        self.optimizer.step()
        self.optimizer.zero_grad()
        return True

    def held_bytes(self) -> int:
        """Whole weights from the forward to the backward pass, shares, gradients and moments of shares."""
        own = sum(weight.to_local().nbytes for weight in self.trained)
        whole = sum(weight.nbytes for weight in self.trained)
        return whole + 4 * own + layer_bytes(self)

    def weights(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {name: weight.full_tensor().detach() for name, weight in named if weight.requires_grad}


def layer_bytes(one: Ours | FullyShard) -> int:
    """Of the gradients of a layer, whole, before they leave."""
    return max(sum(weight.nbytes for weight in layer.parameters()) for layer in one.model[LAYERS // 2 :])


def forward(model: nn.Sequential, x: Tensor, fails: bool) -> Tensor:
    """Of all layers; out of memory half-way where it is to fail."""
    for number, layer in enumerate(model):
        if fails and number == LAYERS - 1:
            raise torch.OutOfMemoryError("injected")
        x = x + layer(x)
    return x


def rank_main(rank: int, args: argparse.Namespace, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("gloo", rank=rank, world_size=args.ranks, timeout=timeout)
    both = {"ours": Ours(), "fully_shard": FullyShard()}
    times: dict[str, list[float]] = {name: [] for name in both}
    for number in range(args.steps):
        for name, one in both.items():
            dist.barrier()
            began = time.perf_counter()
            assert one.step(batch(number, rank))
            dist.barrier()
            times[name].append(time.perf_counter() - began)
    weights = both["ours"].weights()
    apart = max(float((theirs - weights[name]).norm() / weights[name].norm())
                for name, theirs in both["fully_shard"].weights().items())  # fmt: skip
    lines = {
        "ours": sum(len(inspect.getsource(module).splitlines()) for module in (shards, exchange)),
        "fully_shard": 1,
    }
    for name, one in both.items():
        told = {
            "update": name, "ranks": args.ranks, "step_ms": round(1000 * median(times[name][3:]), 1),
            "held_mib": round(one.held_bytes() / 2**20, 1), "lines": lines[name], "apart": apart,
        }  # fmt: skip
        if rank == 0:
            print(json.dumps(told), flush=True)
    for name, one in both.items():
        began, ended = time.perf_counter(), "goes on"
        try:
            one.step(batch(0, rank), fails=rank == args.ranks - 1)
            one.step(batch(1, rank))
        except torch.OutOfMemoryError:
            time.sleep(TIMEOUT_S + 4)  # alive, as a process is that handles the error
        except RuntimeError as error:
            ended = str(error).splitlines()[0][:80]
        if rank == 0:
            waited_s = round(time.perf_counter() - began, 1)
            print(json.dumps({"update": name, "other_rank": "out of memory", "this_rank": ended, "after_s": waited_s}))
    os._exit(0)  # what waits within a collective never ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=13)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    mp.spawn(rank_main, (args, port), nprocs=args.ranks)


if __name__ == "__main__":
    main()
