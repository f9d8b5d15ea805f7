"""The loss a label of a model on utterances that it does not train on: tight where a WER moves by whole words.

The text is given and the model only says how likely it finds it (teacher forcing), so no word is decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from shibolet.errors import DataError
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Prompt
from shibolet.train.data import TrainExample
from shibolet.train.packing import packs_of
from shibolet.train.reader import PackReader

PACK_TOKENS = 2048  # of a pack that is scored; longer utterances are packs of their own


@dataclass(frozen=True, slots=True)
class LabelLoss:
    """What the text of an utterance costs."""

    id: str
    loss: float  # nats, summed over its labels
    labels: int


def label_losses(loaded: LoadedModel, examples: Sequence[TrainExample], language: str) -> list[LabelLoss]:
    """Of each utterance in the prompt of its style, in their order; the model is in evaluation mode.

    It hears what is recorded, unaugmented.
    """
    family, model = loaded.family, loaded.model
    targets = family.targets(loaded.tokenizer, Prompt(language))
    reader = PackReader(family, targets.frame, loaded.extractor, device=model.device)
    lengths = [example.num_tokens for example in examples]
    if not examples:
        raise DataError(
            "no utterance is left to measure a loss on: all are too long for the model or have no text; hold out "
            "more with prepare.dev_frac, or cut dev's utterances into shorter ones"
        )
    found: dict[int, LabelLoss] = {}
    for pack in packs_of(range(len(examples)), lengths, max(PACK_TOKENS, *lengths)):
        chosen = [examples[place] for place in pack]
        with torch.inference_mode(), family.packed(model):
            packed = reader.pack(chosen)
            logits = family.head(model)(family.hidden(model, packed)).float()
            losses = F.cross_entropy(logits, packed.labels, reduction="none").cpu().double()
        pieces = losses.split([example.num_targets for example in chosen])
        for place, example, piece in zip(pack, chosen, pieces, strict=True):
            found[place] = LabelLoss(example.id, float(piece.sum()), example.num_targets)
    return [found[place] for place in range(len(examples))]


def with_audio_of_next(examples: Sequence[TrainExample]) -> list[TrainExample]:
    """Each text with the audio of the next utterance, the last with that of the first: texts of other speech."""
    return [
        replace(
            text, audio=other.audio, duration_s=other.duration_s, num_frames=other.num_frames,
            num_tokens=text.num_tokens + _audio_tokens(other) - _audio_tokens(text),
        )
        for text, other in zip(examples, [*examples[1:], *examples[:1]], strict=True)
    ]  # fmt: skip


def _audio_tokens(example: TrainExample) -> int:
    return example.family.num_audio_tokens(example.num_frames)
