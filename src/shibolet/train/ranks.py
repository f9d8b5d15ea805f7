"""What the ranks of a training do together; with one rank, nothing.

Gradients are summed here and not by DDP: an out-of-memory error in the backward pass of one rank would leave the others
inside DDP's collectives for good. Here every rank runs its packs alone, and then all take part in the same calls,
whatever became of the packs.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor, nn

_PATIENCE = timedelta(hours=1)  # of a rank for the others; one that dies is noticed by what started it
_BUCKET_NUMEL = 1 << 26  # 128 MB of bf16, kept for all sums, instead of a second copy of all gradients

Item, Made = TypeVar("Item"), TypeVar("Made")


def join_ranks() -> PartialState:
    """This process among its ranks, as its environment says: device, index, number."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.cuda.is_available())
    return PartialState(cpu=on_cpu, timeout=_PATIENCE)


def gather_rows(values: Tensor) -> Tensor:
    """`values` `[N]` of every rank, `[ranks, N]`, the same on each."""
    if not dist.is_initialized():
        return values[None]
    rows = values.new_empty(dist.get_world_size(), len(values))
    dist.all_gather(list(rows.unbind()), values)
    return rows


def any_rank(flag: bool) -> bool:
    """Whether any rank says so; every rank waits for the others."""
    return bool(gather_rows(torch.tensor([float(flag)], device=PartialState().device)).any())


def new_bucket(weights: Iterable[nn.Parameter]) -> Tensor | None:
    """The memory that `sum_gradients` works in; None where there is one rank."""
    if not dist.is_initialized():
        return None
    weights = list(weights)
    return weights[0].new_empty(min(_BUCKET_NUMEL, sum(weight.numel() for weight in weights)))


def sum_gradients(weights: Iterable[nn.Parameter], bucket: Tensor | None) -> None:
    """Add each gradient up over all ranks, in place; a rank that failed in here would leave the others waiting.

    So nothing is allocated, and a rank that lacks gradients takes part with what lies in the bucket: the sum is void.
    """
    if not dist.is_initialized():
        return
    weights = list(weights)
    complete = all(weight.grad is not None for weight in weights)
    half = _BUCKET_NUMEL // 2  # pieces of at most that, and ends within the same half: no bucket overflows
    tensors = [weight.grad if complete else weight.detach() for weight in weights]  # else for their sizes
    pieces = [piece for tensor in tensors for piece in tensor.view(-1).split(half)]
    ends = itertools.accumulate(len(piece) for piece in pieces)
    for _, group in itertools.groupby(zip(pieces, ends, strict=True), key=lambda item: item[1] // half):
        gradients = [piece for piece, _ in group]
        flat = bucket[: sum(len(piece) for piece in gradients)]
        totals = flat.split([len(piece) for piece in gradients])
        if complete:
            torch._foreach_copy_(totals, gradients)
        dist.all_reduce(flat)
        if complete:
            torch._foreach_copy_(gradients, totals)


def share_out(work: Callable[[Sequence[Item]], list[Made]], items: Sequence[Item]) -> list[Made]:
    """`work(items)`, one result an item in their order: each rank does a part, all have the whole."""
    ranks = PartialState()
    if ranks.num_processes == 1:
        return work(items)
    numbers = range(ranks.process_index, len(items), ranks.num_processes)
    made = work([items[number] for number in numbers])
    done = dict(gather_object(list(zip(numbers, made, strict=True))))
    return [done[number] for number in range(len(items))]
