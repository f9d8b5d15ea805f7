"""The loss a label of a model on utterances that it does not train on: tight where a WER moves by whole words.

The text is given and the model only says how likely it finds it (teacher forcing), so no word is decoded.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from shibolet.errors import DataError
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Prompt
from shibolet.train.data import Styles, TrainExample, read_examples
from shibolet.train.packing import packs_of
from shibolet.train.ranks import share_out
from shibolet.train.reader import PackReader

_CACHE_GIB = 1.0  # of host memory for the features of dev: 256 utterances take less than a tenth
PACK_TOKENS = 2048  # of a pack that is scored; longer utterances are packs of their own


@dataclass(frozen=True, slots=True)
class LabelLoss:
    """What the text of an utterance costs."""

    id: str
    loss: float  # nats, summed over its labels
    labels: int


def reader_of(loaded: LoadedModel, language: str, cache_gib: float = 0.0) -> PackReader:
    """What reads packs for the loss, unaugmented; it keeps features of so many GiB for another time."""
    targets = loaded.family.targets(loaded.tokenizer, Prompt(language))
    return PackReader(loaded.family, targets.frame, loaded.extractor, device=loaded.model.device, cache_gib=cache_gib)


def label_losses(
    loaded: LoadedModel, examples: Sequence[TrainExample], language: str, reader: PackReader | None = None
) -> list[LabelLoss]:
    """Of each utterance in the prompt of its style, in their order; the model is in evaluation mode.

    It hears what is recorded, unaugmented; with a `reader` of `reader_of` it is not read again each time.
    """
    family, model = loaded.family, loaded.model
    reader = reader or reader_of(loaded, language)
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


def read_dev_examples(
    loaded: LoadedModel, prepared_dir: Path, language: str, styles: Mapping[str, str]
) -> list[TrainExample]:
    """Dev utterances as a training would have them; what is too long for the model, or has no text, is left out.

    `styles` are what prompts say of how to write, by source.
    """
    family = loaded.family
    targets_of = lambda style: family.targets(loaded.tokenizer, Prompt(language, style=style))  # noqa: E731
    read, _ = read_examples(
        prepared_dir, "dev", family, targets_of(""), family.max_tokens(loaded.model.config),
        Styles.of(styles, targets_of),
    )  # fmt: skip
    return read


class DevLoss:
    """The mean loss a label of a model in training on dev, of which always the same utterances are taken.

    Every rank calls it; each measures a part, all have the whole.
    """

    def __init__(self, prepared_dir: Path, language: str, styles: Mapping[str, str], ids: Collection[str]) -> None:
        """`ids` are the utterances that WER is measured on too."""
        self._prepared_dir, self._language, self._styles, self._ids = prepared_dir, language, styles, ids
        self._examples: list[TrainExample] | None = None
        self._reader: PackReader | None = None

    def __call__(self, loaded: LoadedModel) -> float | None:
        """In nats, to the fifth digit, behind which packs of other ranks differ.

        None where there is nothing to measure, and for a model whose loss is no finite number.

        The model is in evaluation mode.
        """
        if not self._ids:
            return None
        if self._examples is None:
            read = read_dev_examples(loaded, self._prepared_dir, self._language, self._styles)
            self._examples = [example for example in read if example.id in self._ids]
            self._reader = reader_of(loaded, self._language, _CACHE_GIB)

        def measure(part: Sequence[TrainExample]) -> list[LabelLoss]:
            return label_losses(loaded, part, self._language, self._reader) if part else []

        found = share_out(measure, self._examples)
        loss = sum(one.loss for one in found) / sum(one.labels for one in found) if found else math.nan
        return round(loss, 5) if math.isfinite(loss) else None


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
