"""The sizes of a Whisper as its `config.json` gives them, and the weights that follow from them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from shibolet.errors import ModelError
from shibolet.model.blueprint import Shapes, Weight, linear, norm
from shibolet.model.whisper.lengths import WINDOW_STATES
from shibolet.records.reading import fault


class ModelSizes(BaseModel):
    """Under the names of transformers' configuration; a key that is not there means what it means to transformers."""

    model_config = ConfigDict(frozen=True, strict=True)

    d_model: PositiveInt = 384
    encoder_layers: NonNegativeInt = 4
    encoder_attention_heads: PositiveInt = 6
    encoder_ffn_dim: PositiveInt = 1536
    decoder_layers: NonNegativeInt = 4
    decoder_attention_heads: PositiveInt = 6
    decoder_ffn_dim: PositiveInt = 1536
    num_mel_bins: PositiveInt = 80
    vocab_size: PositiveInt = 51_865
    max_source_positions: PositiveInt = WINDOW_STATES
    max_target_positions: PositiveInt = 448
    tie_word_embeddings: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    apply_spec_augment: bool = False
    model_type: str = "whisper"


def _sizes(dim: int, layers: int, decoder_layers: int | None = None, bins: int = 80, vocab: int = 51_865) -> ModelSizes:
    """Of a published model: heads of 64, feed-forwards of 4 times the width."""
    return ModelSizes(
        d_model=dim, encoder_layers=layers, decoder_layers=layers if decoder_layers is None else decoder_layers,
        encoder_attention_heads=dim // 64, decoder_attention_heads=dim // 64, encoder_ffn_dim=4 * dim,
        decoder_ffn_dim=4 * dim, num_mel_bins=bins, vocab_size=vocab,
    )  # fmt: skip


USUAL = {  # OpenAI's models; the first four also for English alone, with a token less
    "tiny": _sizes(384, 4),
    "base": _sizes(512, 6),
    "small": _sizes(768, 12),
    "medium": _sizes(1024, 24),
    "large": _sizes(1280, 32),
    "large-v2": _sizes(1280, 32),
    "large-v3": _sizes(1280, 32, bins=128, vocab=51_866),
    "large-v3-turbo": _sizes(1280, 32, decoder_layers=4, bins=128, vocab=51_866),
}
_ENGLISH = ("tiny", "base", "small", "medium")
_NAMED = re.compile(rf"whisper[-_.]({'|'.join(sorted(USUAL, key=len, reverse=True))})(\.en)?(?![a-z0-9])")
STANDARD = "large-v3-turbo"

# Settings of a configuration that change a training alone, and that nothing here computes.
_RANDOM = (
    "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop",
    "apply_spec_augment",
)  # fmt: skip


def known_sizes(name: str) -> tuple[ModelSizes, str] | None:
    """The sizes that a model's name tells, and the published model that has them; the usual ones if it tells no size.

    None for a name without "whisper".
    """
    if (found := _NAMED.search(name.lower())) is None:
        return (USUAL[STANDARD], f"whisper-{STANDARD}") if "whisper" in name.lower() else None
    size, is_english = found[1], bool(found[2]) and found[1] in _ENGLISH
    sizes = USUAL[size].model_copy(update={"vocab_size": 51_864}) if is_english else USUAL[size]
    return sizes, f"whisper-{size}{'.en' if is_english else ''}"


def sizes_in(path: Path, config: Mapping[str, Any]) -> ModelSizes:
    """The sizes in the `config.json` of a folder; ModelError for what no size can be."""
    try:
        return ModelSizes.model_validate(dict(config))
    except ValidationError as error:
        raise ModelError(f"the model in {path} cannot be opened: config.json: {fault(error)}") from error


def untrainable(config: Any) -> str | None:
    """What a configuration, ours or transformers', would draw at random in training; None where that is nothing."""
    if not (found := [name for name in _RANDOM if getattr(config, name)]):
        return None
    return (
        f"the model's config.json sets {' and '.join(f'{name} {getattr(config, name)}' for name in found)}, which "
        "training here does not apply; set it to 0 there (train.lora.dropout and train.augment are ours)"
    )


def weights_of(sizes: ModelSizes, untie_head: bool) -> dict[str, Weight]:
    """The weights of a recogniser by name, in the order of the module; a head that is tied has none."""
    found = {f"model.encoder.{name}": shape for name, shape in _encoder(sizes)}
    found |= {f"model.decoder.{name}": shape for name, shape in _decoder(sizes)}
    if untie_head or not sizes.tie_word_embeddings:
        found["proj_out.weight"] = (sizes.vocab_size, sizes.d_model)
    return {name: Weight(shape) for name, shape in found.items()}


def _encoder(sizes: ModelSizes) -> Shapes:
    dim = sizes.d_model
    for name, inputs in (("conv1", sizes.num_mel_bins), ("conv2", dim)):
        yield f"{name}.weight", (dim, inputs, 3)
        yield f"{name}.bias", (dim,)
    yield "embed_positions.weight", (sizes.max_source_positions, dim)
    for layer in range(sizes.encoder_layers):
        yield from _attention(f"layers.{layer}.self_attn", dim)
        yield from _feed_forward(f"layers.{layer}", dim, sizes.encoder_ffn_dim)
    yield from norm("layer_norm", dim)


def _decoder(sizes: ModelSizes) -> Shapes:
    dim = sizes.d_model
    yield "embed_tokens.weight", (sizes.vocab_size, dim)
    yield "embed_positions.weight", (sizes.max_target_positions, dim)
    for layer in range(sizes.decoder_layers):
        yield from _attention(f"layers.{layer}.self_attn", dim)
        yield from _attention(f"layers.{layer}.encoder_attn", dim)
        yield from _feed_forward(f"layers.{layer}", dim, sizes.decoder_ffn_dim)
    yield from norm("layer_norm", dim)


def _attention(name: str, dim: int) -> Shapes:
    """The four projections, of which that of keys has no bias, and the norm before them."""
    for projection in "kvq":
        yield from linear(f"{name}.{projection}_proj", dim, dim, bias=projection != "k")
    yield from linear(f"{name}.out_proj", dim, dim)
    yield from norm(f"{name}_layer_norm", dim)


def _feed_forward(place: str, dim: int, ffn: int) -> Shapes:
    yield from linear(f"{place}.fc1", dim, ffn)
    yield from linear(f"{place}.fc2", ffn, dim)
    yield from norm(f"{place}.final_layer_norm", dim)
