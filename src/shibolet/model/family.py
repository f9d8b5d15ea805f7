"""What a family of models is to all that trains, listens, evaluates, plans and publishes, and which families there are.

A family is a package beside this file whose `family.py` holds one object, `FAMILY`; outside of `model/` only the demo
names one. It has no state: what a model is stands in its configuration, and `family_of` finds the object by that.

Shapes: A encoder states, L label positions, D model dim, V vocabulary, E encoder dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from shibolet.errors import ModelError, RecipeError
from shibolet.model.folders import config_in, from_folder, is_local, read_config, resolve
from shibolet.model.protocols import (
    Cost,
    Decoder,
    Features,
    Frame,
    Movable,
    Oddity,
    Pack,
    Prompt,
    Reference,
    SpecMask,
    Targets,
)

FAMILIES = {"qwen3_asr": "shibolet.model.qwen3_asr.family"}  # model_type of config.json -> the module of its FAMILY
_MARKS = {"thinker_config": "qwen3_asr"}  # key that tells another layout of a family -> its model_type
_STANDARD = "qwen3_asr"  # the family of a Hub id that is not on this machine


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


class Family(ABC):
    """One architecture; every method is a function of its arguments alone.

    Parts are names of a partition of the parameters. What begins with "encoder." is the encoder, whose output can be
    kept while all of it is frozen; `encoder.layers` and `decoder.layers` can be named in spans of layers.
    """

    title: str  # as people know it
    parts: tuple[str, ...]  # in the order of the forward pass, after "lora" where adapters can be attached
    min_samples: int = 1  # shorter audio is padded with zeros
    max_samples: int | None = None  # longer audio is not trained on
    frames_per_s: int = 100
    states_per_s: int  # of a full second
    prompt_tokens: int  # around the audio; with the next two, for plans before there is a tokenizer
    target_tokens: int  # labels around a text
    text_tokens_per_s: float  # of speech
    listens: bool = False  # an audit opens its models as ones of the family; else as any of transformers
    layouts: tuple[str, ...] = ("native",)  # of its folders on disk; the first is what training writes
    libraries: ClassVar[Mapping[str, str]] = {}  # layout -> the library that reads it, as the Hub calls it
    tag: str  # of a model card

    # Lengths

    @abstractmethod
    def num_frames(self, num_samples: int) -> int:
        """Frames of features of an utterance of that many samples at 16 kHz."""

    @abstractmethod
    def num_audio_tokens(self, num_frames: int) -> int:
        """Places in the sequence that its audio takes."""

    def num_states(self, num_frames: int) -> int:
        """A, the rows of what `encode` gives of it."""
        return self.num_audio_tokens(num_frames)

    @abstractmethod
    def max_tokens(self, config: Any) -> int:
        """The longest sequence that a model has positions for."""

    # Parts

    @abstractmethod
    def part_of(self, parameter: str) -> tuple[str, int | None]:
        """The part a parameter belongs to and its layer, where the part has layers."""

    @abstractmethod
    def num_layers(self, model: nn.Module) -> dict[str, int]:
        """Of "encoder" and "decoder"."""

    @abstractmethod
    def encoder_dim(self, model: nn.Module) -> int:
        """E, of what `encode` gives."""

    @abstractmethod
    def is_tied(self, model: nn.Module) -> bool:
        """Whether the output projection is the embedding matrix."""

    @abstractmethod
    def untie_head(self, model: nn.Module) -> None:
        """Give the output projection weights of its own, equal to the embeddings'; nothing to do if untied."""

    def adapter_pattern(self, layers: Sequence[int], targets: Sequence[str]) -> str:
        """The modules of decoder layers that adapters go to, as a regular expression of their whole names."""
        raise RecipeError(f"a {self.title} takes no adapters; set train.lora to null")

    # Prompt and packs

    @abstractmethod
    def targets(self, tokenizer: Any, prompt: Prompt) -> Targets:
        """The prompt in tokens."""

    @abstractmethod
    def lay_out(self, frame: Frame, texts: Sequence[Sequence[int]], num_frames: Sequence[int]) -> Pack:
        """A pack of utterances with their texts as labels, without its audio."""

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

    def fuse(self, model: nn.Module) -> None:  # noqa: B027
        """Put faster layers into a model, where the family has any; the same mathematics, rounded differently."""

    # Cost

    @abstractmethod
    def cost(self, model: nn.Module, trainable: Iterable[str], width: int) -> Cost:
        """`model` may be on the meta device; `trainable` are parameter names, `width` the bytes of a weight."""

    # Decoding

    rows_at_once: ClassVar[Mapping[str, int]] = {"cpu": 32, "cuda": 256}  # at most, by device

    def clips_at_once(self, device: str, beam_size: int) -> int:
        """Clips that are decoded together where nobody says another number."""
        return max(1, self.rows_at_once[torch.device(device).type] // beam_size)

    @abstractmethod
    def decoder(
        self, loaded: LoadedModel, prompt: Prompt, *, clips_at_once: int | None, beam_size: int, length_penalty: float
    ) -> Decoder:
        """Greedy decoding for a `beam_size` of 1; `clips_at_once` None: as many as memory allows."""

    # Alignment

    class_s: float  # width of a time class of the family's aligner

    def lay_words(self, tokenizer: Any, words: Sequence[Sequence[str]], num_frames: Sequence[int]) -> Pack:
        """A pack for the aligner, without its audio: two label positions a word, for its start and its end."""
        raise ModelError(f"{self.title} has no forced aligner")

    # Files

    @abstractmethod
    def config_in(self, path: Path) -> tuple[Any, str]:
        """The configuration in a folder and its layout; no weights are read."""

    @abstractmethod
    def blank(self, config: Any) -> nn.Module:
        """A recogniser with random weights; under `torch.device("meta")` with none."""

    @abstractmethod
    def load_recogniser(self, name: str, *, dtype: torch.dtype, device: str) -> LoadedModel:
        """In evaluation mode; ModelError for what is not whole."""

    def load_aligner(self, name: str, *, dtype: torch.dtype, device: str) -> LoadedModel:
        raise ModelError(f"model '{name}': {self.title} has no forced aligner")

    @abstractmethod
    def save(self, loaded: LoadedModel, path: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a model into a folder, in the first of the family's layouts."""

    @abstractmethod
    def convert(self, source: str, path: Path, layout: str, languages: Sequence[str]) -> None:
        """Write a model into a new folder: the same weights bit for bit, whole or not at all."""

    def tokenizer(self, name: str) -> Any | None:
        """What `targets` takes, of a model on this machine; None where it is not here. Nothing is downloaded."""
        from transformers import AutoTokenizer

        folder = _offline_folder(name)
        enough = (("tokenizer.json",), ("vocab.json", "merges.txt"))
        if folder is None or not any(all((folder / file).is_file() for file in files) for files in enough):
            return None
        return from_folder(AutoTokenizer, folder)

    def standard_config(self) -> tuple[Any, str]:
        """The configuration of the family's usual model, and its name."""
        raise ModelError(f"a {self.title} has no usual size")

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
    def usage(self, name: str, layout: str, *, beam_size: int = 1, length_penalty: float = 1.0) -> str:
        """Markdown for a model card: how a published model is used.

        Its one block of Python opens the model `name` and prints the text of each file of `["speech.wav"]`. That of the
        first layout runs without shibolet in our own environment: `publish` runs it.
        """

    def adapter_usage(self, adapter: str, base: str, layout: str) -> str:
        """The same of an adapter in the folder `adapter` for a base in a layout; for families that take adapters."""
        raise RecipeError(f"a {self.title} takes no adapters")


def family_of(config: Any) -> Family:
    """The family of a configuration: `config.json` as a mapping, or what transformers makes of it."""
    if (kind := _kind_of(config)) is None:
        raise ModelError(f"a '{_value(config, 'model_type')}' is none of the model families: {', '.join(FAMILIES)}")
    return import_module(FAMILIES[kind]).FAMILY


def has_family(config: Mapping[str, Any]) -> bool:
    return _kind_of(config) is not None


def load_recogniser(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """A recogniser of any family, in evaluation mode; ModelError for what is of none, or not whole."""
    return family_named(name).load_recogniser(name, dtype=dtype, device=device)


def load_aligner(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """A forced aligner of any family that has them, in evaluation mode."""
    return family_named(name).load_aligner(name, dtype=dtype, device=device)


def convert(source: str, path: Path, layout: str, languages: Sequence[str] = ()) -> None:
    """Write the model `source` into the new folder `path`; `languages` join the list of one that has such a list."""
    family = family_named(source)
    if layout not in family.layouts:
        raise ModelError(f"a {family.title} has no layout '{layout}'; it has {', '.join(family.layouts)}")
    family.convert(source, path, layout, languages)


def offline_config(name: str) -> tuple[Any, str]:
    """The configuration of a model and, in words, where it is from: its folder, the Hub's cache, or a usual one's.

    The usual model of the first family stands in for a Hub id that is not in the cache.
    """
    if (path := _offline_folder(name)) is None:
        return usual_config(f"{name} is not on this machine")
    family = _family_in(name, path, config_in(name, path))
    config, layout = family.config_in(path)
    return config, name if layout == family.layouts[0] else f"{name} ({layout} layout)"


def _offline_folder(name: str) -> Path | None:
    """The folder of a model without a network: its own or the Hub's cache; None where it is in neither."""
    if is_local(name):
        return resolve(name)
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def usual_config(why: str) -> tuple[Any, str]:
    """The configuration of the first family's usual model, which stands in for one that is not there."""
    config, usual = import_module(FAMILIES[_STANDARD]).FAMILY.standard_config()
    return config, f"{why}: sizes are those of {usual}"


def family_named(name: str) -> Family:
    """The family of a model by name; no weights are read."""
    return _family_in(name, *read_config(name))


def _family_in(name: str, path: Path, config: Mapping[str, Any]) -> Family:
    if not has_family(config):
        titles = " or ".join(import_module(module).FAMILY.title for module in FAMILIES.values())
        raise ModelError(f"model '{name}' is a '{config.get('model_type')}', not a {titles} (config.json in {path})")
    return family_of(config)


def _kind_of(config: Any) -> str | None:
    for mark, kind in _MARKS.items():
        if _value(config, mark) is not None:
            return kind
    kind = _value(config, "model_type")
    return kind if kind in FAMILIES else None


def _value(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
