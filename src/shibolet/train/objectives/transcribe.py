"""Next-token prediction of the transcript: the cross-entropy that fine-tuning minimises.

Shapes: L label positions of a pack, D model dim.
"""

import torch
from torch import Tensor, nn

from shibolet.model.family import Family
from shibolet.model.fast.losses import plain_cross_entropy, summed_cross_entropy
from shibolet.model.protocols import Pack
from shibolet.train.data import TrainExample
from shibolet.train.objective import Extras, PackLoss, TrainStep
from shibolet.train.objectives.of_targets import OfTargets


def labels_of(example: TrainExample) -> Extras:
    """How many labels of a pack are an utterance's, and whether it is replayed."""
    return {"labels": (example.num_targets, bool(example.replayed_in))}


class Transcribe(OfTargets):
    """The token cross-entropy, a mean over the targets of a step.

    With `replays` it is also recorded apart, of the training's own utterances and of those that are replayed; 0 of a
    step without any of them.
    """

    def __init__(self, family: Family, *, fast: bool = True, replays: bool = False) -> None:
        super().__init__(family)
        self._cross_entropy = summed_cross_entropy if fast else plain_cross_entropy
        self.numbers: tuple[str, ...] = ("own_loss", "replay_loss") if replays else ()
        self.needs = labels_of if replays else None

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        hidden = self._family.hidden(model, pack)
        if not self.numbers:
            return PackLoss(self._cross_entropy(hidden, self._family.head(model), pack.labels))
        sums = [self._of_some(model, hidden, pack, is_replayed) for is_replayed in (False, True)]
        counts = [self.count([e for e in step.examples if bool(e.replayed_in) is kind]) for kind in (False, True)]
        means = [of.detach() / max(1, count) for of, count in zip(sums, counts, strict=True)]
        return PackLoss(sums[0] + sums[1], dict(zip(self.numbers, means, strict=True)))

    def _of_some(self, model: nn.Module, hidden: Tensor, pack: Pack, is_replayed: bool) -> Tensor:
        """The sum over labels of the utterances that are replayed, or of the others; `hidden` `[L, D]`."""
        counts, kinds = zip(*(one["labels"] for one in pack.extras), strict=True)
        of_label = torch.tensor(kinds).repeat_interleave(torch.tensor(counts))  # [L], on the host
        places = (of_label == is_replayed).nonzero().flatten()
        if not len(places):
            return hidden.new_zeros((), dtype=torch.float32)
        places = places.to(hidden.device, non_blocking=True)
        return self._cross_entropy(hidden[places], self._family.head(model), pack.labels[places])
