"""A model as names and shapes of its weights: what a plan needs of it, without weights and without torch."""

import math
from collections.abc import Iterable, Iterator, Mapping
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


Shapes = Iterator[tuple[str, tuple[int, ...]]]  # of weights, by name


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    """The weights of a linear layer."""
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name: str, dim: int) -> Shapes:
    """The weights of a layer norm."""
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A model without weights."""

    config: Any  # as `outline_of` takes it
    weights: Mapping[str, Weight]

    def named_parameters(self) -> Iterable[tuple[str, Weight]]:
        return self.weights.items()


@dataclass(frozen=True, slots=True)
class Linear:
    """A weight of `inputs x outputs`, with an adapter of `rank` where there is one."""

    inputs: int
    outputs: int
    rank: int

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], module: str) -> "Linear":
        """That of a module, by the shapes of all weights: `[outputs, inputs]`, of an adapter's A `[rank, inputs]`."""
        (rank, _) = shapes.get(f"{module}.lora_A.default.weight", (0, 0))
        outputs, inputs = shapes[f"{module}.base_layer.weight" if rank else f"{module}.weight"]
        return cls(inputs, outputs, rank)

    @property
    def base(self) -> int:
        """Multiply-adds a row."""
        return self.inputs * self.outputs

    @property
    def adapter(self) -> int:
        """Those of the adapter."""
        return self.rank * (self.inputs + self.outputs)

    def multiply_adds(self, wants: bool, trains: bool) -> int:
        """Of a row, forward and backward; `wants`: its input wants a gradient, `trains`: the weight does.

        An adapter trains always, and what comes out of it wants a gradient always.
        """
        adapter = 3 * self.adapter - (not wants) * self.rank * self.inputs
        return self.base * (1 + wants + trains) + adapter
