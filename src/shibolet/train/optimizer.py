"""AdamW whose weights and moments are float32 whatever the model's precision, kept by parameter name.

A bfloat16 weight has a float32 master here: an update of 1e-5 of a weight would round away in bfloat16. A float32
weight is its own master.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shibolet.errors import ShiboletError
from shibolet.model.kernels import adamw_
from shibolet.model.parts import trainable_names
from shibolet.train.config import OptimizerConfig
from shibolet.train.ranks import GradientSum

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class _Group:
    """Parameters of a part that share a learning rate and a weight decay."""

    part: str
    names: list[str]
    weight_decay: float
    lr: float


class MasterAdamW:
    """AdamW (Loshchilov and Hutter 2019) over float32 masters, with one learning rate a part."""

    def __init__(
        self,
        groups: Mapping[str, Mapping[str, nn.Parameter]],
        lr_by_part: Mapping[str, float],
        config: OptimizerConfig,
        carried: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """`groups` are in the order of the forward pass, so that their sums over ranks begin early.

        `carried` is `state_by_name()` of the phase before or of a checkpoint whose weights are in the model already.
        Its tensors are taken over, not copied; names that it lacks start empty, its learning rates do not exist.
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
        self.masters: dict[str, Tensor] = {}
        self._moments: dict[str, dict[str, Tensor]] = {}
        self.sum = GradientSum(reversed(self.weights.values()))
        for name, weight in self.weights.items():
            saved = (carried or {}).get(name)
            if weight.dtype == torch.float32:
                self.masters[name] = weight
            else:
                self.masters[name] = saved["master"].to(weight.device) if saved else weight.detach().float()
            empty = torch.zeros_like(self.masters[name]) if saved is None else None
            self._moments[name] = {
                "step": saved["step"].cpu() if saved else torch.zeros((), dtype=torch.float32),
                "exp_avg": saved["exp_avg"].to(weight.device) if saved else empty,
                "exp_avg_sq": saved["exp_avg_sq"].to(weight.device) if saved else empty.clone(),
            }

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

    def assert_gradients(self, *, idle: bool = False) -> None:
        """ShiboletError where one is missing; `idle`: this rank had no work, its gradients are 0."""
        for name, weight in self.weights.items():
            if weight.grad is None and not idle:
                raise ShiboletError(f"'{name}' is to be trained but got no gradient; the loss does not depend on it")
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def collect_gradients(self, *, failed: bool = False) -> dict[str, Tensor]:
        """Sum the gradients over ranks; their norm in each part, float32.

        `failed`: this rank lacks some, and takes part so that no other waits for it; it has no norms.
        """
        self.sum.finish(void=failed)
        if failed:
            return {}
        by_part: dict[str, list[Tensor]] = {}
        for name, weight in self.weights.items():
            by_part.setdefault(self.part[name], []).append(weight.grad)
        return {
            part: torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float32)))
            for part, gradients in by_part.items()
        }

    def step(self, grad_norm: Tensor, refused: Tensor | None = None) -> None:
        """Scale gradients so that their global norm is at most `max_grad_norm`, update, and clear them.

        Where `refused` turns out true on the device nothing changes but the count: `uncount_step` then.
        """
        scale = (self._config.max_grad_norm / (grad_norm + 1e-6)).clamp(max=1.0)
        if refused is not None:
            scale = torch.where(refused, torch.nan, scale)
        for group in self.groups:
            moments = [self._moments[name] for name in group.names]
            torch._foreach_add_([of["step"] for of in moments], 1)
            adamw_(
                [self.weights[name].detach() for name in group.names],
                [self.masters[name].detach() for name in group.names],
                [self.weights[name].grad for name in group.names],
                *([of[key] for of in moments] for key in MOMENTS),
                scale=scale,
                lr=group.lr,
                betas=self._config.betas,
                eps=self._config.eps,
                weight_decay=group.weight_decay,
            )
        self.zero_grad()

    def uncount_step(self) -> None:
        """The last step was refused."""
        torch._foreach_sub_([of["step"] for of in self._moments.values()], 1)

    def zero_grad(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    def state_by_name(self) -> dict[str, dict[str, Tensor]]:
        """Master and moments of each parameter (references, not copies)."""
        return {name: {"master": master.detach(), **self._moments[name]} for name, master in self.masters.items()}


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
