"""Qwen3-ASR and its forced aligner as a model family: the modules beside this one under the family's names."""

from collections.abc import Sequence
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from shibolet.model.family import Family
from shibolet.model.protocols import each_of
from shibolet.model.qwen3_asr.decoding import CPU_ROWS, CUDA_ROWS
from shibolet.model.qwen3_asr.examine import oddities, variants
from shibolet.model.qwen3_asr.features import PackedLogMel, lay_samples
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.launching import release
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.load import load_aligner, load_recogniser
from shibolet.model.qwen3_asr.outline import Qwen3AsrOutline
from shibolet.model.qwen3_asr.packed import (
    Pack,
    decode_pack,
    encoder_states,
    lay_out,
    output_head,
    packed_attention,
)
from shibolet.model.qwen3_asr.parts import keep_layers, untie_head
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionFrame
from shibolet.model.qwen3_asr.reference import QwenAsr, Transformers
from shibolet.model.qwen3_asr.save import TIMESTAMP_MS, convert, save_model
from shibolet.model.qwen3_asr.usage import adapter_usage, usage
from shibolet.model.qwen3_asr.writing import ClipDecoder


class Qwen3Asr(Qwen3AsrOutline, Family):
    """Its functions stand in the modules of this package."""

    class_s = TIMESTAMP_MS / 1000
    rows_at_once: ClassVar = {"cpu": CPU_ROWS, "cuda": CUDA_ROWS}

    untie_head = staticmethod(untie_head)
    keep_layers = staticmethod(keep_layers)
    lay_samples = staticmethod(lay_samples)
    features = PackedLogMel
    packed = staticmethod(packed_attention)
    encode = staticmethod(encoder_states)
    hidden = staticmethod(decode_pack)
    head = staticmethod(output_head)
    fuse = staticmethod(fuse_layers)
    release_launches = staticmethod(release)
    decoder = ClipDecoder
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

    def lay_out(
        self,
        frame: TranscriptionFrame | Sequence[TranscriptionFrame],
        texts: Sequence[Sequence[int]],
        num_frames: Sequence[int],
    ) -> Pack:
        frames = each_of(frame, len(texts))
        sequences = [
            own.sequence(num_audio_tokens(num), text) for own, text, num in zip(frames, texts, num_frames, strict=True)
        ]
        return lay_out(sequences, num_frames, frames[0].audio_id, shift=True)

    def lay_words(
        self, tokenizer: PreTrainedTokenizerBase, words: Sequence[Sequence[str]], num_frames: Sequence[int]
    ) -> Pack:
        prompt, classes = AlignmentPrompt(tokenizer), [[0] * (2 * len(said)) for said in words]
        sequences = prompt.examples(list(map(num_audio_tokens, num_frames)), words, classes)
        return lay_out(sequences, num_frames, prompt.audio_id, shift=False)


FAMILY = Qwen3Asr()
