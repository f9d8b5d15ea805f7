"""From the gradients of the ranks' packs to new weights, and the numbers that the host gets to know.

The host waits for the numbers and not for the update: that runs on while the host prepares the next step. So the device
decides whether there is one: not where a rank ran out of memory, nor where loss or gradients are not finite.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shibolet.train.objective import PackLoss
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.ranks import gather_rows


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of this rank's packs of a step, one entry a pack."""

    losses: list[Tensor]  # summed, not divided
    numbers: Mapping[str, list[Tensor]] = field(default_factory=dict)  # by name, the same names on every rank
    failed_tokens: int = 0  # of the pack that memory did not hold; 0: all were held

    def add(self, found: PackLoss) -> None:
        self.losses.append(found.total.detach())
        for name, values in self.numbers.items():
            values.append(found.numbers[name].detach())


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What became of a step, the same on every rank."""

    done: bool  # the weights have changed
    failed_tokens: int  # of the largest pack that some rank's memory did not hold; 0: all were held
    loss_sum: float
    numbers: dict[str, float]  # of the objective
    grad_norm: float  # before clipping
    grad_norm_by_part: dict[str, float]
    flags: tuple[bool, ...]  # whether any rank's was set
    highest: tuple[float, ...]  # of any rank's
    waited_s: float  # of the host for the device; near 0 where the host is the slower one


def update(
    optimizer: MasterAdamW, ran: Ran, *, dry: bool = False, flags: Sequence[bool] = (), levels: Sequence[float] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> Update:  # fmt: skip
    """Sum gradients over ranks, clip and step, and clear them.

    `dry`: no step, as it was a trial or no rank has anything to train on. `levels`: the highest of any rank comes back.
    `meanwhile` is called after a step was launched: the device is busy then, and the host has time.
    """
    norm_by_part = optimizer.collect_gradients(failed=ran.failed_tokens > 0)
    start = torch.zeros((), device=optimizer.device)
    sums = [torch.stack([start, *values]).sum() for values in (ran.losses, *ran.numbers.values())]
    told = [torch.full_like(start, float(number)) for number in (ran.failed_tokens, *flags, *levels)]
    numbers = [sums[0], *told, *sums[1:]]
    of_ranks = gather_rows(torch.stack([*numbers, *norm_by_part.values()]))
    by_part = torch.linalg.vector_norm(of_ranks[:, len(numbers) :], dim=0)
    grad_norm = torch.linalg.vector_norm(by_part)
    refused = ~(of_ranks[:, 0].sum() + grad_norm).isfinite() | of_ranks[:, 1].any()
    read = _to_host(torch.cat([refused[None], grad_norm[None], by_part, of_ranks[:, : len(numbers)].flatten()]))
    stepped = not ran.failed_tokens and not dry
    if stepped:
        optimizer.step(grad_norm, refused)
        meanwhile()
    elif dry:
        optimizer.zero_grad()
    else:
        optimizer.stand_by()
    began_s = time.perf_counter()
    was_refused, norm, *rest = read()  # the one wait for the device in a step
    waited_s = time.perf_counter() - began_s
    if stepped and was_refused:
        optimizer.uncount_step()
    norms, rows = rest[: len(by_part)], rest[len(by_part) :]
    num_told = len(flags) + len(levels)
    losses_of, failed_of, *others = (rows[column :: len(numbers)] for column in range(len(numbers)))
    return Update(
        done=stepped and not was_refused, failed_tokens=int(max(failed_of)), loss_sum=sum(losses_of), grad_norm=norm,
        numbers=dict(zip(ran.numbers, map(sum, others[num_told:]), strict=True)),
        grad_norm_by_part=dict(zip(norm_by_part, norms, strict=True)), flags=tuple(map(any, others[: len(flags)])),
        highest=tuple(map(max, others[len(flags) : num_told])), waited_s=waited_s,
    )  # fmt: skip


def _to_host(numbers: Tensor) -> Callable[[], list[float]]:
    """Start a copy; the answer waits for it, and not for what the device was given since."""
    if not numbers.is_cuda:
        return numbers.tolist
    copied = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    copied.copy_(numbers, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def read() -> list[float]:
        event.synchronize()
        return copied.tolist()

    return read
