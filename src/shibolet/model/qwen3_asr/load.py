"""Reading Qwen3-ASR and its forced aligner in either layout (`layouts`); what is neither, or not whole, is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)

from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel
from shibolet.model.folders import (
    from_folder,
    identity_of,
    opening,
    read_config,
    read_tokenizer,
    require_shapes,
    require_tokenizer,
    weight_files,
)
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.layouts import is_aligner, is_legacy, native_config, native_name


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
        require_shapes(self.path, shapes, expected)

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
    require_tokenizer(name, path)
    tokenizer = read_tokenizer(name, path)
    folder = ModelFolder(path, config, read_native(path, config, tokenizer), tokenizer, is_aligner(config))
    with opening(path):
        folder.check_weights()
    return folder


def read_native(path: Path, config: dict, tokenizer: PreTrainedTokenizerBase) -> Qwen3ASRConfig:
    """The native configuration of a folder with this `config.json`, in either layout."""
    if not is_legacy(config):
        return from_folder(Qwen3ASRConfig, path)
    with opening(path):
        return native_config(config, tokenizer)


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
    model, extractor = read_model(folder, dtype, device)
    if model.device.type == "cuda":
        fuse_layers(model)
    return LoadedModel(model, folder.tokenizer, extractor, folder.path, identity_of(folder.path))


def read_model(
    folder: ModelFolder, dtype: torch.dtype, device: str
) -> tuple[PreTrainedModel, Qwen3ASRFeatureExtractor]:
    """transformers' model of a folder with nothing of ours in it, in evaluation mode, and what makes its features."""
    source = {"config": folder.native, "state_dict": folder.read_weights()} if folder.legacy else {}
    with opening(folder.path):
        model = folder.model_class.from_pretrained(
            None if folder.legacy else folder.path, **source, dtype=dtype, attn_implementation="sdpa",
            use_safetensors=True, trust_remote_code=False,
        )  # fmt: skip
    extractor = Qwen3ASRFeatureExtractor(feature_size=model.config.audio_config.num_mel_bins)
    return model.to(device).eval(), extractor
