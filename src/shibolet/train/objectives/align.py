"""The forced aligner's objective: two classes of time a word, where it starts and where it ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from shibolet.model.family import Family
from shibolet.model.protocols import Pack
from shibolet.train.data import TrainExample
from shibolet.train.objective import Extras, PackLoss, TrainStep
from shibolet.train.objectives.of_targets import OfTargets

Times = Sequence[tuple[float, float]]  # start and end of each word, seconds
NEIGHBOUR_WEIGHT = 0.1  # of each class beside the right one: a time one class off is nearly right


@dataclass(frozen=True, slots=True)
class TimeClasses:
    """`classes`: start and end of each word in turn; what lies beyond the last class is in it."""

    times_of: Callable[[TrainExample], Times]
    class_s: float
    num_classes: int

    def __call__(self, example: TrainExample) -> Extras:
        times = [t for span in self.times_of(example) for t in span]
        return {"classes": [min(self.num_classes - 1, round(t / self.class_s)) for t in times]}


class Align(OfTargets):
    """The cross-entropy of time classes, a mean over the starts and ends of a step."""

    numbers: tuple[str, ...] = ()

    def __init__(self, family: Family, times_of: Callable[[TrainExample], Times], num_classes: int) -> None:
        super().__init__(family)
        self._num_classes = num_classes
        self.needs = TimeClasses(times_of, family.class_s, num_classes)

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        logits = self._family.head(model)(self._family.hidden(model, pack)).float()
        total = (1 - 2 * NEIGHBOUR_WEIGHT) * F.cross_entropy(logits, pack.labels, reduction="sum")
        for shift in (-1, 1):
            beside = (pack.labels + shift).clamp(0, self._num_classes - 1)
            total = total + NEIGHBOUR_WEIGHT * F.cross_entropy(logits, beside, reduction="sum")
        return PackLoss(total)
