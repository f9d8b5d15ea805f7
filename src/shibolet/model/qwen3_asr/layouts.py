"""The two layouts of a Qwen3-ASR or forced aligner on disk: names of weights, configuration, chat templates.

native   `Qwen/Qwen3-ASR-1.7B-hf`: transformers' own names and configuration
legacy   `Qwen/Qwen3-ASR-1.7B` and every fine-tune made with the qwen-asr package: names begin with `thinker.`; read by
         qwen-asr and vLLM
"""

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase, Qwen3ASRConfig
from transformers.models.qwen3_asr.processing_qwen3_asr import FORCED_ALIGNER_LANGUAGES, LANGUAGE_CODE_TO_NAME

from shibolet.errors import ModelError
from shibolet.model.qwen3_asr.prompt import AUDIO_END, AUDIO_START, AUDIO_TOKEN, TIMESTAMP, token_id

Layout = Literal["native", "legacy"]

_PREFIXES = (  # legacy, native; the first that matches
    ("thinker.audio_tower.proj1.", "model.multi_modal_projector.linear_1."),
    ("thinker.audio_tower.proj2.", "model.multi_modal_projector.linear_2."),
    ("thinker.audio_tower.", "model.audio_tower."),
    ("thinker.model.", "model.language_model."),
)
_AUDIO_KEYS = (  # the same in both layouts
    "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins", "n_window",
    "n_window_infer", "output_dim", "downsample_hidden_size", "activation_function", "scale_embedding", "dropout",
    "attention_dropout", "activation_dropout", "initializer_range",
)  # fmt: skip
_TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "attention_bias",
    "attention_dropout", "initializer_range", "use_cache",
)  # fmt: skip
_LEGACY_ALIGNER = "qwen3_forced_aligner"  # qwen-asr takes a thinker for an aligner when its type says so

_AUDIO = f"'{AUDIO_START}{AUDIO_TOKEN}{AUDIO_END}'"
_PARTS = (  # of a message, whether its content is text or a list
    "{%- for m in messages -%}"
    "{%- for c in ([{'type': 'text', 'text': m.content}] if m.content is string else m.content) -%}"
)
# The prompt of `TranscriptionPrompt`, for the native processor's `apply_transcription_request`.
RECOGNISER_TEMPLATE = (
    "{%- set ns = namespace(system='', audio='', answer='') -%}" + _PARTS + "{%- if m.role == 'system' -%}"
    "{%- set ns.system = ns.system + c.text -%}"
    "{%- elif m.role == 'assistant' -%}{%- set ns.answer = ns.answer + c.text -%}"
    "{%- elif c.type == 'audio' -%}{%- set ns.audio = ns.audio + " + _AUDIO + " -%}"
    "{%- endif -%}{%- endfor -%}{%- endfor -%}"
    "{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n<|im_start|>user\n' + ns.audio + '<|im_end|>\n' -}}"
    "{{- '<|im_start|>assistant\n' + ns.answer -}}"
)
# The prompt of `AlignmentPrompt`, for the native processor's `prepare_forced_aligner_inputs`.
ALIGNER_TEMPLATE = (
    "{%- set ns = namespace(audio='', words='') -%}" + _PARTS + "{%- if c.type == 'audio' -%}"
    "{%- set ns.audio = ns.audio + " + _AUDIO + " -%}"
    "{%- elif c.type == 'text' -%}{%- set ns.words = ns.words + c.text + '" + TIMESTAMP * 2 + "' -%}"
    "{%- endif -%}{%- endfor -%}{%- endfor -%}"
    "{{- ns.audio + ns.words -}}"
)
# qwen-asr opens the assistant's turn only when it is asked to, and writes the language behind it itself.
LEGACY_TEMPLATE = (
    "{%- set ns = namespace(system='', audio='') -%}" + _PARTS + "{%- if m.role == 'system' -%}"
    "{%- set ns.system = ns.system + c.text -%}"
    "{%- elif c.type == 'audio' -%}{%- set ns.audio = ns.audio + " + _AUDIO + " -%}"
    "{%- endif -%}{%- endfor -%}{%- endfor -%}"
    "{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n<|im_start|>user\n' + ns.audio + '<|im_end|>\n' -}}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def is_legacy(config: dict) -> bool:
    return "thinker_config" in config


def is_aligner(config: dict) -> bool:
    """Whether a `config.json` of either layout is a forced aligner's."""
    if is_legacy(config):
        return bool(config["thinker_config"].get("classify_num"))
    return "Qwen3ASRForTokenClassification" in (config.get("architectures") or [])


def native_name(name: str, *, aligner: bool) -> str:
    """The native name of a legacy weight: `thinker.audio_tower.ln_post.bias` -> `model.audio_tower.ln_post.bias`."""
    name = f"thinker.{name.removeprefix('thinker.')}"
    for legacy, native in (*_PREFIXES, ("thinker.lm_head.", "score." if aligner else "lm_head.")):
        if name.startswith(legacy):
            return native + name.removeprefix(legacy)
    return name


def legacy_name(name: str) -> str:
    """The legacy name of a native weight."""
    for legacy, native in (*_PREFIXES, ("thinker.lm_head.", "score."), ("thinker.lm_head.", "lm_head.")):
        if name.startswith(native):
            return legacy + name.removeprefix(native)
    return name


def native_config(legacy: dict, tokenizer: PreTrainedTokenizerBase) -> Qwen3ASRConfig:
    """The native configuration of a legacy `config.json`.

    Its interleaved m-rope equals plain rope wherever the three positions are equal, as they are for audio and text.
    """
    thinker = legacy["thinker_config"]
    audio, text = thinker["audio_config"], thinker["text_config"]
    tied = thinker.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    timestamp = legacy.get("timestamp_token_id", tokenizer.convert_tokens_to_ids(TIMESTAMP))
    optional = {
        "timestamp_token_id": timestamp,
        "num_labels": thinker.get("classify_num"),
        "initializer_range": thinker.get("initializer_range"),
    }
    return Qwen3ASRConfig(
        audio_config={"model_type": "qwen3_asr_encoder", **{k: audio[k] for k in _AUDIO_KEYS if k in audio}},
        text_config={
            "model_type": "qwen3",
            **{k: text[k] for k in _TEXT_KEYS if k in text},
            "rope_parameters": {"rope_type": "default", "rope_theta": float(text.get("rope_theta", 1_000_000))},
            "tie_word_embeddings": tied,
        },
        audio_token_id=thinker["audio_token_id"],
        pad_token_id=legacy.get("pad_token_id", tokenizer.pad_token_id),
        eos_token_id=legacy.get("eos_token_id", tokenizer.eos_token_id),
        tie_word_embeddings=tied,
        **{key: value for key, value in optional.items() if value is not None},
    )


def legacy_config(
    native: Qwen3ASRConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    aligner: bool,
    languages: Sequence[str],
    timestamp_ms: float,
) -> dict:
    """The legacy `config.json` of a native configuration; ModelError for what that layout cannot say.

    `timestamp_ms` is the width of an aligner's time classes, which the native layout keeps with the processor.
    """
    text = native.text_config
    rope = text.rope_parameters
    if rope["rope_type"] != "default" or text.use_sliding_window or (aligner and native.token_classification_bias):
        raise ModelError(
            f"the legacy layout has no scaled rope ('{rope['rope_type']}'), sliding window or bias in an aligner's head"
        )
    top = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "dtype": _dtype(native),
        "eos_token_id": native.eos_token_id,
        "model_type": "qwen3_asr",
        "pad_token_id": native.pad_token_id,
        "support_languages": list(languages),
        "thinker_config": _thinker_config(native, tokenizer, aligner=aligner),
    }
    if aligner:
        top |= {"timestamp_token_id": native.timestamp_token_id, "timestamp_segment_time": timestamp_ms}
    return top


def _thinker_config(native: Qwen3ASRConfig, tokenizer: PreTrainedTokenizerBase, *, aligner: bool) -> dict:
    """What the legacy `config.json` says of the model itself."""
    audio, text = native.audio_config, native.text_config
    third = text.head_dim // 2 * 5 // 16  # of 64 frequencies 24 + 20 + 20
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "audio_config": {
            "model_type": "qwen3_asr_audio_encoder",
            **{key: getattr(audio, key) for key in _AUDIO_KEYS},
            "conv_chunksize": 500,
            "max_source_positions": 1500,
        },
        "audio_end_token_id": token_id(tokenizer, AUDIO_END),
        "audio_start_token_id": token_id(tokenizer, AUDIO_START),
        "audio_token_id": native.audio_token_id,
        "dtype": _dtype(native),
        "initializer_range": native.initializer_range,
        "model_type": _LEGACY_ALIGNER if aligner else "qwen3_asr_thinker",
        "text_config": {
            "model_type": "qwen3_asr_text",
            **{key: getattr(text, key) for key in _TEXT_KEYS},
            "rope_scaling": {
                "interleaved": True,
                "mrope_interleaved": True,
                "mrope_section": [text.head_dim // 2 - 2 * third, third, third],
                "rope_type": "default",
                "type": "default",
            },
            "rope_theta": text.rope_parameters["rope_theta"],
            # An aligner's head has time classes for rows: tied to the embeddings it would be lost in loading.
            "tie_word_embeddings": native.tie_word_embeddings and not aligner,
        },
        "tie_word_embeddings": native.tie_word_embeddings,
        **({"classify_num": native.num_labels} if aligner else {}),
    }


def supported_languages(config: dict, added: Sequence[str] = ()) -> list[str]:
    """The legacy layout's list of languages: of a `config.json` that has one, else the published; and `added`."""
    published = FORCED_ALIGNER_LANGUAGES if is_aligner(config) else LANGUAGE_CODE_TO_NAME.values()
    return list(dict.fromkeys([*config.get("support_languages", sorted(published)), *added]))


def template_of(layout: Layout, *, aligner: bool) -> str:
    """The chat template of a layout; the legacy aligner's is never asked for, and is the recogniser's."""
    if layout == "legacy":
        return LEGACY_TEMPLATE
    return ALIGNER_TEMPLATE if aligner else RECOGNISER_TEMPLATE


def _dtype(config: Qwen3ASRConfig) -> str:
    return str(config.dtype or "float32").removeprefix("torch.")
