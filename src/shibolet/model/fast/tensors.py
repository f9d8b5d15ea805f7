"""Tensors that travel together: what a step is given."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Self

import torch
from torch import Tensor


class Tensors:
    """Of a dataclass: its tensors go together to a device, or into page-locked memory. What is no tensor stays."""

    __slots__ = ()

    def to(self, device: torch.device | str) -> Self:
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})
