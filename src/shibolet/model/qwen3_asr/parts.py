"""The parts of a Qwen3-ASR.

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
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from shibolet.model.blueprint import Parameters
from shibolet.model.spans import keep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
PARTS = tuple(part for _, part in _PATTERNS)


@cache
def part_of(parameter_name: str) -> tuple[str, int | None]:
    """The part a parameter belongs to and its layer, where the part has layers."""
    for pattern, part in _PATTERNS:
        if match := pattern.search(parameter_name):
            return part, int(match[1]) if pattern.groups else None
    raise ValueError(f"parameter '{parameter_name}' belongs to no known part of Qwen3-ASR")


def is_tied(model: Parameters) -> bool:
    """Whether the output projection is the embedding matrix: a weight with two names is named once."""
    return all(part_of(name)[0] != "head" for name, _ in model.named_parameters())


def num_layers_of(model: Parameters) -> dict[str, int]:
    config = model.config
    return {"encoder": config.audio_config.encoder_layers, "decoder": config.text_config.num_hidden_layers}


def untie_head(model: "PreTrainedModel") -> None:
    """Give the output projection weights of its own, equal to the embeddings it shared; nothing to do if untied."""
    from torch import nn

    if is_tied(model):
        model.lm_head.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.config.text_config.tie_word_embeddings = False


def adapter_pattern(layers: Sequence[int], targets: Sequence[str]) -> str:
    """Projections of attention in decoder layers; anchored, since the encoder has some of the same names."""
    numbers, names = "|".join(map(str, layers)), "|".join(map(re.escape, targets))
    return rf"^model\.language_model\.layers\.({numbers})\.self_attn\.({names})$"


def keep_layers(model: "PreTrainedModel", encoder: Sequence[int] | None, decoder: Sequence[int] | None) -> None:
    """`Family.keep_layers`; a layer of the decoder knows its place, by which keys and values are kept."""
    audio, text = model.config.audio_config, model.config.text_config
    if encoder is not None:
        keep(model.model.audio_tower, encoder)
        audio.encoder_layers = audio.num_hidden_layers = len(encoder)
    if decoder is not None:
        keep(model.model.language_model, decoder)
        for place, layer in enumerate(model.model.language_model.layers):
            layer.self_attn.layer_idx = place
        text.layer_types = [text.layer_types[layer] for layer in decoder]
        text.num_hidden_layers = len(decoder)
