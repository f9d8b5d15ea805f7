"""CTC over the Hebrew letters: what the recogniser of letters minimises, and what helps an encoder that knows nothing.

Shapes: U clips, M frames, F feature bins, S emissions, K letters with the blank and the space, A audio tokens,
E encoder dim.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shibolet.demo import tiny
from shibolet.model.protocols import Pack
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.train.data import TrainExample
from shibolet.train.objective import Extras, PackLoss, TrainStep

NUM_CLASSES = len(tiny.LETTERS) + 2
LETTER_HEAD = "letters"  # the submodule of a model in training


@dataclass(frozen=True, slots=True)
class PaddedClips:
    """Clips of like length in one batch."""

    features: Tensor  # [U, M, F]
    mask: Tensor  # [U, M], 1 where a clip has frames
    lengths: list[int]
    letters: list[list[int]]


def letter_ids(text: str) -> list[int]:
    """Ids of the CTC alphabet: 1 the space, 2 on the letters."""
    return [1 if c == " " else tiny.LETTERS.index(c) + 2 for c in text if c == " " or c in tiny.LETTERS]


def summed_ctc(logits: Tensor, lengths: Sequence[int], letters: Sequence[list[int]]) -> Tensor:
    """The sum over clips of the CTC loss a letter, of logits `[S, U, K]`; 0 for a text that cannot fit."""
    nums = torch.tensor([len(ids) for ids in letters])
    losses = F.ctc_loss(
        logits.float().log_softmax(-1), torch.tensor([i for ids in letters for i in ids], device=logits.device),
        torch.tensor(lengths), nums, reduction="none", zero_infinity=True,
    )  # fmt: skip
    return (losses / nums.clamp(min=1).to(losses.device)).sum()


def letters_of(example: TrainExample) -> Extras:
    return {"letters": letter_ids(example.text)}


def letters_in_audio(example: TrainExample) -> Extras:
    return {**letters_of(example), "audio_tokens": FAMILY.num_audio_tokens(example.num_frames)}


class Ctc:
    """The recogniser's: the CTC loss a letter, a mean over the clips of a step. A pack is a list of `PaddedClips`."""

    numbers: tuple[str, ...] = ()
    needs = staticmethod(letters_of)

    def count(self, examples: Sequence[TrainExample]) -> int:
        return len(examples)

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def loss(self, model: nn.Module, pack: list[PaddedClips], step: TrainStep) -> PackLoss:
        losses = []
        for clips in pack:
            logits = model(input_features=clips.features.to(model.dtype), attention_mask=clips.mask).logits
            losses.append(summed_ctc(logits.transpose(0, 1), clips.lengths, clips.letters))
        return PackLoss(torch.stack(losses).sum())


class EncoderLetters:
    """Auxiliary CTC on the encoder's output, a mean over the clips of a step, through a head that is thrown away.

    The head makes two emissions a token, since Hebrew has more letters a second than there are tokens.
    """

    numbers: tuple[str, ...] = ()
    needs = staticmethod(letters_in_audio)

    @staticmethod
    def add_head(model: nn.Module) -> None:
        model.add_module(LETTER_HEAD, nn.Linear(model.config.audio_config.d_model, 2 * NUM_CLASSES))

    @staticmethod
    def drop_head(model: nn.Module) -> None:
        delattr(model, LETTER_HEAD)

    def count(self, examples: Sequence[TrainExample]) -> int:
        return len(examples)

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return FAMILY.packed(model)

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        """Of a pack that holds the encoder's output `[A, E]`."""
        logits = getattr(model, LETTER_HEAD)(model.model.audio_tower.ln_post(pack.encoded)).view(-1, NUM_CLASSES)
        lengths = [2 * extras["audio_tokens"] for extras in pack.extras]
        rows = nn.utils.rnn.pad_sequence(logits.split(lengths))
        return PackLoss(summed_ctc(rows, lengths, [extras["letters"] for extras in pack.extras]))
