"""What the ranks of a training do together; with one rank, nothing.

Gradients are summed here and not by DDP: an out-of-memory error in the backward pass of one rank would leave the others
inside DDP's collectives for good. Here all ranks take part in the same calls, whatever became of their packs.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor, nn

_PATIENCE = timedelta(hours=1)  # of a rank for the others; one that dies is noticed by what started it
_LARGE_NUMEL = 1 << 20  # a weight of as many numbers is summed where it lies, smaller ones together: fewer calls
_PIECE_NUMEL = 1 << 25  # numbers summed at once, and kept for it at most

Item, Made = TypeVar("Item"), TypeVar("Made")


def join_ranks() -> PartialState:
    """This process among its ranks, as its environment says: device, index, number."""
    # Sums begin while the backward pass goes on: at its priority they would wait until its products leave room.
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


class GradientSum:
    """Adds gradients up over all ranks, in place, those of large weights while the backward pass makes others.

    Every rank makes the same calls in the same order, whatever became of its packs: one that lacks gradients takes part
    with memory of no meaning, and the sum is void. A rank that failed in here would leave the others waiting, so all
    memory is got beforehand.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        """`weights` in about the order in which a backward pass makes their gradients."""
        weights, self._is_alone = list(weights), not dist.is_initialized()
        self._large: list[nn.Parameter] = []
        self._small: list[list[nn.Parameter]] = [[]]  # summed together
        for weight in weights:
            if weight.numel() >= _LARGE_NUMEL:
                self._large.append(weight)
            elif _numel([*self._small[-1], weight]) > _PIECE_NUMEL:
                self._small.append([weight])
            else:
                self._small[-1].append(weight)
        self._arrived: set[int] = set()  # places in `_large`
        self._begun = 0  # so many of `_large` are being summed
        self._works: list[dist.Work] = []
        if not self._is_alone:
            longest = max(_PIECE_NUMEL if self._large else 0, *map(_numel, self._small))
            self._spare = weights[0].new_empty(longest)

    @contextmanager
    def early(self, is_last: bool) -> Iterator[None]:
        """Around a backward pass: in the last one of a step sums begin as soon as gradients are there."""
        weights = self._large if is_last and not self._is_alone else []
        arrivals = [partial(self._arrive, place) for place in range(len(weights))]
        hooks = [w.register_post_accumulate_grad_hook(a) for w, a in zip(weights, arrivals, strict=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _arrive(self, place: int, _: nn.Parameter) -> None:
        self._arrived.add(place)
        while self._begun in self._arrived:
            self._begin(self._large[self._begun].grad)

    def _begin(self, tensor: Tensor, *, void: bool = False) -> None:
        for piece in tensor.view(-1).split(_PIECE_NUMEL):
            piece = self._spare[: len(piece)] if void else piece
            self._works.append(dist.all_reduce(piece, async_op=True))
        self._begun += 1

    def finish(self, *, void: bool) -> None:
        """Sum what was not begun; afterwards gradients are sums over ranks. `void`: this rank lacks some."""
        if self._is_alone:
            return
        for weight in self._large[self._begun :]:
            self._begin(weight if void else weight.grad, void=void)
        for weights in self._small:
            together = self._spare[: _numel(weights)]
            totals = together.split([weight.numel() for weight in weights])
            gradients = [] if void else [weight.grad.view(-1) for weight in weights]
            if gradients:
                torch._foreach_copy_(totals, gradients)
            dist.all_reduce(together)
            if gradients:
                torch._foreach_copy_(gradients, totals)
        for work in self._works:
            work.wait()
        self._arrived.clear()
        self._begun, self._works = 0, []


def _numel(weights: Iterable[nn.Parameter]) -> int:
    return sum(weight.numel() for weight in weights)


def share_out(work: Callable[[Sequence[Item]], list[Made]], items: Sequence[Item]) -> list[Made]:
    """`work(items)`, one result an item in their order: each rank does a part, all have the whole."""
    ranks = PartialState()
    if ranks.num_processes == 1:
        return work(items)
    numbers = range(ranks.process_index, len(items), ranks.num_processes)
    made = work([items[number] for number in numbers])
    done = dict(gather_object(list(zip(numbers, made, strict=True))))
    return [done[number] for number in range(len(items))]
