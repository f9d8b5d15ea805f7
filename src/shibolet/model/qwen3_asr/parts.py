"""A partition of the model's parameters into parts that a recipe can name: every parameter is in exactly one.

encoder.conv            the convolutions before the encoder's layers
encoder.layers[i:j]     encoder layers i to j - 1
projector               the two linear maps to the decoder, with the encoder's last norm (`ln_post`)
embeddings              token embeddings; with a tied head this is the head too
head                    the output projection of its own; with a tied head an alias of `embeddings`
decoder.layers[i:j]     decoder layers i to j - 1
decoder.norm            the decoder's last norm
lora                    every adapter weight, wherever it sits
"""

import re
from collections.abc import Iterable, Mapping

from torch import nn
from transformers import PreTrainedModel

from shibolet.errors import RecipeError, did_you_mean
from shibolet.model.spans import LayerSpan

_PATTERNS = [  # in the order of the forward pass, after the adapters
    (re.compile(r"\.lora_[AB]\."), "lora"),
    (re.compile(r"^model\.audio_tower\.(?:conv2d[123]|conv_out)\."), "encoder.conv"),
    (re.compile(r"^model\.audio_tower\.layers\.(\d+)\."), "encoder.layers"),
    (re.compile(r"^model\.(?:audio_tower\.ln_post|multi_modal_projector)\."), "projector"),
    (re.compile(r"^model\.language_model\.embed_tokens\."), "embeddings"),
    (re.compile(r"^model\.language_model\.layers\.(\d+)\."), "decoder.layers"),
    (re.compile(r"^model\.language_model\.norm\."), "decoder.norm"),
    (re.compile(r"^(?:lm_head|score)\."), "head"),
]


def part_of(parameter_name: str) -> tuple[str, int | None]:
    """The part a parameter belongs to and its layer, where the part has layers."""
    for pattern, part in _PATTERNS:
        if match := pattern.search(parameter_name):
            return part, int(match[1]) if pattern.groups else None
    raise ValueError(f"parameter '{parameter_name}' belongs to no known part of Qwen3-ASR")


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output projection is the embedding matrix."""
    return hasattr(model, "lm_head") and model.lm_head.weight is model.get_input_embeddings().weight


def select(model: PreTrainedModel, part: str) -> dict[str, nn.Parameter]:
    """Parameters of a part by name; RecipeError when it names nothing in this model.

    Every model of the two classes can be asked, on the meta device too.
    """
    wanted = part
    if span := LayerSpan.parse(part):
        wanted = f"{span.tower}.layers"
        num_layers = num_layers_of(model)[span.tower]
        if (span.last or 0) > num_layers or span.first >= (num_layers if span.last is None else span.last):
            raise RecipeError(f"part '{part}': this model's {span.tower} has layers 0 to {num_layers - 1}")
    if part == "head" and is_tied(model):
        wanted = "embeddings"
    chosen = {}
    for name, parameter in model.named_parameters():
        kind, layer = part_of(name)
        if kind == wanted and (span is None or layer in span):
            chosen[name] = parameter
    if not chosen:
        known = sorted({part for _, part in _PATTERNS})
        raise RecipeError(
            f"part '{part}' names no parameter of this model; parts are {', '.join(known)}{did_you_mean(part, known)}"
        )
    return chosen


def partition(model: PreTrainedModel, parts: Iterable[str]) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by part, in the order of the forward pass; RecipeError when two parts share one."""
    chosen: dict[str, dict[str, nn.Parameter]] = {}
    owner: dict[str, str] = {}
    for part in parts:
        chosen[part] = select(model, part)
        for name in chosen[part]:
            if name in owner:
                raise RecipeError(f"parts '{owner[name]}' and '{part}' both hold '{name}'; each parameter has one rate")
            owner[name] = part
    order = [part for _, part in _PATTERNS]
    place = lambda name: (order.index(part_of(name)[0]), part_of(name)[1] or 0)  # noqa: E731
    return dict(sorted(chosen.items(), key=lambda item: place(next(iter(item[1])))))


def num_layers_of(model: PreTrainedModel) -> dict[str, int]:
    config = model.config
    return {"encoder": config.audio_config.encoder_layers, "decoder": config.text_config.num_hidden_layers}


def untie_head(model: PreTrainedModel) -> None:
    """Give the output projection weights of its own, equal to the embeddings it shared; nothing to do if untied."""
    if is_tied(model):
        model.lm_head.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.config.text_config.tie_word_embeddings = False


def trainable_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def freeze_all_but(model: PreTrainedModel, groups: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
    """Set `requires_grad` so that exactly the parameters of `groups` train."""
    chosen = {name for group in groups.values() for name in group}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
