"""Whisper as its configurations tell it: lengths, parts, weights by name and shape, prompts, costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from shibolet.model.blueprint import Blueprint, Parameters
from shibolet.model.folders import config_in
from shibolet.model.outline import Outline
from shibolet.model.tokens import tokenizer_in
from shibolet.model.whisper.cost import Cost
from shibolet.model.whisper.lengths import HOP_SAMPLES, WINDOW_SAMPLES, num_frames, num_heard_frames, num_states
from shibolet.model.whisper.parts import PARTS, adapter_pattern, is_tied, num_layers_of, part_of
from shibolet.model.whisper.prompt import MAX_CONTEXT_TOKENS, TranscriptionPrompt
from shibolet.model.whisper.sizes import STANDARD, USUAL, ModelSizes, known_sizes, sizes_in, untrainable, weights_of
from shibolet.speech.audio import SAMPLE_RATE_HZ


class WhisperOutline(Outline):
    """Its functions stand in the modules of this package.

    A pack's tokens are encoder states and decoder positions: both cost, so both fill it.
    """

    title = "Whisper"
    module = "shibolet.model.whisper.family"
    parts = PARTS
    max_samples = WINDOW_SAMPLES
    frames_per_s = SAMPLE_RATE_HZ // HOP_SAMPLES
    prompt_tokens, target_tokens = 3, 1  # one of the prompt's four stands for the end, which is a label alone
    text_tokens_per_s = 6.0  # of Hebrew, at 2.7 a word; English has 1.3
    takes_style = False
    max_previous_tokens = MAX_CONTEXT_TOKENS
    writes_timestamps = True
    # ivrit-ai/asr-training, train-whisper.py: --include_prev_text_prob and --include_timestamps_prob, both 0.5 where
    # nobody says. OpenAI's paper (section 2.3) gives no number; distil-whisper has 0.2 for both.
    previous_text_frac = timestamps_frac = 0.5
    layouts = ("native", "ctranslate2")
    libraries: ClassVar[Mapping[str, str]] = {"native": "transformers", "ctranslate2": "ctranslate2"}
    exports: ClassVar[Mapping[str, str]] = {"ctranslate2": "faster-whisper"}
    tag = "whisper"
    trial = "hebrew-whisper-turbo"

    num_frames = staticmethod(num_frames)
    num_heard_frames = staticmethod(num_heard_frames)
    num_audio_tokens = staticmethod(num_states)
    part_of = staticmethod(part_of)
    num_layers = staticmethod(num_layers_of)
    is_tied = staticmethod(is_tied)
    adapter_pattern = staticmethod(adapter_pattern)
    targets = TranscriptionPrompt
    cost = Cost
    tokenizer_in = staticmethod(tokenizer_in)
    known_config = staticmethod(known_sizes)
    untrainable = staticmethod(untrainable)

    def max_tokens(self, config: Any) -> int:
        return config.max_source_positions + config.max_target_positions

    def encoder_dim(self, model: Parameters) -> int:
        return model.config.d_model

    def blueprint(self, config: ModelSizes, untie_head: bool = False) -> Blueprint:
        return Blueprint(config, weights_of(config, untie_head))

    def config_in(self, path: Path) -> tuple[ModelSizes, str]:
        return sizes_in(path, config_in(str(path), path)), "native"

    def standard_config(self) -> tuple[ModelSizes, str]:
        return USUAL[STANDARD], f"whisper-{STANDARD}"


OUTLINE = WhisperOutline()
