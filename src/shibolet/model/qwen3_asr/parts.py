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
from typing import TYPE_CHECKING

from shibolet.model.blueprint import Parameters
from shibolet.model.named_parts import NamedParts, untie
from shibolet.model.spans import keep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PARTS = NamedParts(
    "Qwen3-ASR",
    [
        (r"\.lora_[AB]\.", "lora"),
        (r"^model\.audio_tower\.(?:conv2d[123]|conv_out)\.", "encoder.conv"),
        (r"^model\.audio_tower\.layers\.(\d+)\.", "encoder.layers"),
        (r"^model\.(?:audio_tower\.ln_post|multi_modal_projector)\.", "projector"),
        (r"^model\.language_model\.embed_tokens\.", "embeddings"),
        (r"^model\.language_model\.layers\.(\d+)\.", "decoder.layers"),
        (r"^model\.language_model\.norm\.", "decoder.norm"),
        (r"^(?:lm_head|score)\.", "head"),
    ],
)
PARTS, part_of, is_tied = _PARTS.names, _PARTS.part_of, _PARTS.is_tied


def num_layers_of(model: Parameters) -> dict[str, int]:
    config = model.config
    return {"encoder": config.audio_config.encoder_layers, "decoder": config.text_config.num_hidden_layers}


def untie_head(model: "PreTrainedModel") -> None:
    """Give the output projection weights of its own, equal to the embeddings it shared; nothing to do if untied."""
    if is_tied(model):
        untie(model, model.lm_head, model.config, model.config.text_config)


def adapter_pattern(layers: Sequence[int], targets: Sequence[str]) -> str:
    """Projections of attention in decoder layers; anchored, since the encoder has some of the same names."""
    numbers, names = "|".join(map(str, layers)), "|".join(map(re.escape, targets))
    return rf"^model\.language_model\.layers\.({numbers})\.self_attn\.({names})$"


def keep_layers(model: "PreTrainedModel", encoder: Sequence[int] | None, decoder: Sequence[int] | None) -> None:
    """`Family.keep_layers`."""
    audio, text = model.config.audio_config, model.config.text_config
    if encoder is not None:
        keep(model.model.audio_tower, encoder)
        audio.encoder_layers = audio.num_hidden_layers = len(encoder)
    if decoder is not None:
        keep(model.model.language_model, decoder, "self_attn")
        text.layer_types = [text.layer_types[layer] for layer in decoder]
        text.num_hidden_layers = len(decoder)
