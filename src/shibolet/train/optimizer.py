"""AdamW whose weights and moments are float32 whatever the model's precision, kept by parameter name.

A bfloat16 weight has a float32 master here: an update of 1e-5 of a weight would round away in bfloat16. A float32
weight is its own master.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from shibolet.errors import ShiboletError
from shibolet.model.parts import trainable_names
from shibolet.train.config import OptimizerConfig
from shibolet.train.ranks import sum_gradients

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class MasterAdamW:
    """torch's AdamW over float32 masters, with one learning rate a part."""

    def __init__(
        self,
        groups: Mapping[str, Mapping[str, nn.Parameter]],
        lr_by_part: Mapping[str, float],
        config: OptimizerConfig,
        carried: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """`carried` is `state_by_name()` of the phase before or of a checkpoint whose weights are in the model already.

        Its tensors are taken over, not copied; names that it lacks start empty, its learning rates do not exist.
        """
        self.peak_lr = dict(lr_by_part)
        self.max_grad_norm = config.max_grad_norm
        self.weights = {name: weight for group in groups.values() for name, weight in group.items()}
        self.part = {name: part for part, group in groups.items() for name in group}
        carried = carried or {}
        self.masters: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            if weight.dtype == torch.float32:
                self.masters[name] = weight
            elif name in carried:
                self.masters[name] = carried[name]["master"].to(weight.device)
            else:
                self.masters[name] = weight.detach().float()
        torch_groups = [
            {
                "params": [self.masters[name] for name in names],
                "part": part,
                "lr": self.peak_lr[part],
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for part, group in groups.items()
            for decayed in (True, False)
            if (names := [name for name, weight in group.items() if (weight.ndim >= 2) == decayed])
        ]
        self.inner = torch.optim.AdamW(torch_groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
        for name, master in self.masters.items():
            # torch would make empty ones in the first step: too late for the trial of memory at the start of a phase
            saved = carried.get(name) or {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
            self.inner.state[master] = {key: saved[key].to(master.device) for key in MOMENTS}

    def set_lr(self, factor: float) -> None:
        """Give every part that share of its peak rate."""
        for group in self.inner.param_groups:
            group["lr"] = self.peak_lr[group["part"]] * factor

    def lr_by_part(self) -> dict[str, float]:
        """Rates as the optimizer holds them."""
        return {group["part"]: group["lr"] for group in self.inner.param_groups}

    def num_parameters(self) -> dict[str, int]:
        """Parameters by part."""
        counts = dict.fromkeys(self.peak_lr, 0)
        for name, weight in self.weights.items():
            counts[self.part[name]] += weight.numel()
        return counts

    def collect_gradients(self, *, idle: bool = False) -> dict[str, Tensor]:
        """Move the gradients, summed over ranks, to the masters, in float32; the gradient norm of each part.

        `idle`: this rank had no work, or did not get through it, and takes part with what it has.
        """
        for name, weight in self.weights.items():
            if weight.grad is None and not idle:
                raise ShiboletError(f"'{name}' is to be trained but got no gradient; the loss does not depend on it")
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        sum_gradients(self.weights.values())
        by_part: dict[str, list[Tensor]] = {}
        for name, weight in self.weights.items():
            master = self.masters[name]
            if master is not weight:
                master.grad, weight.grad = weight.grad.float(), None
            by_part.setdefault(self.part[name], []).append(master.grad)
        return {part: get_total_norm(gradients) for part, gradients in by_part.items()}

    def step(self, grad_norm: Tensor) -> None:
        """Scale gradients so that their global norm is at most `max_grad_norm`, update, and clear them."""
        clip_grads_with_norm_(self.masters.values(), self.max_grad_norm, grad_norm)
        self.inner.step()
        narrow = [name for name, weight in self.weights.items() if self.masters[name] is not weight]
        with torch.no_grad():
            if narrow:
                torch._foreach_copy_([self.weights[n] for n in narrow], [self.masters[n] for n in narrow])
        self.zero_grad()

    def zero_grad(self) -> None:
        for name, weight in self.weights.items():
            weight.grad = self.masters[name].grad = None

    def state_by_name(self) -> dict[str, dict[str, Tensor]]:
        """Master and moments of each parameter (references, not copies)."""
        return {
            name: {"master": master.detach(), **{key: self.inner.state[master][key] for key in MOMENTS}}
            for name, master in self.masters.items()
        }


def assert_optimizer_covers(model: nn.Module, optimizer: MasterAdamW) -> None:
    """ShiboletError unless the optimizer's groups are exactly the trainable parameters, each once."""
    trainable = trainable_names(model)
    held = [id(weight) for group in optimizer.inner.param_groups for weight in group["params"]]
    expected = [id(master) for master in optimizer.masters.values()]
    named = dict(model.named_parameters())
    stale = [name for name, weight in optimizer.weights.items() if named.get(name) is not weight]
    if set(optimizer.weights) != trainable or sorted(held) != sorted(expected) or stale:
        raise ShiboletError(
            f"the optimizer holds {len(optimizer.weights)} parameters and the model trains {len(trainable)}; "
            f"differing: {sorted(set(optimizer.weights) ^ trainable)[:3]}, replaced since: {stale[:3]}"
        )
