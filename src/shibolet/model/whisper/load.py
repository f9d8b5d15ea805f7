"""Reading a Whisper in transformers' layout; what is none, or not whole, or not of 30 s windows, is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
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
from shibolet.model.whisper.lengths import HOP_SAMPLES, WINDOW_STATES
from shibolet.model.whisper.parts import is_tied

HEAD = "proj_out.weight"
EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")  # of transformers 4 and 5
_FEATURES = {  # setting of a feature extractor -> the only value that `features.LogMel` computes
    "sampling_rate": 16000, "hop_length": HOP_SAMPLES, "n_fft": 400, "chunk_length": 30, "dither": 0.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A Whisper on disk, its weights not yet read."""

    path: Path
    config: WhisperConfig
    tokenizer: PreTrainedTokenizerBase
    extractor: WhisperFeatureExtractor

    def read_weights(self) -> dict[str, Tensor]:
        """Every weight by its name, as stored; a tied head is not among them."""
        return self._each_weight(lambda handle, key: handle.get_tensor(key))

    def check_weights(self) -> None:
        """ModelError when the weights' names and shapes are not those of the configuration; only headers are read."""
        shapes = self._each_weight(lambda handle, key: list(handle.get_slice(key).get_shape()))
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(self.config)
        expected = {name: list(weight.shape) for name, weight in model.named_parameters()}
        require_shapes(self.path, shapes, expected)

    def _each_weight(self, read: Callable[[Any, str], Any]) -> dict[str, Any]:
        found = {}
        for file in weight_files(str(self.path), self.path):
            with safe_open(file, "pt") as handle:
                found |= {key: read(handle, key) for key in handle.keys()}
        if self.config.tie_word_embeddings:
            found.pop(HEAD, None)  # written by some, equal to the embeddings
        return found


def open_folder(name: str) -> ModelFolder:
    """A model's folder, checked but its weights not yet read; ModelError for what is no Whisper, or not whole."""
    path, config = read_config(name)
    if config.get("model_type") != "whisper":
        raise ModelError(f"model '{name}' is a '{config.get('model_type')}', not a Whisper (config.json in {path})")
    weight_files(name, path)
    require_tokenizer(name, path)
    whisper = from_folder(WhisperConfig, path)
    if whisper.max_source_positions != WINDOW_STATES:
        raise ModelError(
            f"model '{name}': {path}/config.json says max_source_positions {whisper.max_source_positions}; shibolet "
            f"trains Whispers that hear 30 s ({WINDOW_STATES})"
        )
    folder = ModelFolder(path, whisper, read_tokenizer(name, path), _extractor(name, path, whisper))
    with opening(path):
        folder.check_weights()
    return folder


def _extractor(name: str, path: Path, config: WhisperConfig) -> WhisperFeatureExtractor:
    """The folder's; the usual one of so many mel bins where it has none, as some fine-tuned models have not."""
    if not any((path / file).is_file() for file in EXTRACTOR_FILES):
        return WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    extractor = from_folder(AutoFeatureExtractor, path)
    for key, value in {**_FEATURES, "feature_size": config.num_mel_bins}.items():
        if (found := getattr(extractor, key, None)) != value:
            raise ModelError(f"model '{name}': its feature extractor in {path} has {key} {found}, it has to be {value}")
    return extractor


def load_recogniser(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """A Whisper for transcription, in evaluation mode."""
    folder = open_folder(name)
    model = read_model(folder, dtype, device)
    return LoadedModel(model, folder.tokenizer, folder.extractor, folder.path, identity_of(folder.path))


def read_model(folder: ModelFolder, dtype: torch.dtype, device: str) -> WhisperForConditionalGeneration:
    """transformers' model of a folder, in evaluation mode."""
    with opening(folder.path):
        model = WhisperForConditionalGeneration.from_pretrained(
            folder.path, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
        )
    if model.config.tie_word_embeddings and not is_tied(model):  # as transformers reads two weights that differ
        raise ModelError(
            f"model '{folder.path}': its output projection ({HEAD}) differs from the embeddings, and config.json says "
            "that they are one; set tie_word_embeddings to false there"
        )
    return model.to(device).eval()
