"""What a folder's configuration and tokenizer say, held against the published model and against each other."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen3ASRConfig

from shibolet.model.folders import read_mapping
from shibolet.model.protocols import Oddity
from shibolet.model.qwen3_asr.load import ModelFolder, open_folder
from shibolet.model.qwen3_asr.prompt import ASR_TEXT, AUDIO_END, AUDIO_START, AUDIO_TOKEN, END_OF_TURN

ROPE_THETAS = (10_000.0, 100_000.0, 500_000.0, 1_000_000.0, 5_000_000.0, 10_000_000.0)  # of Qwen's and Llama's models
_PUBLISHED = {  # config.json of Qwen/Qwen3-ASR-1.7B
    "audio_config.d_model": 1024, "audio_config.encoder_layers": 24, "audio_config.encoder_attention_heads": 16,
    "audio_config.encoder_ffn_dim": 4096, "audio_config.downsample_hidden_size": 480, "audio_config.n_window": 50,
    "audio_config.n_window_infer": 800, "audio_config.num_mel_bins": 128, "audio_config.output_dim": 2048,
    "audio_config.activation_function": "gelu", "audio_config.scale_embedding": False,
    "text_config.head_dim": 128, "text_config.hidden_act": "silu", "text_config.intermediate_size": 6144,
    "text_config.num_attention_heads": 16, "text_config.num_hidden_layers": 28, "text_config.num_key_value_heads": 8,
    "text_config.rms_norm_eps": 1e-6, "text_config.attention_bias": False,
    "text_config.rope_parameters.rope_theta": 1_000_000, "text_config.rope_parameters.rope_type": "default",
}  # fmt: skip
_PUBLISHED_SIZE = (151_936, 2048)  # vocabulary and width by which it is known
_PUBLISHED_IDS = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, END_OF_TURN: 151645, AUDIO_START: 151669, AUDIO_END: 151670,
    AUDIO_TOKEN: 151676, ASR_TEXT: 151704, "system": 8948, "user": 872, "assistant": 77091, "language": 11528,
}  # fmt: skip
_FRONTEND = {"sampling_rate": 16000, "hop_length": 160, "n_fft": 400}  # and as many bins as the encoder takes


def oddities(path: Path) -> list[Oddity]:
    """Settings that differ from the published ones of a model of that size, or that do not go together."""
    folder = open_folder(str(path))
    is_published = (folder.native.text_config.vocab_size, folder.native.text_config.hidden_size) == _PUBLISHED_SIZE
    found = list(_unpublished(folder)) if is_published else []
    if folder.legacy:
        found += _legacy_rope(folder)
    return [*found, *_tokens(folder, is_published), *_files(folder)]


def _unpublished(folder: ModelFolder) -> Iterator[Oddity]:
    settings = folder.native.to_dict()
    for key, published in _PUBLISHED.items():
        if (value := _at(settings, key)) != published:
            yield Oddity(
                f"config.json: {key} is {value!r}, and {published!r} in the published model of this size; put "
                "config.json back as it was downloaded, unless the model was trained with that value"
            )


def _at(settings: Mapping[str, Any], key: str) -> Any:
    """The value of `a.b.c`."""
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def _legacy_rope(folder: ModelFolder) -> Iterator[Oddity]:
    """What the legacy layout says of positions, and transformers' layout has no word for."""
    text = folder.config["thinker_config"]["text_config"]
    scaling = text.get("rope_scaling") or {}
    kinds = {scaling.get(key) for key in ("type", "rope_type")} - {None, "default"}
    if kinds or scaling.get("factor"):
        yield Oddity(
            f"config.json: rope_scaling is '{', '.join(sorted(kinds)) or scaling.get('factor')}'; published models "
            "have 'default', and this one is read as if it had that, so its positions are others than were trained"
        )
    section, half = scaling.get("mrope_section"), folder.native.text_config.head_dim // 2
    third = half * 5 // 16
    usual = [half - 2 * third, third, third]  # 24, 20, 20 of 64
    if section is not None and (not all(type(one) is int for one in section) or sum(section) != half):
        yield Oddity(
            f"config.json: rope_scaling.mrope_section {section} adds up to something else than half of head_dim "
            f"({half}), so qwen-asr and vLLM turn other dimensions than were trained; it should be {usual}"
        )
    elif section is not None and section != usual:
        yield Oddity(
            f"config.json: rope_scaling.mrope_section is {section}, and {usual} in models as published; it changes "
            "nothing while the three positions are equal, as they are for audio and text",
            is_fault=False,
        )
    if "rope_theta" not in text:
        yield Oddity("config.json has no rope_theta; 1,000,000 is taken", is_fault=False)


def _tokens(folder: ModelFolder, is_published: bool) -> Iterator[Oddity]:
    """Ids that configuration, tokenizer and embeddings have to agree on."""
    tokenizer, config = folder.tokenizer, folder.native
    ids = dict(tokenizer.get_vocab())
    advice = "take the tokenizer that belongs to these weights"
    if missing := [token for token in (AUDIO_START, AUDIO_TOKEN, AUDIO_END, ASR_TEXT, END_OF_TURN, "<|im_start|>")
                   if token not in ids]:  # fmt: skip
        yield Oddity(f"the tokenizer has no token {', '.join(missing)}: it is another model's; {advice}")
    said = {"audio_token_id": (AUDIO_TOKEN, config.audio_token_id), **_named(folder, tokenizer)}
    for key, (token, value) in said.items():
        if ids.get(token) not in (value if isinstance(value, list) else [value]):
            yield Oddity(
                f"config.json says {key} {value}, the tokenizer gives '{token}' the id {ids.get(token)}; {advice}"
            )
    if is_published:
        for token, published in _PUBLISHED_IDS.items():
            if ids.get(token) != published:
                yield Oddity(
                    f"the tokenizer gives '{token}' the id {ids.get(token)}, the published one {published}; {advice}"
                )
    rows = config.text_config.vocab_size
    if (highest := max(ids.values())) >= rows:
        yield Oddity(f"the tokenizer has ids up to {highest}, the embeddings {rows} rows; {advice}")


def _named(folder: ModelFolder, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[str, Any]]:
    """Ids that `config.json` names beside the audio token's, where it does."""
    named = {}
    if (pad := folder.native.pad_token_id) is not None:
        named["pad_token_id"] = (tokenizer.pad_token, pad)
    if (end := folder.native.eos_token_id) is not None:
        named["eos_token_id"] = (END_OF_TURN, end)
    if folder.legacy:
        thinker = folder.config["thinker_config"]
        named |= {
            key: (token, thinker[key])
            for key, token in (("audio_start_token_id", AUDIO_START), ("audio_end_token_id", AUDIO_END))
            if key in thinker
        }
    return named


def _files(folder: ModelFolder) -> Iterator[Oddity]:
    """Settings that other readers of the folder take, and we do not."""
    file = folder.path / "preprocessor_config.json"
    if file.is_file():
        said = read_mapping(str(folder.path), file)
        for key, ours in {**_FRONTEND, "feature_size": folder.native.audio_config.num_mel_bins}.items():
            if said.get(key, ours) != ours:
                yield Oddity(f"preprocessor_config.json: {key} is {said[key]}, the model needs {ours}; put it back")
    file = folder.path / "generation_config.json"
    if file.is_file():
        ends = read_mapping(str(folder.path), file).get("eos_token_id")
        end = folder.tokenizer.convert_tokens_to_ids(END_OF_TURN)
        if ends is not None and end not in (ends if isinstance(ends, list) else [ends]):
            yield Oddity(
                f"generation_config.json: eos_token_id {ends} lacks {end} ('{END_OF_TURN}'): transformers' generate "
                "would go on after the end; add it"
            )


def variants(model: nn.Module) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """The model with other values of rope_theta, one after another."""
    own = _theta_of(model.config)
    for theta in ROPE_THETAS:
        if theta != own:
            yield f"rope_theta {theta:,.0f} instead of {own:,.0f}", _with_theta(model, theta)


def _theta_of(config: Qwen3ASRConfig) -> float:
    return float(config.text_config.rope_parameters["rope_theta"])


@contextmanager
def _with_theta(model: nn.Module, theta: float) -> Iterator[None]:
    rotary = model.model.language_model.rotary_emb
    before = rotary.inv_freq
    exponents = torch.arange(len(before), dtype=torch.float32, device=before.device) / len(before)
    rotary.inv_freq = (theta**-exponents).to(before.dtype)
    try:
        yield
    finally:
        rotary.inv_freq = before
