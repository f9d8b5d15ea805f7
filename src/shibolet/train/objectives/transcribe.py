"""Next-token prediction of the transcript: the cross-entropy that fine-tuning minimises."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.qwen3_asr.packed import Pack, decode_pack, output_head, packed_attention
from shibolet.train.data import TrainExample
from shibolet.train.objective import Extras, PackLoss, TrainStep


class Transcribe:
    """The token cross-entropy, a mean over the targets of a step."""

    numbers: tuple[str, ...] = ()

    def needs(self, example: TrainExample) -> Extras:
        return {}

    def count(self, examples: Sequence[TrainExample]) -> int:
        return sum(example.num_targets for example in examples)

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return packed_attention(model)

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        return PackLoss(summed_cross_entropy(decode_pack(model, pack), output_head(model), pack.labels))
