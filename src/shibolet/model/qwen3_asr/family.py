"""Qwen3-ASR and its forced aligner as a model family: the modules beside this one under the family's names."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
)

from shibolet.model.family import Family
from shibolet.model.folders import config_in, from_folder
from shibolet.model.qwen3_asr.cost import Cost
from shibolet.model.qwen3_asr.decoding import CPU_ROWS, CUDA_ROWS
from shibolet.model.qwen3_asr.examine import oddities, variants
from shibolet.model.qwen3_asr.features import (
    MIN_SAMPLES,
    TOKENS_PER_CHUNK,
    PackedLogMel,
    lay_samples,
    num_audio_tokens,
    num_mel_frames,
)
from shibolet.model.qwen3_asr.fused import fuse_decoder
from shibolet.model.qwen3_asr.layouts import is_legacy
from shibolet.model.qwen3_asr.load import load_aligner, load_recogniser, read_native
from shibolet.model.qwen3_asr.packed import (
    Pack,
    decode_pack,
    encoder_states,
    lay_out,
    output_head,
    packed_attention,
)
from shibolet.model.qwen3_asr.parts import PARTS, adapter_pattern, is_tied, num_layers_of, part_of, untie_head
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionFrame, TranscriptionPrompt
from shibolet.model.qwen3_asr.reference import QwenAsr, Transformers
from shibolet.model.qwen3_asr.save import TIMESTAMP_MS, convert, save_model
from shibolet.model.qwen3_asr.usage import adapter_usage, usage
from shibolet.model.qwen3_asr.writing import ClipDecoder


class Qwen3Asr(Family):
    """Its functions stand in the modules of this package."""

    title = "Qwen3-ASR"
    parts = PARTS
    min_samples = MIN_SAMPLES
    states_per_s = TOKENS_PER_CHUNK
    prompt_tokens, target_tokens, text_tokens_per_s = 15, 4, 6.0
    listens = True
    layouts = ("native", "legacy")
    libraries: ClassVar = {"native": "transformers"}  # which cannot open the other
    tag = "qwen3-asr"
    class_s = TIMESTAMP_MS / 1000
    rows_at_once: ClassVar = {"cpu": CPU_ROWS, "cuda": CUDA_ROWS}

    num_frames = staticmethod(num_mel_frames)
    num_audio_tokens = staticmethod(num_audio_tokens)
    part_of = staticmethod(part_of)
    num_layers = staticmethod(num_layers_of)
    is_tied = staticmethod(is_tied)
    untie_head = staticmethod(untie_head)
    adapter_pattern = staticmethod(adapter_pattern)
    targets = TranscriptionPrompt
    lay_samples = staticmethod(lay_samples)
    features = PackedLogMel
    packed = staticmethod(packed_attention)
    encode = staticmethod(encoder_states)
    hidden = staticmethod(decode_pack)
    head = staticmethod(output_head)
    fuse = staticmethod(fuse_decoder)
    cost = Cost
    decoder = ClipDecoder
    blank = Qwen3ASRForConditionalGeneration
    load_recogniser = staticmethod(load_recogniser)
    load_aligner = staticmethod(load_aligner)
    save = staticmethod(save_model)
    convert = staticmethod(convert)
    usage = staticmethod(usage)
    adapter_usage = staticmethod(adapter_usage)
    oddities = staticmethod(oddities)
    variants = staticmethod(variants)
    reference = Transformers
    official = QwenAsr

    def max_tokens(self, config: Qwen3ASRConfig) -> int:
        return config.text_config.max_position_embeddings

    def encoder_dim(self, model: nn.Module) -> int:
        return model.config.audio_config.d_model

    def lay_out(self, frame: TranscriptionFrame, texts: Sequence[Sequence[int]], num_frames: Sequence[int]) -> Pack:
        sequences = [
            frame.sequence(num_audio_tokens(frames), text) for text, frames in zip(texts, num_frames, strict=True)
        ]
        return lay_out(sequences, num_frames, frame.audio_id, shift=True)

    def lay_words(
        self, tokenizer: PreTrainedTokenizerBase, words: Sequence[Sequence[str]], num_frames: Sequence[int]
    ) -> Pack:
        prompt, classes = AlignmentPrompt(tokenizer), [[0] * (2 * len(said)) for said in words]
        sequences = prompt.examples(list(map(num_audio_tokens, num_frames)), words, classes)
        return lay_out(sequences, num_frames, prompt.audio_id, shift=False)

    def config_in(self, path: Path) -> tuple[Qwen3ASRConfig, str]:
        config = config_in(str(path), path)
        tokenizer = from_folder(AutoTokenizer, path) if is_legacy(config) else None
        return read_native(path, config, tokenizer), "legacy" if is_legacy(config) else "native"

    def standard_config(self) -> tuple[Qwen3ASRConfig, str]:
        """Transformers' defaults, less an encoder output that does not fit the decoder."""
        dim = Qwen3ASRConfig().text_config.hidden_size
        return Qwen3ASRConfig(audio_config={"output_dim": dim}), "Qwen3-ASR-1.7B"


FAMILY = Qwen3Asr()
