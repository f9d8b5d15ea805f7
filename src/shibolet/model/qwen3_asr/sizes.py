"""The sizes of a Qwen3-ASR as its `config.json` gives them, in either layout, and the weights that follow from them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from shibolet.errors import ModelError
from shibolet.model.blueprint import Shapes, Weight, linear, norm
from shibolet.records.reading import fault


class _Sizes(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class AudioSizes(_Sizes):
    """Of the encoder; a key that is not there means what it means to transformers."""

    d_model: PositiveInt = 1024
    encoder_layers: NonNegativeInt = 24
    encoder_attention_heads: PositiveInt = 16
    encoder_ffn_dim: PositiveInt = 4096
    num_mel_bins: PositiveInt = 128
    downsample_hidden_size: PositiveInt = 480
    output_dim: PositiveInt = 3584


class TextSizes(_Sizes):
    """Of the decoder; likewise."""

    vocab_size: PositiveInt = 151_936
    hidden_size: PositiveInt = 4096
    intermediate_size: PositiveInt = 22_016
    num_hidden_layers: NonNegativeInt = 32
    num_attention_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt = 32
    head_dim: PositiveInt = 128
    max_position_embeddings: PositiveInt = 32_768
    attention_bias: bool = False


class ModelSizes(_Sizes):
    """Of the whole model, under the names of transformers' configuration."""

    audio_config: AudioSizes
    text_config: TextSizes
    tie_word_embeddings: bool = True
    model_type: str = "qwen3_asr"


# Qwen3-ASR-1.7B; what the decoder has where a configuration has none at all.
_USUAL_TEXT = TextSizes(
    hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
    max_position_embeddings=65_536,
)  # fmt: skip
USUAL = ModelSizes(audio_config=AudioSizes(output_dim=_USUAL_TEXT.hidden_size), text_config=_USUAL_TEXT)
# Qwen3-ASR-0.6B (docs/decisions.md has the sources).
SMALL = ModelSizes(
    audio_config=AudioSizes(
        d_model=896, encoder_layers=18, encoder_attention_heads=14, encoder_ffn_dim=3584, output_dim=1024
    ),
    text_config=_USUAL_TEXT.model_copy(update={"hidden_size": 1024, "intermediate_size": 3072}),
)
_SMALL_NAME = re.compile(r"qwen3-asr.*0\.6b")


def known_sizes(name: str) -> tuple[ModelSizes, str] | None:
    """The sizes that a model's name tells, and the published model that has them; None where it tells none."""
    return (SMALL, "Qwen3-ASR-0.6B") if _SMALL_NAME.search(name.lower()) else None


def sizes_in(path: Path, config: Mapping[str, Any]) -> ModelSizes:
    """The sizes in the `config.json` of a folder, in either layout; ModelError for what no size can be."""
    whole = config.get("thinker_config", config)
    audio, text = whole.get("audio_config") or {}, whole.get("text_config") or _USUAL_TEXT
    said = {"audio_config": audio, "text_config": text}
    if isinstance(text, dict):
        if text.get("num_key_value_heads", 0) is None:
            said["text_config"] = text | {"num_key_value_heads": text.get("num_attention_heads")}
        if whole is not config and "tie_word_embeddings" in text:
            said["tie_word_embeddings"] = text["tie_word_embeddings"]
    if "tie_word_embeddings" in whole:
        said["tie_word_embeddings"] = whole["tie_word_embeddings"]
    try:
        return ModelSizes.model_validate(said)
    except ValidationError as error:
        raise ModelError(f"the model in {path} cannot be opened: config.json: {fault(error)}") from error


def weights_of(sizes: ModelSizes, untie_head: bool) -> dict[str, Weight]:
    """The weights of a recogniser by name, in the order of the module; a head that is tied has none."""
    audio, text = sizes.audio_config, sizes.text_config
    found = dict(_encoder(audio))
    found |= {f"model.language_model.{name}": shape for name, shape in _decoder(text)}
    found |= dict(linear("model.multi_modal_projector.linear_1", audio.d_model, audio.d_model))
    found |= dict(linear("model.multi_modal_projector.linear_2", audio.d_model, audio.output_dim))
    if untie_head or not sizes.tie_word_embeddings:
        found["lm_head.weight"] = (text.vocab_size, text.hidden_size)
    return {name: Weight(shape) for name, shape in found.items()}


def _encoder(audio: AudioSizes) -> Shapes:
    dim, maps, tower = audio.d_model, audio.downsample_hidden_size, "model.audio_tower."
    for layer in range(audio.encoder_layers):
        place = f"{tower}layers.{layer}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{place}self_attn.{name}", dim, dim)
        yield from norm(f"{place}self_attn_layer_norm", dim)
        yield from linear(f"{place}fc1", dim, audio.encoder_ffn_dim)
        yield from linear(f"{place}fc2", audio.encoder_ffn_dim, dim)
        yield from norm(f"{place}final_layer_norm", dim)
    yield from norm(f"{tower}ln_post", dim)
    bins, inputs = audio.num_mel_bins, 1
    for number in (1, 2, 3):
        yield f"{tower}conv2d{number}.weight", (maps, inputs, 3, 3)
        yield f"{tower}conv2d{number}.bias", (maps,)
        bins, inputs = -(-bins // 2), maps
    yield f"{tower}conv_out.weight", (dim, maps * bins)


def _decoder(text: TextSizes) -> Shapes:
    dim, ffn, bias = text.hidden_size, text.intermediate_size, text.attention_bias
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    yield "embed_tokens.weight", (text.vocab_size, dim)
    for layer in range(text.num_hidden_layers):
        place = f"layers.{layer}."
        for name, inputs, outputs in (("q", dim, queries), ("k", dim, keys), ("v", dim, keys), ("o", queries, dim)):
            yield from linear(f"{place}self_attn.{name}_proj", inputs, outputs, bias)
        yield f"{place}self_attn.q_norm.weight", (text.head_dim,)
        yield f"{place}self_attn.k_norm.weight", (text.head_dim,)
        for name, inputs, outputs in (("gate", dim, ffn), ("up", dim, ffn), ("down", ffn, dim)):
            yield from linear(f"{place}mlp.{name}_proj", inputs, outputs, False)
        yield f"{place}input_layernorm.weight", (dim,)
        yield f"{place}post_attention_layernorm.weight", (dim,)
    yield "norm.weight", (dim,)
