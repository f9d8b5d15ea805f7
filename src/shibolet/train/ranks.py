"""What the ranks of a training do together; with one rank, nothing."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor

from shibolet.errors import DataError, ShiboletError
from shibolet.records.differences import differing, first
from shibolet.records.files import disk_errors
from shibolet.train.nodes import Heartbeat, this_node

_PATIENCE = timedelta(hours=1)  # of a rank for the others; one that dies is noticed by what started it
IDLE_PATIENCE = timedelta(days=7)  # of ranks that have nothing to do until the main one has heard and prepared

Item, Made = TypeVar("Item"), TypeVar("Made")

_idle: dist.ProcessGroup | None = None
_levels: tuple[dist.ProcessGroup, dist.ProcessGroup] | None = None
_heartbeat: Heartbeat | None = None


def join_ranks() -> PartialState:
    """This process among its ranks, as its environment says: device, index, number."""
    # Gradients move while the backward pass goes on: at its priority they would wait until its products leave room.
    os.environ.setdefault("TORCH_NCCL_HIGH_PRIORITY", "1")
    global _idle, _levels, _heartbeat
    node = this_node()
    if node.count > 1 and _heartbeat is None:
        _heartbeat = Heartbeat(node)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.cuda.is_available())
    ranks = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    if dist.is_initialized() and _idle is None:
        _idle = dist.new_group(backend="gloo", timeout=IDLE_PATIENCE)  # who waits in NCCL keeps a core and a GPU busy
        if node.count > 1 and node.num_ranks > 1:
            _levels = _two_levels(node.count, node.num_ranks)
    return ranks


def _two_levels(num_nodes: int, num_ranks: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """Of this rank: those of its node, and those that have its place on the other nodes."""
    nodes = [list(range(first, first + num_ranks)) for first in range(0, num_nodes * num_ranks, num_ranks)]
    within, _ = dist.new_subgroups_by_enumeration(nodes, timeout=_PATIENCE)
    across, _ = dist.new_subgroups_by_enumeration([list(ranks) for ranks in zip(*nodes)], timeout=_PATIENCE)
    return within, across


def levels() -> tuple[dist.ProcessGroup, dist.ProcessGroup] | None:
    """Where nodes have several ranks each: the ranks of this node, and those of this rank's place on every node."""
    return _levels


def leave_ranks() -> None:
    """The end of it, once nobody waits for this process any more."""
    global _idle, _levels, _heartbeat
    if _heartbeat is not None:
        _heartbeat.stop()
        any_rank(False)  # nobody goes while another one still listens
    if dist.is_initialized():
        dist.destroy_process_group()
    _idle = _levels = _heartbeat = None


def await_loss(error: Exception) -> None:
    """Where a node was lost, wait to be ended with a sentence that says so; return where it is another failure."""
    if _heartbeat is not None and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        _heartbeat.await_loss()


def require_same(made: Mapping[str, str]) -> None:
    """DataError on every rank where the hashes of one differ from the main rank's."""
    expected = from_main(made)
    for rank, own in enumerate(of_all(made)):
        if names := differing(expected, own):
            raise DataError(
                f"rank {rank} trains with another {first(names)} than the main rank; every node needs the same model, "
                "recipe, packages and version of shibolet"
            )


def of_all(value: Made) -> list[Made]:
    """The value of every rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    found = [value] * dist.get_world_size()
    dist.all_gather_object(found, value, group=_idle)
    return found


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
