"""Writing a Whisper as transformers reads it, complete: what is not weights stays as its source has it."""

from functools import partial
from pathlib import Path

import torch

from shibolet.model.family import LoadedModel
from shibolet.model.weights import write_sharded
from shibolet.model.whisper.load import EXTRACTOR_FILES, HEAD
from shibolet.model.whisper.parts import is_tied
from shibolet.records.ahead import Ahead
from shibolet.records.files import make_folder, read_json, write_bytes

KEPT = (  # of the source: settings of `generate` and of features, and the tokenizer in either form
    "generation_config.json", *EXTRACTOR_FILES, "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "normalizer.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip


def save_model(loaded: LoadedModel, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model into a folder: `AutoModelForSpeechSeq2Seq`, `AutoProcessor` and pipelines open it.

    Without a `dtype` it has that in which it trained: so the result of a training in float32 is the model that its dev
    scores are of, and one that learned little does not lose it to rounding.
    """
    model = loaded.model
    dtype = dtype or model.dtype
    state = {name: weight.to(dtype) for name, weight in model.state_dict().items()}
    if is_tied(model):
        state.pop(HEAD)
    make_folder(path)
    weights = Ahead(partial(write_sharded, path, state))  # small files wait as long for a disk that has much to do
    try:
        _write_settings(loaded, path, dtype)
    finally:
        weights.wait()
    weights.get()


def _write_settings(loaded: LoadedModel, path: Path, dtype: torch.dtype) -> None:
    """Everything but the weights."""
    config = type(loaded.model.config).from_dict(loaded.model.config.to_dict())  # of the model, not of the file
    config.dtype, config.architectures = dtype, [type(loaded.model).__name__]
    config.save_pretrained(path)
    kept = [name for name in KEPT if (loaded.path / name).is_file()]
    for name in kept:
        write_bytes(path / name, (loaded.path / name).read_bytes())
    if not any(name in kept for name in EXTRACTOR_FILES):  # as with some fine-tuned models
        loaded.extractor.save_pretrained(path)
    layers = (
        read_json(loaded.path / "config.json").get("decoder_layers") if (loaded.path / "config.json").is_file() else 0
    )
    if "generation_config.json" not in kept or layers != config.decoder_layers:  # of other layers than the source's
        loaded.model.generation_config.save_pretrained(path)
