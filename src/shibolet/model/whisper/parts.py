r"""The parts of a Whisper.

encoder.conv            the two convolutions before the encoder's layers
encoder.positions       the encoder's positions: sinusoids, which were never trained
encoder.layers[i:j]     encoder layers i to j - 1
encoder.norm            the encoder's last norm
embeddings              token embeddings; with a tied head (all published models) this is the head too
decoder.positions       the decoder's positions, which are learned
cross_attention         what looks at the encoder in every decoder layer, with the norm before it
decoder.layers[i:j]     the rest of decoder layers i to j - 1: self-attention and feed-forward, with their norms
decoder.norm            the decoder's last norm
head                    the output projection of its own; with a tied head an alias of `embeddings`
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
    (re.compile(r"^model\.encoder\.conv[12]\."), "encoder.conv"),
    (re.compile(r"^model\.encoder\.embed_positions\."), "encoder.positions"),
    (re.compile(r"^model\.encoder\.layers\.(\d+)\."), "encoder.layers"),
    (re.compile(r"^model\.encoder\.layer_norm\."), "encoder.norm"),
    (re.compile(r"^model\.decoder\.embed_tokens\."), "embeddings"),
    (re.compile(r"^model\.decoder\.embed_positions\."), "decoder.positions"),
    (re.compile(r"^model\.decoder\.layers\.(\d+)\.encoder_attn(?:_layer_norm)?\."), "cross_attention"),
    (re.compile(r"^model\.decoder\.layers\.(\d+)\."), "decoder.layers"),
    (re.compile(r"^model\.decoder\.layer_norm\."), "decoder.norm"),
    (re.compile(r"^proj_out\."), "head"),
]
PARTS = tuple(part for _, part in _PATTERNS)
_MODULES = {"o_proj": "out_proj"}  # a projection as recipes call it -> its name here


@cache
def part_of(parameter_name: str) -> tuple[str, int | None]:
    """The part a parameter belongs to and its layer, where the part has layers."""
    for pattern, part in _PATTERNS:
        if match := pattern.search(parameter_name):
            return part, int(match[1]) if pattern.groups else None
    raise ValueError(f"parameter '{parameter_name}' belongs to no known part of Whisper")


def is_tied(model: Parameters) -> bool:
    """Whether the output projection is the embedding matrix: a weight with two names is named once."""
    return all(part_of(name)[0] != "head" for name, _ in model.named_parameters())


def num_layers_of(model: Parameters) -> dict[str, int]:
    """Layers of the encoder and of the decoder."""
    return {"encoder": model.config.encoder_layers, "decoder": model.config.decoder_layers}


def untie_head(model: "PreTrainedModel") -> None:
    """Give the output projection weights of its own, equal to the embeddings it shared; nothing to do if untied."""
    from torch import nn

    if is_tied(model):
        model.proj_out.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
        model.config.tie_word_embeddings = False


def adapter_pattern(layers: Sequence[int], targets: Sequence[str]) -> str:
    """Projections of both attentions in decoder layers, by the names of recipes (`o_proj`) or Whisper's own."""
    numbers = "|".join(map(str, layers))
    names = "|".join(re.escape(_MODULES.get(target, target)) for target in targets)
    return rf"^model\.decoder\.layers\.({numbers})\.(?:self_attn|encoder_attn)\.({names})$"


def keep_layers(model: "PreTrainedModel", encoder: Sequence[int] | None, decoder: Sequence[int] | None) -> None:
    """`Family.keep_layers`; a layer of the decoder knows its place, by which keys and values are kept."""
    config = model.config
    if encoder is not None:
        keep(model.model.encoder, encoder)
        config.encoder_layers = config.num_hidden_layers = len(encoder)
    if decoder is not None:
        keep(model.model.decoder, decoder)
        for place, layer in enumerate(model.model.decoder.layers):
            layer.self_attn.layer_idx = layer.encoder_attn.layer_idx = place
        config.decoder_layers = len(decoder)
        # Heads that follow the audio, by layer: other programs find the times of words with them.
        heads = getattr(model.generation_config, "alignment_heads", None) or []
        left = [[decoder.index(layer), head] for layer, head in heads if layer in decoder]
        model.generation_config.alignment_heads = left or None
