"""Reading Qwen3-ASR and its forced aligner in either layout (`layouts`); what is neither, or not whole, is refused.

Weights are read from safetensors only: a pickle can run code when it is opened, and is never opened here.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)

from shibolet.errors import ModelError
from shibolet.model.fused import fuse_decoder
from shibolet.model.layouts import is_aligner, is_legacy, native_config, native_name

BUILTIN = "builtin:"  # builtin:round1, builtin:aligner, builtin:ctc ship with the package
CTRANSLATE2_WEIGHTS = "model.bin"  # no pickle, unlike PyTorch's .bin files, which have longer names
# Of a Hub model; the card for its licence.
FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "README.md", CTRANSLATE2_WEIGHTS]
NEEDS_CTRANSLATE2 = "is in CTranslate2's format, which needs a package more: pip install 'shibolet[faster-whisper]'"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with what is needed to feed it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    extractor: Qwen3ASRFeatureExtractor
    path: Path
    identity: str  # hash of configuration and weights: calibrations and caches are bound to it


def dtype_on(device: str) -> torch.dtype:
    """The precision of listening and transcribing on a device."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def resolve(name: str) -> Path:
    """The folder of a model: a local path, `builtin:NAME`, or a Hub id (from the cache, else downloaded)."""
    if name.startswith(BUILTIN):
        path = Path(str(files("shibolet"))) / "demo" / "checkpoints" / name.removeprefix(BUILTIN)
    elif Path(name).exists() or name.startswith((".", "/", "~")):
        path = Path(name).expanduser()
    else:
        path = _from_hub(name)
    if path.suffix in _PICKLES and path.is_file():
        raise ModelError(f"model '{name}': {_pickle_advice(path)}")
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        raise ModelError(
            f"model '{name}': {path} holds an adapter alone; merge it into its base first"
            if adapter
            else f"model '{name}': no config.json in {path}; expected a Hub id or a folder of a saved model"
        )
    return path


def _pickle_advice(path: Path) -> str:
    return (
        f"{path.name} is a pickle, which can run code when it is opened; take the safetensors, or convert it where you "
        "trust it"
    )


def read_config(name: str) -> tuple[Path, dict]:
    """The folder of a model and its `config.json`."""
    path = resolve(name)
    return path, _read_json(name, path / "config.json")


def _read_json(name: str, path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model '{name}': {path} is not whole ({error}); download or save the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"model '{name}': {path} holds no mapping of keys to values")
    return value


def weight_files(name: str, path: Path) -> list[Path]:
    """The safetensors files of a model folder, each of the size that its header says; ModelError otherwise."""
    index = path / INDEX
    if index.is_file():
        found = sorted({path / shard for shard in _read_json(name, index)["weight_map"].values()})
    else:
        found = sorted(path.glob("*.safetensors"))
        if found and (shard := next((file for file in found if "-of-" in file.stem), None)):
            raise ModelError(f"model '{name}': {shard.name} is one of several, but {INDEX} is missing in {path}")
    if missing := [file.name for file in found if not file.is_file()]:
        raise ModelError(
            f"model '{name}': half a download: {len(missing)} of {len(found)} files of weights are missing in {path}, "
            f"the first is {missing[0]}"
        )
    if not found:
        pickles = sorted(file for file in path.iterdir() if file.suffix in _PICKLES)
        advice = f": {_pickle_advice(pickles[0])}" if pickles else ""
        raise ModelError(f"model '{name}': {path} has a configuration but no .safetensors weights{advice}")
    for file in found:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ModelError(
                f"model '{name}': {file} is not whole or no safetensors file ({error}); download or save it again"
            ) from error
    return found


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except GatedRepoError as error:
        page = f"https://huggingface.co/{name}"
        raise ModelError(f"model '{name}' is gated: ask for access at {page}, then run 'hf auth login'") from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"model '{name}' is no folder here, not in the local cache, and the Hub cannot be reached"
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"model '{name}' is neither a folder here nor to be had from the Hub: {reason}") from error


def is_ctranslate2(files: Iterable[str]) -> bool:
    """Whether a model with these files has CTranslate2's weights and no others that can be read."""
    return CTRANSLATE2_WEIGHTS in (files := set(files)) and not any(file.endswith(".safetensors") for file in files)


def identity_of(path: Path) -> str:
    """Content hash of a model folder's configuration and weights (16 hex digits)."""
    digest = hashlib.sha256()
    weights = sorted(path.glob("*.safetensors")) or list(path.glob(CTRANSLATE2_WEIGHTS))
    for file in [path / "config.json", *weights]:
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A Qwen3-ASR or a forced aligner on disk, its weights not yet read."""

    path: Path
    config: dict  # config.json as it stands there
    native: Qwen3ASRConfig
    tokenizer: PreTrainedTokenizerBase
    aligner: bool

    @property
    def legacy(self) -> bool:
        return is_legacy(self.config)

    @property
    def model_class(self) -> type[PreTrainedModel]:
        return Qwen3ASRForTokenClassification if self.aligner else Qwen3ASRForConditionalGeneration

    def read_weights(self) -> dict[str, Tensor]:
        """Every weight by its native name, as stored."""
        return self._each_weight(lambda handle, key: handle.get_tensor(key))

    def check_weights(self) -> None:
        """ModelError when the weights' names and shapes are not those of the configuration; only headers are read."""
        shapes = self._each_weight(lambda handle, key: list(handle.get_slice(key).get_shape()))
        with torch.device("meta"):
            expected = {name: list(weight.shape) for name, weight in self.model_class(self.native).named_parameters()}
        missing, unexpected = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
        if missing or unexpected:
            raise ModelError(
                f"model '{self.path}': {len(missing)} weights missing (first: {missing[:3]}) and {len(unexpected)} not "
                f"of this model (first: {unexpected[:3]}); is the download whole, and the right kind of model?"
            )
        for name, shape in expected.items():
            if shapes[name] != shape:
                raise ModelError(
                    f"model '{self.path}': weight '{name}' has shape {shapes[name]}, its configuration says {shape}"
                )

    def _each_weight(self, read: Callable[[Any, str], Any]) -> dict[str, Any]:
        found = {}
        for file in weight_files(str(self.path), self.path):
            with safe_open(file, "pt") as handle:
                for key in handle.keys():
                    name = native_name(key, aligner=self.aligner) if self.legacy else key
                    found[name] = read(handle, key)
        if self.native.tie_word_embeddings and not self.aligner:
            found.pop("lm_head.weight", None)  # written by some, read by nobody
        return found


def open_folder(name: str) -> ModelFolder:
    """A model's folder, checked but its weights not yet read; ModelError for what is no Qwen3-ASR, or not whole."""
    path, config = read_config(name)
    if not is_legacy(config) and config.get("model_type") != "qwen3_asr":
        raise ModelError(f"model '{name}' is a '{config.get('model_type')}', not a Qwen3-ASR (config.json in {path})")
    weight_files(name, path)
    if (path / "tokenizer.json").is_file():
        _read_json(name, path / "tokenizer.json")
    elif not ((path / "vocab.json").is_file() and (path / "merges.txt").is_file()):
        raise ModelError(f"model '{name}': {path} has no tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    tokenizer = AutoTokenizer.from_pretrained(path)
    try:
        native = native_config(config, tokenizer) if is_legacy(config) else Qwen3ASRConfig.from_pretrained(path)
    except KeyError as error:
        raise ModelError(f"model '{name}': config.json in {path} has no {error}; is it whole?") from error
    folder = ModelFolder(path, config, native, tokenizer, is_aligner(config))
    folder.check_weights()
    return folder


def load_recogniser(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """A Qwen3-ASR for transcription, in evaluation mode."""
    return _load(name, Qwen3ASRForConditionalGeneration, dtype, device)


def load_aligner(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """A Qwen3 forced aligner, in evaluation mode."""
    return _load(name, Qwen3ASRForTokenClassification, dtype, device)


def _load(name: str, cls: type[PreTrainedModel], dtype: torch.dtype, device: str) -> LoadedModel:
    folder = open_folder(name)
    if folder.model_class is not cls:
        kind = "a forced aligner" if folder.aligner else "a recogniser"
        raise ModelError(f"model '{name}' is {kind} ({folder.path}); the other kind was asked for")
    source = {"config": folder.native, "state_dict": folder.read_weights()} if folder.legacy else {}
    model = cls.from_pretrained(
        None if folder.legacy else folder.path, **source, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
    )
    extractor = Qwen3ASRFeatureExtractor(feature_size=model.config.audio_config.num_mel_bins)
    model = model.to(device)
    if model.device.type == "cuda":
        fuse_decoder(model)
    return LoadedModel(model.eval(), folder.tokenizer, extractor, folder.path, identity_of(folder.path))
