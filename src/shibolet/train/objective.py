"""What a training minimises, as the loop sees it: the loop asks a reader for packs and an objective for their losses.

The loop knows neither labels nor a model's forward pass. What a pack is, is between the reader, which makes it, and the
objective. `objectives/` has the objectives; a recipe names one in `train.objective`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from shibolet.train.data import TrainExample

Extras = Mapping[str, Any]  # plain data by name: times of words, a teacher's tokens
Needs = Callable[[TrainExample], Extras]


@dataclass(frozen=True, slots=True)
class TrainStep:
    """An optimizer step as every rank knows it before any pack is read."""

    examples: Sequence[TrainExample]  # of all ranks
    progress_frac: float  # of the phase's steps that came before it: what the weight of a term may depend on


@dataclass(frozen=True, slots=True)
class PackLoss:
    """The loss of a pack, to be divided by the step's count, and numbers to record."""

    total: Tensor  # scalar, summed over what the objective counts
    numbers: Mapping[str, Tensor] = field(default_factory=dict)  # name -> scalar; a step's is the sum over its packs


class Objective(Protocol):
    """What is minimised. It may run the model as often as it needs, sample from it, or ask other models."""

    numbers: tuple[str, ...]  # names in `PackLoss.numbers`: a rank without packs has to know them too
    # What a pack has to hold of an utterance beyond its audio and text; None: nothing. Each worker process of a reader
    # gets a copy: a function of a module or an object of plain data, no method of the objective, which may hold models.
    needs: Needs | None

    def count(self, examples: Sequence[TrainExample]) -> int:
        """What the loss of a step of these utterances is divided by.

        It follows from the tables alone: gradients are divided before the first backward pass of a step, on every rank
        by the same number.
        """

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        """What has to be in force around reading, forward and backward of a step's packs."""

    def loss(self, model: nn.Module, pack: Any, step: TrainStep) -> PackLoss:
        """The loss of a pack of the step, within `context`."""
