"""Opening any speech recogniser of transformers: its own weights, all of them, and nothing that was made up."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel

from shibolet.errors import ModelError
from shibolet.model.folders import dtype_on, from_folder, opening, weight_files

_UNUSED = "masked_spec_embed"  # of training alone; many checkpoints lack it


def open_model(auto: Any, path: Path, device: str, **settings) -> PreTrainedModel:
    """A model in evaluation mode by one of transformers' auto classes; `settings` are `from_pretrained`'s.

    ModelError where weights are missing, or layers are left over: transformers would draw random ones, or drop layers,
    and say so in a log.
    """
    _check_amount(auto, path)
    model, loaded = from_folder(
        auto, path, dtype=dtype_on(device), use_safetensors=True, output_loading_info=True, **settings
    )
    if missing := sorted(key for key in loaded["missing_keys"] if _UNUSED not in key):
        raise ModelError(
            f"the model in {path} lacks {len(missing)} of its weights, the first are {', '.join(missing[:3])}; is the "
            "download whole, and is the configuration of this model?"
        )
    if extra := sorted(key for key in loaded["unexpected_keys"] if re.search(r"\.layers?\.\d+\.", key)):
        raise ModelError(
            f"the model in {path} has weights of layers that its configuration leaves out, the first are "
            f"{', '.join(extra[:3])}; take both from one place"
        )
    return model.to(device).eval()


def _check_amount(auto: Any, path: Path) -> None:
    """ModelError where a configuration is of a far larger model than the weights: its memory would be asked for."""
    stored = 0
    for file in weight_files(str(path), path):
        with opening(path), safe_open(file, "pt") as weights:
            stored += sum(torch.Size(weights.get_slice(key).get_shape()).numel() for key in weights.keys())
    config = from_folder(AutoConfig, path)
    with opening(path), torch.device("meta"):
        said = sum(weight.numel() for weight in auto.from_config(config, trust_remote_code=False).parameters())
    if said > 2 * stored:
        raise ModelError(
            f"the model in {path} has {stored:,} weights, and its configuration says {said:,}; take both from one place"
        )
