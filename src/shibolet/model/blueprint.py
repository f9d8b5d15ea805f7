"""A model as names and shapes of its weights: what a plan needs of it, without weights and without torch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Parameters(Protocol):
    """What a blueprint and a module of torch have in common."""

    config: Any

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """Each weight once, by name, with `shape` and `numel()`."""
        ...


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight that nobody has filled."""

    shape: tuple[int, ...]

    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A model without weights."""

    config: Any  # as `outline_of` takes it
    weights: Mapping[str, Weight]

    def named_parameters(self) -> Iterable[tuple[str, Weight]]:
        return self.weights.items()
