"""Qwen3-ASR as its configurations tell it: lengths, parts, weights by name and shape, prompts, costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from shibolet.model.blueprint import Blueprint, Parameters
from shibolet.model.fast.compiling import Widths
from shibolet.model.folders import config_in
from shibolet.model.outline import Outline
from shibolet.model.qwen3_asr.cost import Cost
from shibolet.model.qwen3_asr.lengths import MIN_SAMPLES, num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.parts import PARTS, adapter_pattern, is_tied, num_layers_of, part_of
from shibolet.model.qwen3_asr.prompt import MAX_PREVIOUS_TOKENS, TranscriptionPrompt
from shibolet.model.qwen3_asr.sizes import USUAL, ModelSizes, known_sizes, sizes_in, weights_of
from shibolet.model.tokens import tokenizer_in


class Qwen3AsrOutline(Outline):
    """Its functions stand in the modules of this package."""

    title = "Qwen3-ASR"
    module = "shibolet.model.qwen3_asr.family"
    parts = PARTS
    min_samples = MIN_SAMPLES
    prompt_tokens, target_tokens, text_tokens_per_s = 15, 4, 6.0
    launches_graphs = True
    is_timed = listens = True
    max_previous_tokens = MAX_PREVIOUS_TOKENS
    layouts = ("native", "legacy")
    libraries: ClassVar[Mapping[str, str]] = {"native": "transformers"}  # which cannot open the other
    tag = "qwen3-asr"

    num_frames = staticmethod(num_mel_frames)
    num_audio_tokens = staticmethod(num_audio_tokens)
    part_of = staticmethod(part_of)
    num_layers = staticmethod(num_layers_of)
    is_tied = staticmethod(is_tied)
    adapter_pattern = staticmethod(adapter_pattern)
    targets = TranscriptionPrompt
    cost = Cost
    tokenizer_in = staticmethod(tokenizer_in)
    known_config = staticmethod(known_sizes)

    def max_tokens(self, config: Any) -> int:
        return config.text_config.max_position_embeddings

    def encoder_dim(self, model: Parameters) -> int:
        return model.config.audio_config.d_model

    def kernel_widths(self, config: ModelSizes) -> Widths:
        text = config.text_config
        return Widths(
            dim=text.hidden_size, inner_dim=text.intermediate_size, heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads, head_dim=text.head_dim, vocab=text.vocab_size,
        )  # fmt: skip

    def blueprint(self, config: ModelSizes, untie_head: bool = False) -> Blueprint:
        return Blueprint(config, weights_of(config, untie_head))

    def config_in(self, path: Path) -> tuple[ModelSizes, str]:
        config = config_in(str(path), path)
        return sizes_in(path, config), "legacy" if "thinker_config" in config else "native"

    def standard_config(self) -> tuple[ModelSizes, str]:
        return USUAL, "Qwen3-ASR-1.7B"


OUTLINE = Qwen3AsrOutline()
