"""Next-token prediction of the transcript: the cross-entropy that fine-tuning minimises."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from shibolet.model.family import Family
from shibolet.model.fast.losses import plain_cross_entropy, summed_cross_entropy
from shibolet.model.protocols import Pack
from shibolet.train.data import TrainExample
from shibolet.train.objective import PackLoss, TrainStep


class Transcribe:
    """The token cross-entropy, a mean over the targets of a step."""

    numbers: tuple[str, ...] = ()
    needs = None

    def __init__(self, family: Family, *, fast: bool = True) -> None:
        self._family, self._cross_entropy = family, summed_cross_entropy if fast else plain_cross_entropy

    def count(self, examples: Sequence[TrainExample]) -> int:
        return sum(example.num_targets for example in examples)

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._family.packed(model)

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        hidden = self._family.hidden(model, pack)
        return PackLoss(self._cross_entropy(hidden, self._family.head(model), pack.labels))
