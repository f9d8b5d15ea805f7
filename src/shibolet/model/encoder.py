"""The encoder of a model as a whole: whether it is frozen, and which one it is. What it makes can be kept by that."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from shibolet.model.family import family_of
from shibolet.records.files import hash_json

_THREADS = 8  # that hash weights, each without Python's lock


def encoder_is_frozen(model: nn.Module) -> bool:
    """Whether no weight trains that the encoder's output depends on."""
    return not any(p.requires_grad for p in _weights(model).values())


def encoder_hash(model: nn.Module) -> str:
    """Of all weights that the encoder's output depends on, and of the model's dtype."""
    weights = _weights(model)
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = dict(zip(weights, pool.map(_hash, weights.values()), strict=True))
    return hash_json([hashes, str(model.dtype)])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    family, named = family_of(model.config), model.named_parameters()
    return {name: weight for name, weight in named if family.part_of(name)[0].startswith("encoder.")}


def _hash(weight: Tensor) -> str:
    return hashlib.sha256(weight.detach().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
