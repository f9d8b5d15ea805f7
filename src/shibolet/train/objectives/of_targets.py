"""What the objectives share whose loss is a mean over the targets of a step: what they count, and how a model reads."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from shibolet.model.family import Family
from shibolet.train.data import TrainExample


class OfTargets:
    """The base of an objective that is divided by the targets of a step and reads packs as the family does."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def count(self, examples: Sequence[TrainExample]) -> int:
        return sum(example.num_targets for example in examples)

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._family.packed(model)
