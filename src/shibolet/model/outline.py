"""What is known of a model from its configuration alone, and which families there are; nothing here needs torch.

A family is a package beside this file. Its `outline.py` holds one object, `OUTLINE`: lengths, parts, names and shapes
of weights, costs. Its `family.py` holds `FAMILY`, which is the same and computes too (`model/family.py`). Neither has
a state: what a model is stands in its configuration, and `outline_of` finds the object by that. Outside of `model/`
only the demo names a family.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from shibolet.errors import ModelError, RecipeError
from shibolet.model.blueprint import Blueprint, Parameters
from shibolet.model.folders import config_in, is_ctranslate2, is_local, read_config, resolve
from shibolet.model.protocols import Cost, Prompt, Targets

if TYPE_CHECKING:
    from shibolet.model.fast.compiling import Widths

FAMILIES = {  # model_type of config.json -> the module of its OUTLINE
    "qwen3_asr": "shibolet.model.qwen3_asr.outline",
    "whisper": "shibolet.model.whisper.outline",
}
_MARKS = {"thinker_config": "qwen3_asr"}  # key that tells another layout of a family -> its model_type
_STANDARD = "qwen3_asr"  # the family of a Hub id that is not on this machine and whose name no family knows
CACHE_FRAC = (
    0.35  # of a device's memory, for keys and values of what is written; the rest is for models, graphs and scores
)
# Of a GPU's memory, without which no graphs of layers are recorded: their activations get memory of their own.
GRAPHS_FREE_FRAC = 0.25


class Outline(ABC):
    """One architecture as its configurations tell it; every method is a function of its arguments alone.

    Parts are names of a partition of the parameters. What begins with "encoder." is the encoder, whose output can be
    kept while all of it is frozen; `encoder.layers` and `decoder.layers` can be named in spans of layers.
    """

    title: str  # as people know it
    module: str  # that holds FAMILY
    parts: tuple[str, ...]  # in the order of the forward pass, after "lora" where adapters can be attached
    min_samples: int = 1  # shorter audio is padded with zeros
    max_samples: int | None = None  # longer audio is not trained on
    frames_per_s: int = 100
    prompt_tokens: int  # around the audio; with the next two, for plans before there is a tokenizer
    target_tokens: int  # labels around a text
    text_tokens_per_s: float  # of speech
    is_timed: bool = False  # whole rounds of its models were measured (rounds/rates.py)
    listens: bool = False  # an audit opens its models as ones of the family; else as any of transformers
    takes_style: bool = True  # its prompt can say how to write
    launches_graphs: bool = False  # a training in bf16 on a GPU launches its layers as graphs
    max_previous_tokens: int = 0  # of a text that was said before; 0: it is given none
    writes_timestamps: bool = False  # its texts can have the times of their segments
    # Of utterances whose data have a text before them, or timestamps, those that train with it in an epoch where the
    # recipe does not say; by the settings of who trains such models.
    previous_text_frac: float = 0.0
    timestamps_frac: float = 0.0
    layouts: tuple[str, ...] = ("native",)  # of its folders on disk; the first is what training writes
    libraries: ClassVar[Mapping[str, str]] = {}  # layout -> the library that reads it, as the Hub calls it
    # Of the layouts, those for other programs, which nothing here reads back -> the extra of shibolet that writes them.
    exports: ClassVar[Mapping[str, str]] = {}
    tag: str  # of a model card
    trial: str = "hebrew-round2"  # the shipped recipe whose phases `verify` trains where nobody names one

    # Lengths

    @abstractmethod
    def num_frames(self, num_samples: int) -> int:
        """Frames of features of an utterance of that many samples at 16 kHz."""

    def num_heard_frames(self, num_samples: int) -> int:
        """Those of them that hold its audio; the others are padding."""
        return self.num_frames(num_samples)

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
    def num_layers(self, model: Parameters) -> dict[str, int]:
        """Of "encoder" and "decoder"."""

    def untrainable(self, config: Any) -> str | None:
        """Why a model of this configuration cannot be trained here, and what to do; None where it can."""
        return None

    @abstractmethod
    def encoder_dim(self, model: Parameters) -> int:
        """E, of what `encode` gives."""

    @abstractmethod
    def is_tied(self, model: Parameters) -> bool:
        """Whether the output projection is the embedding matrix."""

    @abstractmethod
    def blueprint(self, config: Any, untie_head: bool = False) -> Blueprint:
        """A recogniser as names and shapes of weights; `untie_head`: with an output projection of its own."""

    def adapter_pattern(self, layers: Sequence[int], targets: Sequence[str]) -> str:
        """The modules of decoder layers that adapters go to, as a regular expression of their whole names."""
        raise RecipeError(f"a {self.title} takes no adapters; set train.lora to null")

    # Prompt

    @abstractmethod
    def targets(self, tokenizer: Any, prompt: Prompt) -> Targets:
        """The prompt in tokens."""

    # Cost

    @abstractmethod
    def cost(self, model: Parameters, trainable: Iterable[str], width: int) -> Cost:
        """`trainable` are parameter names, `width` the bytes of a weight."""

    def kernel_widths(self, config: Any) -> "Widths | None":
        """What `Family.fuse` takes kernels of on a GPU; None where it takes none of `model.fast`."""
        return None

    # Files

    @abstractmethod
    def config_in(self, path: Path) -> tuple[Any, str]:
        """What the configuration in a folder says of sizes, and its layout; no weights are read."""

    def tokenizer(self, name: str) -> Any | None:
        """What `targets` takes, of a model on this machine; None where it is not here. Nothing is downloaded."""
        return None if (folder := offline_folder(name)) is None else self.tokenizer_in(folder)

    @abstractmethod
    def tokenizer_in(self, folder: Path) -> Any | None:
        """The same of a folder; None where it has none."""

    def known_config(self, name: str) -> tuple[Any, str] | None:
        """The sizes that a model's name alone tells, and the published model that has them; None for other names."""
        return None

    def check_layout(self, layout: str) -> None:
        """RecipeError for a layout that models of the family cannot be written in, or not on this machine."""
        if layout not in self.layouts:
            raise RecipeError(f"a {self.title} has no layout '{layout}'; it has {', '.join(self.layouts)}")
        extra = self.exports.get(layout)
        if extra is not None and find_spec(extra.replace("-", "_")) is None:
            raise RecipeError(f"the layout '{layout}' needs a package more: pip install 'shibolet[{extra}]'")

    def standard_config(self) -> tuple[Any, str]:
        """The sizes of the family's usual model, and its name."""
        raise ModelError(f"a {self.title} has no usual size")


def outline_of(config: Any) -> Outline:
    """The outline of a configuration's family: `config.json` as a mapping, what it says of sizes, or transformers'."""
    if (kind := _kind_of(config)) is None:
        raise ModelError(f"a '{_value(config, 'model_type')}' is none of the model families: {', '.join(FAMILIES)}")
    return import_module(FAMILIES[kind]).OUTLINE


def has_family(config: Mapping[str, Any]) -> bool:
    return _kind_of(config) is not None


def outline_named(name: str) -> Outline:
    """The outline of a model's family by name; no weights are read."""
    return _outline_in(name, *read_config(name))


def kernel_widths(name: str) -> "Widths | None":
    """Those of a model on this machine whose family has kernels, an aligner too; None for any other."""
    if (path := offline_folder(name)) is None or not has_family(config := config_in(name, path)):
        return None
    outline = outline_of(config)
    return outline.kernel_widths(outline.config_in(path)[0])


def family_modules() -> list[str]:
    """The module of each family, which loads the libraries that its models need."""
    return [outline.module for outline in _outlines()]


def offline_config(name: str) -> tuple[Any, str]:
    """What a model's configuration says of sizes and, in words, where it is from: its folder, the Hub's cache, or a
    usual one's.

    For a Hub id that is not in the cache a published model stands in: the one that its name tells, else the usual one
    of the first family.
    """
    if (path := offline_folder(name)) is None:
        why = f"{name} is not on this machine"
        found = next(filter(None, (outline.known_config(name) for outline in _outlines())), None)
        return _stand_in(why, *found) if found else usual_config(why)
    outline = _outline_in(name, path, config_in(name, path))
    config, layout = outline.config_in(path)
    return config, name if layout == outline.layouts[0] else f"{name} ({layout} layout)"


def offline_folder(name: str) -> Path | None:
    """The folder of a model without a network: its own or the Hub's cache; None where it is in neither."""
    if is_local(name):
        return resolve(name)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def usual_config(why: str) -> tuple[Any, str]:
    """The sizes of the first family's usual model, which stands in for one that is not there."""
    return _stand_in(why, *import_module(FAMILIES[_STANDARD]).OUTLINE.standard_config())


def _stand_in(why: str, config: Any, name: str) -> tuple[Any, str]:
    return config, f"{why}: sizes are those of {name}"


def _outlines() -> list[Outline]:
    return [import_module(module).OUTLINE for module in FAMILIES.values()]


def _outline_in(name: str, path: Path, config: Mapping[str, Any]) -> Outline:
    if "model_type" not in config and is_ctranslate2(file.name for file in path.iterdir()):
        raise ModelError(
            f"model '{name}' is in CTranslate2's format, for programs that transcribe; it can be neither trained nor "
            "converted back: take the model that it was converted from"
        )
    if not has_family(config):
        *titles, last = [outline.title for outline in _outlines()]
        raise ModelError(
            f"model '{name}' is a '{config.get('model_type')}', not a {', '.join(titles)} or {last} (config.json in "
            f"{path})"
        )
    return outline_of(config)


def _kind_of(config: Any) -> str | None:
    for mark, kind in _MARKS.items():
        if _value(config, mark) is not None:
            return kind
    kind = _value(config, "model_type")
    return kind if kind in FAMILIES else None


def _value(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
