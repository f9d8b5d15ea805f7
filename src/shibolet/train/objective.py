"""What a training minimises, as the loop sees it: the loop asks a reader for packs and an objective for their losses.

The loop knows neither labels nor a model's forward pass. What a pack is, is between the reader, which makes it, and the
objective. `objectives/` has the objectives; a recipe names one in `train.objective`, and a
phase may name another.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from shibolet.train.data import TrainExample

Extras = Mapping[str, Any]  # plain data by name: times of words, a teacher's tokens
Needs = Callable[[TrainExample], Extras]


@dataclass(frozen=True, slots=True)
class TrainStep:
    """An optimizer step as every rank knows it before any pack is read."""

    examples: Sequence[TrainExample]  # of all ranks
    progress_frac: float  # of the phase's steps that came before it: what the weight of a term may depend on
    number: int = 0  # of the step in the run, from 0: what is drawn in it follows from it


@dataclass(frozen=True, slots=True)
class PackLoss:
    """The loss of a pack, to be divided by the step's count, and numbers to record."""

    total: Tensor  # scalar, summed over what the objective counts
    numbers: Mapping[str, Tensor] = field(default_factory=dict)  # name -> scalar; a step's is the sum over its packs


class Objective(Protocol):
    """What is minimised. It may run the model as often as it needs, sample from it, or ask other models."""

    numbers: tuple[str, ...]  # names in `PackLoss.numbers`: a rank without packs has to know them too
    # What a pack has to hold of an utterance beyond its audio and text; None: nothing. `num_frames`, of the audio as it
    # is heard, comes with it. Each worker process of a reader
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


@runtime_checkable
class Beginning(Protocol):
    """An objective that has something to do before the steps of a phase."""

    def begin(self) -> None:
        """A phase that minimises it begins, or goes on; every rank calls it, before there is an optimizer."""


@dataclass(frozen=True, slots=True)
class AllNeeds:
    """What several objectives need, whose phases read the same packs."""

    each: tuple[Needs, ...]

    def __call__(self, example: TrainExample) -> Extras:
        return {name: value for needs in self.each for name, value in needs(example).items()}


def needs_of(objectives: Iterable[Objective]) -> Needs | None:
    """What the packs of a training have to hold, whichever of its objectives a phase has."""
    asked = [one.needs for one in objectives if one.needs]
    each = tuple(needs for place, needs in enumerate(asked) if needs not in asked[:place])
    return each[0] if len(each) == 1 else AllNeeds(each) if each else None
