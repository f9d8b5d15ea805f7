"""A partition of a model's parameters into parts that a recipe can name: every parameter is in exactly one.

Which parts there are is the family's to say; models on the meta device can be asked too.
"""

from collections.abc import Iterable, Mapping

from torch import nn

from shibolet.errors import RecipeError, did_you_mean
from shibolet.model.family import family_of
from shibolet.model.spans import LayerSpan


def select(model: nn.Module, part: str) -> dict[str, nn.Parameter]:
    """Parameters of a part by name; RecipeError when it names nothing in this model."""
    family, wanted = family_of(model.config), part
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


def partition(model: nn.Module, parts: Iterable[str]) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by part, in the order of the forward pass; RecipeError when two parts share one."""
    family = family_of(model.config)
    chosen: dict[str, dict[str, nn.Parameter]] = {}
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


def trainable_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def freeze_all_but(model: nn.Module, groups: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
    """Set `requires_grad` so that exactly the parameters of `groups` train."""
    chosen = {name for group in groups.values() for name in group}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
