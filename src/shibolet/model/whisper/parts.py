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
from typing import TYPE_CHECKING

from shibolet.model.blueprint import Parameters
from shibolet.model.named_parts import NamedParts, untie
from shibolet.model.spans import keep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PARTS = NamedParts(
    "Whisper",
    [
        (r"\.lora_[AB]\.", "lora"),
        (r"^model\.encoder\.conv[12]\.", "encoder.conv"),
        (r"^model\.encoder\.embed_positions\.", "encoder.positions"),
        (r"^model\.encoder\.layers\.(\d+)\.", "encoder.layers"),
        (r"^model\.encoder\.layer_norm\.", "encoder.norm"),
        (r"^model\.decoder\.embed_tokens\.", "embeddings"),
        (r"^model\.decoder\.embed_positions\.", "decoder.positions"),
        (r"^model\.decoder\.layers\.(\d+)\.encoder_attn(?:_layer_norm)?\.", "cross_attention"),
        (r"^model\.decoder\.layers\.(\d+)\.", "decoder.layers"),
        (r"^model\.decoder\.layer_norm\.", "decoder.norm"),
        (r"^proj_out\.", "head"),
    ],
)
PARTS, part_of, is_tied = _PARTS.names, _PARTS.part_of, _PARTS.is_tied
_MODULES = {"o_proj": "out_proj"}  # a projection as recipes call it -> its name here


def num_layers_of(model: Parameters) -> dict[str, int]:
    """Layers of the encoder and of the decoder."""
    return {"encoder": model.config.encoder_layers, "decoder": model.config.decoder_layers}


def untie_head(model: "PreTrainedModel") -> None:
    """Give the output projection weights of its own, equal to the embeddings it shared; nothing to do if untied."""
    if is_tied(model):
        untie(model, model.proj_out, model.config)


def adapter_pattern(layers: Sequence[int], targets: Sequence[str]) -> str:
    """Projections of both attentions in decoder layers, by the names of recipes (`o_proj`) or Whisper's own."""
    numbers = "|".join(map(str, layers))
    names = "|".join(re.escape(_MODULES.get(target, target)) for target in targets)
    return rf"^model\.decoder\.layers\.({numbers})\.(?:self_attn|encoder_attn)\.({names})$"


def keep_layers(model: "PreTrainedModel", encoder: Sequence[int] | None, decoder: Sequence[int] | None) -> None:
    """`Family.keep_layers`."""
    config = model.config
    if encoder is not None:
        keep(model.model.encoder, encoder)
        config.encoder_layers = config.num_hidden_layers = len(encoder)
    if decoder is not None:
        keep(model.model.decoder, decoder, "self_attn", "encoder_attn")
        config.decoder_layers = len(decoder)
        # Heads that follow the audio, by layer: other programs find the times of words with them.
        heads = getattr(model.generation_config, "alignment_heads", None) or []
        left = [[decoder.index(layer), head] for layer, head in heads if layer in decoder]
        model.generation_config.alignment_heads = left or None
