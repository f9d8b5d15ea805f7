"""What a family of models is to all that trains, listens, evaluates and publishes: an outline that also computes.

A family is a package beside this file whose `family.py` holds one object, `FAMILY`; `family_of` finds it by a
configuration. What needs no tensors stands in `model/outline.py`.

Shapes: A encoder states, L label positions, D model dim, V vocabulary, E encoder dim.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from shibolet.errors import ModelError, RecipeError
from shibolet.model.outline import Outline, outline_named, outline_of
from shibolet.model.protocols import (
    Decoder,
    Decoding,
    Features,
    Frame,
    Movable,
    Oddity,
    Pack,
    Prompt,
    Reference,
    SpecMask,
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with what is needed to feed it."""

    model: nn.Module  # its `config.model_type` says the family
    tokenizer: Any
    extractor: Any  # makes features of audio
    path: Path
    identity: str  # hash of configuration and weights: calibrations and caches are bound to it

    @property
    def family(self) -> "Family":
        return family_of(self.model.config)

    def again(self) -> "LoadedModel":
        """The same weights in modules of their own: another thread may compute with them at the same time."""
        shared = {id(weight): weight for weight in (*self.model.parameters(), *self.model.buffers())}
        return replace(self, model=copy.deepcopy(self.model, shared))


class Family(Outline):
    """One architecture, with all that loads, feeds, trains, decodes and saves its models."""

    @abstractmethod
    def untie_head(self, model: nn.Module) -> None:
        """Give the output projection weights of its own, equal to the embeddings'; nothing to do if untied."""

    def keep_layers(self, model: nn.Module, encoder: Sequence[int] | None, decoder: Sequence[int] | None) -> None:
        """Leave these layers alone, in their order, and have the configuration say so; None: all of a tower stay."""
        raise RecipeError(f"a {self.title} cannot be cut")

    # Packs

    @abstractmethod
    def lay_out(
        self, frame: Frame | Sequence[Frame], texts: Sequence[Sequence[int]], num_frames: Sequence[int]
    ) -> Pack:
        """A pack of utterances with their texts as labels, without its audio; in one frame, or each in its own."""

    @abstractmethod
    def lay_samples(self, clips: Sequence[np.ndarray], masks: Sequence[SpecMask] | None, num_bins: int) -> Movable:
        """Mono 16 kHz clips as `features` takes them, with the stretches that are to be blanked out."""

    @abstractmethod
    def features(self, extractor: Any, device: torch.device | str) -> Features:
        """What makes features on a device."""

    def with_audio(self, pack: Pack, clips: Sequence[np.ndarray], features: Features, device: torch.device) -> Pack:
        """A pack on a device with the features of its clips."""
        made = features(self.lay_samples(clips, None, features.num_bins))
        return replace(pack.to(device), features=made)

    # Forward

    @abstractmethod
    def packed(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within it a model takes packs; a backward that recomputes belongs inside too."""

    @abstractmethod
    def encode(self, model: nn.Module, pack: Pack) -> Tensor:
        """The output of the encoder, `[A, E]`, that can be kept while all of it is frozen; within `packed`."""

    @abstractmethod
    def hidden(self, model: nn.Module, pack: Pack) -> Tensor:
        """Last hidden states `[L, D]`, those that predict the labels; within `packed`."""

    def checkpoint_activations(self, model: nn.Module) -> None:
        """From now on compute activations again in the backward pass."""
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    @abstractmethod
    def head(self, model: nn.Module) -> nn.Linear:
        """The linear map from hidden states to logits `[L, V]`."""

    def logits(self, model: nn.Module, pack: Pack) -> Tensor:
        """Logits `[L, V]` that predict the labels, or `[L, classes]` of an aligner."""
        with self.packed(model):
            return self.head(model)(self.hidden(model, pack))

    def fuse(self, model: nn.Module) -> None:
        """Put faster layers into a model, where the family has any; the same mathematics, rounded differently."""

    def release_launches(self, model: nn.Module, *, for_good: bool) -> bool:
        """Let go of memory that only makes launches of a model in training cheap; whether there was any.

        `for_good`: take none again in this phase.
        """
        return False

    # Decoding

    rows_at_once: ClassVar[Mapping[str, int]] = {"cpu": 32, "cuda": 256}  # at most, by device

    def clips_at_once(self, device: str, beam_size: int) -> int:
        """Clips that are decoded together where nobody says another number."""
        return max(1, self.rows_at_once[torch.device(device).type] // beam_size)

    @abstractmethod
    def decoder(self, loaded: LoadedModel, how: Decoding) -> Decoder:
        """What writes down clips in this way."""

    # Alignment

    class_s: float  # width of a time class of the family's aligner

    def lay_words(self, tokenizer: Any, words: Sequence[Sequence[str]], num_frames: Sequence[int]) -> Pack:
        """A pack for the aligner, without its audio: two label positions a word, for its start and its end."""
        raise ModelError(f"{self.title} has no forced aligner")

    # Files

    @abstractmethod
    def load_recogniser(self, name: str, *, dtype: torch.dtype, device: str) -> LoadedModel:
        """In evaluation mode; ModelError for what is not whole."""

    def load_aligner(self, name: str, *, dtype: torch.dtype, device: str) -> LoadedModel:
        raise ModelError(f"model '{name}': {self.title} has no forced aligner")

    @abstractmethod
    def save(self, loaded: LoadedModel, path: Path, dtype: torch.dtype | None = None) -> None:
        """Write a model into a folder, in the first of the family's layouts.

        Without a `dtype` in that of the family's published models, or, where those have several, in the model's own.
        """

    @abstractmethod
    def convert(self, source: str, path: Path, layout: str, languages: Sequence[str]) -> None:
        """Write a model into a new folder, whole or not at all: but for `exports` the same weights bit for bit."""

    # Verification

    def oddities(self, path: Path) -> list[Oddity]:
        """What the configuration and the tokenizer in a folder say that models of the family do not."""
        return []

    def variants(self, model: nn.Module) -> Iterator[tuple[str, AbstractContextManager[None]]]:
        """Settings that a configuration may have wrong, with other values: in words, and while the context is open."""
        return iter(())

    def reference(self, name: str, prompt: Prompt, *, dtype: torch.dtype, device: str) -> Reference | None:
        """The same model as another library computes it; None where there is none."""
        return None

    def official(
        self, name: str, prompt: Prompt, python: Path, clips: Sequence[np.ndarray], texts: Sequence[str],
        limits: Sequence[int], *, device: str,
    ) -> Reference | None:  # fmt: skip
        """The same as the family's own package says of these clips, in the environment of `python`."""
        return None

    @abstractmethod
    def usage(
        self, name: str, layout: str, *, model: Path, language: str, beam_size: int = 1, length_penalty: float = 1.0
    ) -> str:
        """Markdown for a model card: how a published model is used.

        Its one block of Python opens the model `name` and prints the text of each file of `["speech.wav"]`, spoken in
        `language`. That of the first layout and of `exports` runs without shibolet in our own environment: `publish`
        runs it. `model` is the folder of what is published: its settings may decide what the code has to say.
        """

    def adapter_usage(self, adapter: str, base: str, layout: str, *, language: str) -> str:
        """The same of an adapter in the folder `adapter` for a base in a layout; for families that take adapters."""
        raise RecipeError(f"a {self.title} takes no adapters")


def family_of(config: Any) -> Family:
    """The family of a configuration, as `outline_of` takes it."""
    return import_module(outline_of(config).module).FAMILY


def family_named(name: str) -> Family:
    """The family of a model by name; no weights are read."""
    return import_module(outline_named(name).module).FAMILY


def load_recogniser(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """A recogniser of any family, in evaluation mode; ModelError for what is of none, or not whole."""
    return family_named(name).load_recogniser(name, dtype=dtype, device=device)


def load_aligner(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """A forced aligner of any family that has them, in evaluation mode."""
    return family_named(name).load_aligner(name, dtype=dtype, device=device)


def convert(source: str, path: Path, layout: str, languages: Sequence[str] = ()) -> None:
    """Write the model `source` into the new folder `path`; `languages` join the list of one that has such a list."""
    family = family_named(source)
    family.check_layout(layout)
    family.convert(source, path, layout, languages)
