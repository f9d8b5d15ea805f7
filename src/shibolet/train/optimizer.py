"""AdamW whose weights and moments are float32 whatever the model's precision, kept by parameter name.

A bfloat16 weight has a float32 master here: an update of 1e-5 of a weight would round away in bfloat16. A float32
weight is its own master.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Union

import torch
from torch import Tensor, nn

from shibolet.errors import ShiboletError
from shibolet.model.fast.kernels import adamw_
from shibolet.model.parts import trainable_names
from shibolet.train.config import OptimizerConfig
from shibolet.train.shards import Piece, divide_among_ranks

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_TENSORS = ("master", "exp_avg", "exp_avg_sq")

States = MutableMapping[str, Mapping[str, Tensor]]  # of each weight: its step, master and moments, whole
Carried = Union[States, "MasterAdamW"]


@dataclass(slots=True)
class _Group:
    """Parameters of a part that share a learning rate and a weight decay."""

    part: str
    names: list[str]
    weight_decay: float
    lr: float


@dataclass(frozen=True, slots=True)
class _Batch:
    """Pieces of weights in a group that are updated together."""

    group: _Group
    pieces: list[Piece]
    weights: list[Tensor]
    masters: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]


class MasterAdamW:
    """AdamW (Loshchilov and Hutter 2019) over float32 masters, with one learning rate a part.

    With several ranks each holds masters and moments of its share alone (`shards`), and all make the same calls.
    """

    def __init__(
        self,
        groups: Mapping[str, Mapping[str, nn.Parameter]],
        lr_by_part: Mapping[str, float],
        config: OptimizerConfig,
        carried: Carried | None = None,
    ) -> None:
        """`groups` are in the order of the forward pass, so that their sums over ranks begin early.

        `carried` is the optimizer of the phase before, or the states in a checkpoint whose weights are in the model
        already. What goes on is taken out of it; what it lacks starts empty, its learning rates do not exist.
        """
        self.peak_lr, self._config = dict(lr_by_part), config
        self.weights = {name: weight for group in groups.values() for name, weight in group.items()}
        self.part = {name: part for part, group in groups.items() for name in group}
        self.groups = [
            _Group(part, names, config.weight_decay if decayed else 0.0, self.peak_lr[part])
            for part, group in groups.items()
            for decayed in (True, False)
            if (names := [name for name, weight in group.items() if (weight.ndim >= 2) == decayed])
        ]
        if isinstance(carried, MasterAdamW):
            carried.retire()
        self.shards = divide_among_ranks(self.weights)
        self._pieces: dict[str, list[Piece]] = {name: [] for name in self.weights}
        for piece in self.shards.pieces:
            self._pieces[piece.name].append(piece)
        self._steps = dict.fromkeys(self.weights, 0)
        self._states: dict[Piece, dict[str, Tensor]] = {piece: {} for piece in self.shards.pieces}
        for name in self.weights:
            self._start(name)
            for key, whole in _taken_out(carried, name):
                self._take_over(name, key, whole)
        self._rounds = [(blocks, list(self._batches(blocks))) for blocks in self.shards.rounds]

    def _start(self, name: str) -> None:
        """Masters of a weight's pieces from the weight, moments at zero."""
        for piece in self._pieces[name]:
            master = self.shards.weight(piece).float()  # of a float32 weight itself
            moments = {key: torch.zeros_like(master) for key in ("exp_avg", "exp_avg_sq")}
            self._states[piece] = {"master": master, **moments}

    def _take_over(self, name: str, key: str, whole: Tensor) -> None:
        weight = self.weights[name]
        if key == "step":
            self._steps[name] = int(whole)
        elif key != "master" or weight.dtype != torch.float32:
            for piece in self._pieces[name]:
                own = whole.view(-1)[piece.start : piece.stop]
                own = own if own.numel() == whole.numel() else own.clone()  # and not keep the whole for it
                self._states[piece][key] = own.to(weight.device)

    def _batches(self, blocks: range) -> Iterator[_Batch]:
        """What this rank updates of those blocks."""
        for group in self.groups:
            pieces = [piece for name in group.names for piece in self._pieces[name] if piece.block in blocks]
            if pieces:
                of_key = ([self._states[piece][key] for piece in pieces] for key in _TENSORS)
                yield _Batch(group, pieces, [self.shards.weight(piece) for piece in pieces], *of_key)

    @property
    def device(self) -> torch.device:
        return next(iter(self.weights.values())).device

    def set_lr(self, factor: float) -> None:
        """Give every part that share of its peak rate."""
        for group in self.groups:
            group.lr = self.peak_lr[group.part] * factor

    def lr_by_part(self) -> dict[str, float]:
        """Rates as the next step takes them."""
        return {group.part: group.lr for group in self.groups}

    def num_parameters(self) -> dict[str, int]:
        """Parameters by part."""
        counts = dict.fromkeys(self.peak_lr, 0)
        for name, weight in self.weights.items():
            counts[self.part[name]] += weight.numel()
        return counts

    def assert_gradients(self) -> None:
        """ShiboletError where one is missing."""
        for name, weight in self.weights.items():
            if weight.grad is None and not self.shards.was_sent(name):
                raise ShiboletError(f"'{name}' is to be trained but got no gradient; the loss does not depend on it")

    def collect_gradients(self, *, failed: bool = False) -> dict[str, Tensor]:
        """Sum the gradients over ranks; the norm of this rank's share in each part, float32.

        `failed`: this rank lacks some, and takes part so that no other waits for it. One without packs has zeros.
        """
        self.shards.finish(void=failed)
        by_part: dict[str, list[Tensor]] = {part: [] for part in self.part.values()}
        for piece in [] if failed else self.shards.pieces:
            by_part[self.part[piece.name]].append(self.shards.gradient(piece))
        return {
            part: torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float32)))
            if gradients
            else torch.zeros((), device=self.device)
            for part, gradients in by_part.items()
        }

    def step(self, grad_norm: Tensor, refused: Tensor | None = None) -> None:
        """Scale gradients so that their global norm is at most `max_grad_norm`, update, and clear them.

        Where `refused` turns out true on the device nothing changes but the count: `uncount_step` then.
        """
        scale = (self._config.max_grad_norm / (grad_norm + 1e-6)).clamp(max=1.0)
        if refused is not None:
            scale = torch.where(refused, torch.nan, scale)
        self._count(1)
        self._spread(partial(self._update, scale=scale))

    def stand_by(self) -> None:
        """Change nothing while other ranks call `step`, which turns out to be refused."""
        self._spread(lambda _: None)

    def _spread(self, change: Callable[[_Batch], None]) -> None:
        for blocks, batches in self._rounds:
            for batch in batches:
                change(batch)
            self.shards.spread(blocks)
        self.shards.arrive()
        self.zero_grad()

    def _update(self, batch: _Batch, scale: Tensor) -> None:
        adamw_(
            batch.weights,
            batch.masters,
            [self.shards.gradient(piece) for piece in batch.pieces],
            [self._steps[piece.name] for piece in batch.pieces],
            batch.exp_avgs,
            batch.exp_avg_sqs,
            scale=scale,
            lr=batch.group.lr,
            betas=self._config.betas,
            eps=self._config.eps,
            weight_decay=batch.group.weight_decay,
        )

    def uncount_step(self) -> None:
        """The last step was refused."""
        self._count(-1)

    def _count(self, steps: int) -> None:
        for name in self._steps:
            self._steps[name] += steps

    def zero_grad(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    def state(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Step, master and moments of a weight, whole; with one rank references, not copies.

        One after the other, as with several ranks each is made of theirs; so all have to ask for all.
        """
        weight = self.weights[name]
        yield "step", torch.tensor(float(self._steps[name]))
        for key in _TENSORS:
            if key == "master" and weight.dtype == torch.float32:
                yield key, weight.detach()
            else:
                yield key, self.shards.whole(name, [(piece, self._states[piece][key]) for piece in self._pieces[name]])

    def retire(self) -> None:
        """Take no more steps, and hold the states alone."""
        self._rounds.clear()
        self.shards.release()

    def pop(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """`state(name)`, which a retired optimizer then no longer holds; nothing if it never did."""
        if name in self._pieces:
            yield from self.state(name)
            for piece in self._pieces.pop(name):
                del self._states[piece]

    def clear(self) -> None:
        """Let go of the states that are left."""
        self._pieces.clear()
        self._states.clear()


def _taken_out(carried: Carried | None, name: str) -> Iterable[tuple[str, Tensor]]:
    """The state of a weight, which `carried` then no longer holds; nothing where it has none."""
    if isinstance(carried, MasterAdamW):
        return carried.pop(name)
    return carried.pop(name, {}).items() if carried else ()


def assert_optimizer_covers(model: nn.Module, optimizer: MasterAdamW) -> None:
    """ShiboletError unless the optimizer's groups are exactly the trainable parameters, each once."""
    trainable = trainable_names(model)
    held = sorted(name for group in optimizer.groups for name in group.names)
    named = dict(model.named_parameters())
    stale = [name for name, weight in optimizer.weights.items() if named.get(name) is not weight]
    if set(optimizer.weights) != trainable or held != sorted(trainable) or stale:
        raise ShiboletError(
            f"the optimizer holds {len(optimizer.weights)} parameters and the model trains {len(trainable)}; "
            f"differing: {sorted(set(optimizer.weights) ^ trainable)[:3]}, replaced since: {stale[:3]}"
        )
