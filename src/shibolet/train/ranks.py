"""What the ranks of a training do together; with one rank, nothing."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor

_PATIENCE = timedelta(hours=1)  # of a rank for the others; one that dies is noticed by what started it

Item, Made = TypeVar("Item"), TypeVar("Made")


def join_ranks() -> PartialState:
    """This process among its ranks, as its environment says: device, index, number."""
    # Gradients move while the backward pass goes on: at its priority they would wait until its products leave room.
    os.environ.setdefault("TORCH_NCCL_HIGH_PRIORITY", "1")
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


def share_out(work: Callable[[Sequence[Item]], list[Made]], items: Sequence[Item]) -> list[Made]:
    """`work(items)`, one result an item in their order: each rank does a part, all have the whole."""
    ranks = PartialState()
    if ranks.num_processes == 1:
        return work(items)
    numbers = range(ranks.process_index, len(items), ranks.num_processes)
    made = work([items[number] for number in numbers])
    done = dict(gather_object(list(zip(numbers, made, strict=True))))
    return [done[number] for number in range(len(items))]
