"""What trains: adapters and head of the whole run, then a phase's parameters, from the one table of the recipe."""

from typing import TYPE_CHECKING, Any

from shibolet.errors import RecipeError
from shibolet.model.blueprint import Blueprint, Parameters
from shibolet.model.outline import outline_of
from shibolet.model.parts import check_lora_frozen, freeze_all_but, lora_layers, partition, with_lora
from shibolet.train.config import PhaseConfig, TrainConfig

if TYPE_CHECKING:
    from torch import nn

Groups = dict[str, dict[str, Any]]  # part -> parameter name -> parameter


def blueprint_of(model_config: Any, config: TrainConfig) -> Blueprint:
    """The model that would train, head untied and adapters attached, as names and shapes."""
    model = outline_of(model_config).blueprint(model_config, config.untie_head)
    if lora := config.lora:
        model = with_lora(model, lora.part, lora.rank, lora.targets)
    return model


def add_adapters(model: "nn.Module", config: TrainConfig, seed: int) -> None:
    """Untie the head and attach adapters as the recipe says; the same weights for the same seed."""
    from shibolet.model.family import family_of
    from shibolet.model.lora import attach_lora

    if config.untie_head:
        family_of(model.config).untie_head(model)
    if config.lora:
        attach_lora(
            model, config.lora.part, rank=config.lora.rank, alpha=config.lora.alpha, dropout=config.lora.dropout,
            targets=list(config.lora.targets), seed=seed,
        )  # fmt: skip


def phase_groups(model: Parameters, phase: PhaseConfig) -> Groups:
    """The parameters that a phase trains, by part; RecipeError when the table cannot be meant."""
    parts = phase.lr_by_part
    if lora_layers(model) and "lora" not in parts:
        raise RecipeError(f"phase '{phase.name}': the model carries adapters but lr_by_part gives no rate for 'lora'")
    for part in parts:
        if part == "lora" or part.startswith("encoder."):  # adapters sit on the decoder, whose layers count from 0 too
            continue
        if carrying := check_lora_frozen(model, part):
            raise RecipeError(
                f"phase '{phase.name}' thaws '{part}', but its layers {carrying} carry adapters (train.lora.part); "
                "a layer has either adapters or weights that train"
            )
    return partition(model, parts)


def enter_phase(model: "nn.Module", phase: PhaseConfig) -> Groups:
    """Freeze all but the phase's parameters and return these by part."""
    groups = phase_groups(model, phase)
    freeze_all_but(model, groups)
    return groups
