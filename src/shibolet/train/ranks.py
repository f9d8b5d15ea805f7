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

from shibolet.errors import ShiboletError
from shibolet.records.files import disk_errors

_PATIENCE = timedelta(hours=1)  # of a rank for the others; one that dies is noticed by what started it
_IDLE_PATIENCE = timedelta(days=7)  # of ranks that have nothing to do until the main one has heard and prepared

Item, Made = TypeVar("Item"), TypeVar("Made")

_idle: dist.ProcessGroup | None = None


def join_ranks() -> PartialState:
    """This process among its ranks, as its environment says: device, index, number."""
    # Gradients move while the backward pass goes on: at its priority they would wait until its products leave room.
    os.environ.setdefault("TORCH_NCCL_HIGH_PRIORITY", "1")
    global _idle
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.cuda.is_available())
    ranks = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    if dist.is_initialized() and _idle is None:
        _idle = dist.new_group(backend="gloo", timeout=_IDLE_PATIENCE)  # who waits in NCCL keeps a core and a GPU busy
    return ranks


def leave_ranks() -> None:
    """The end of it, once nobody waits for this process any more."""
    global _idle
    if dist.is_initialized():
        dist.destroy_process_group()
    _idle = None


def gather_rows(values: Tensor) -> Tensor:
    """`values` `[N]` of every rank, `[ranks, N]`, the same on each."""
    if not dist.is_initialized():
        return values[None]
    rows = values.new_empty(dist.get_world_size(), len(values))
    dist.all_gather(list(rows.unbind()), values)
    return rows


def any_rank(flag: bool) -> bool:
    """Whether any rank says so; every rank waits for the others, and is idle meanwhile."""
    if not dist.is_initialized():
        return flag
    said = torch.tensor(int(flag))
    dist.all_reduce(said, dist.ReduceOp.MAX, group=_idle)
    return bool(said)


def from_main(value: Made) -> Made:
    """The main rank's value, on every rank; the others are idle until it is there."""
    if not dist.is_initialized():
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, group=_idle, device=torch.device("cpu"))
    return held[0]


def by_main(work: Callable[[], None]) -> None:
    """Have the main rank do something while the others are idle; an error of ours there is raised on every rank."""
    failure = None
    if PartialState().is_main_process:
        try:
            with disk_errors():
                work()
        except ShiboletError as error:
            failure = error
    if told := from_main(failure):
        raise failure or told


def share_out(work: Callable[[Sequence[Item]], list[Made]], items: Sequence[Item]) -> list[Made]:
    """`work(items)`, one result an item in their order: each rank does a part, all have the whole."""
    ranks = PartialState()
    if ranks.num_processes == 1:
        return work(items)
    numbers = range(ranks.process_index, len(items), ranks.num_processes)
    made = work([items[number] for number in numbers])
    done = dict(gather_object(list(zip(numbers, made, strict=True))))
    return [done[number] for number in range(len(items))]
