"""A partition of a model's parameters into parts that a recipe can name: every parameter is in exactly one.

Which parts there are is the family's to say; a blueprint can be asked as a module can, and takes adapters as it does.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shibolet.errors import RecipeError, did_you_mean
from shibolet.model.blueprint import Blueprint, Parameters, Weight
from shibolet.model.outline import outline_of
from shibolet.model.spans import LayerSpan

if TYPE_CHECKING:
    from torch import nn


def select(model: Parameters, part: str) -> dict[str, Any]:
    """Parameters of a part by name; RecipeError when it names nothing in this model."""
    family, wanted = outline_of(model.config), part
    if span := LayerSpan.parse(part):
        wanted = f"{span.tower}.layers"
        num_layers = family.num_layers(model)[span.tower]
        if (span.last or 0) > num_layers or span.first >= (num_layers if span.last is None else span.last):
            raise RecipeError(f"part '{part}': this model's {span.tower} has layers 0 to {num_layers - 1}")
    if part == "head" and family.is_tied(model):
        wanted = "embeddings"
    chosen = {}
    for name, parameter in model.named_parameters():
        kind, layer = family.part_of(name)
        if kind == wanted and (span is None or layer in span):
            chosen[name] = parameter
    if not chosen:
        known = sorted(family.parts)
        raise RecipeError(
            f"part '{part}' names no parameter of this model; parts are {', '.join(known)}{did_you_mean(part, known)}"
        )
    return chosen


def partition(model: Parameters, parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Parameters by part, in the order of the forward pass; RecipeError when two parts share one."""
    family = outline_of(model.config)
    chosen: dict[str, dict[str, Any]] = {}
    owner: dict[str, str] = {}
    for part in parts:
        chosen[part] = select(model, part)
        for name in chosen[part]:
            if name in owner:
                raise RecipeError(f"parts '{owner[name]}' and '{part}' both hold '{name}'; each parameter has one rate")
            owner[name] = part

    def place(name: str) -> tuple[int, int]:
        part, layer = family.part_of(name)
        return family.parts.index(part), layer or 0

    return dict(sorted(chosen.items(), key=lambda item: place(next(iter(item[1])))))


def spread_parts(model: Parameters) -> set[str]:
    """Parts that have weights in every decoder layer and that cannot be named by spans of layers."""
    family = outline_of(model.config)
    layered = {part for part, layer in map(family.part_of, dict(model.named_parameters())) if layer is not None}
    return {part for part in layered - {"decoder.layers"} if not part.startswith("encoder.")}


def trainable_names(model: "nn.Module") -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def freeze_all_but(model: "nn.Module", groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Set `requires_grad` so that exactly the parameters of `groups` train."""
    chosen = {name for group in groups.values() for name in group}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def lora_layers(model: Parameters) -> set[int]:
    """Decoder layers that carry adapters."""
    family, names = outline_of(model.config), (name for name, _ in model.named_parameters())
    adapted = {name.partition(".lora_")[0] for name in names if family.part_of(name)[0] == "lora"}
    return {family.part_of(f"{module}.weight")[1] for module in adapted}


def check_lora_frozen(model: Parameters, part: str) -> list[int]:
    """Layers of a decoder part that carry adapters; thawing one is a recipe error."""
    carrying, family = lora_layers(model), outline_of(model.config)
    return sorted({layer for name in select(model, part) if (layer := family.part_of(name)[1]) in carrying})


def with_lora(model: Blueprint, part: str, rank: int, targets: Sequence[str]) -> Blueprint:
    """A blueprint with the adapters that `model/lora.py` would attach to its module."""
    family, weights = outline_of(model.config), {}
    layers = sorted({family.part_of(name)[1] for name in select(model, part)})
    adapted = re.compile(family.adapter_pattern(layers, targets))
    for name, weight in model.named_parameters():
        module, _, kind = name.rpartition(".")
        if not adapted.fullmatch(module):
            weights[name] = weight
            continue
        weights[f"{module}.base_layer.{kind}"] = weight
        if kind == "weight":
            outputs, inputs = weight.shape
            weights[f"{module}.lora_A.default.weight"] = Weight((rank, inputs))
            weights[f"{module}.lora_B.default.weight"] = Weight((outputs, rank))
    return Blueprint(model.config, weights)
