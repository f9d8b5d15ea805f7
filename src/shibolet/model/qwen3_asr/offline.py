"""A recogniser's configuration without a network and without weights: what a plan needs."""

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import AutoTokenizer, Qwen3ASRConfig

from shibolet.errors import ModelError
from shibolet.model.folders import BUILTIN, resolve
from shibolet.model.qwen3_asr.layouts import is_legacy, native_config


def offline_config(name: str) -> tuple[Qwen3ASRConfig, str]:
    """The configuration of a model and, in words, where it is from: its folder, the Hub's cache, or the 1.7B model's.

    The 1.7B model's stands in for a Hub id that is not in the cache.
    """
    if is_local(name):
        path = resolve(name)
    else:
        cached = try_to_load_from_cache(name, "config.json")
        if not isinstance(cached, str):
            return standard_config(), f"{name} is not on this machine: sizes are those of Qwen3-ASR-1.7B"
        path = Path(cached).parent
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if is_legacy(config):
        return native_config(config, AutoTokenizer.from_pretrained(path)), f"{name} (legacy layout)"
    if config.get("model_type") != "qwen3_asr":
        raise ModelError(f"model '{name}' is a '{config.get('model_type')}', not a Qwen3-ASR (config.json in {path})")
    return Qwen3ASRConfig.from_pretrained(path), name


def is_local(name: str) -> bool:
    """Whether `resolve` looks for a model on this machine's disk and not on the Hub."""
    return name.startswith((BUILTIN, ".", "/", "~")) or Path(name).exists()


def standard_config() -> Qwen3ASRConfig:
    """Qwen3-ASR-1.7B: transformers' defaults, less an encoder output that does not fit the decoder."""
    return Qwen3ASRConfig(audio_config={"output_dim": Qwen3ASRConfig().text_config.hidden_size})
