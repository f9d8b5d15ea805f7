"""The Qwen3 forced aligner with its logits: raw times and distributions, before the repair that hides what is wrong."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shibolet.listen.batches import by_audio, forward_lock, pack_audio_s
from shibolet.listen.protocols import Alignment
from shibolet.model.qwen3_asr.features import PackedLogMel, num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.load import LoadedModel
from shibolet.model.qwen3_asr.packed import pack_clips, packed_logits
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt
from shibolet.speech.audio import SAMPLE_RATE_HZ

CLASS_S = 0.08  # one time class of the aligner


class QwenAligner:
    """`Aligner` over a Qwen3 forced aligner; packs hold so many seconds of audio, or one clip."""

    def __init__(self, loaded: LoadedModel, max_pack_s: float | None = None) -> None:
        self.identity = loaded.identity
        self._loaded, self._max_pack_s = loaded, max_pack_s or pack_audio_s(loaded.model.device)
        self._prompt = AlignmentPrompt(loaded.tokenizer)
        self._features = PackedLogMel(loaded.extractor, loaded.model.device)
        self._forward = forward_lock(loaded.model.device)

    @torch.inference_mode()
    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        found: list[Alignment] = []
        for first, last in by_audio(clips, self._max_pack_s):
            found += self._align_pack(clips[first:last], words[first:last])
        return found

    def _align_pack(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        model = self._loaded.model
        nums_audio = [num_audio_tokens(num_mel_frames(len(clip))) for clip in clips]
        sequences = self._prompt.examples(nums_audio, words, [[0] * (2 * len(said)) for said in words])
        pack = pack_clips(sequences, clips, self._features, self._prompt.audio_id, shift=False)
        # The classes that lie within the audio, and one more for its end.
        num_classes = torch.tensor([int(np.ceil(len(clip) / SAMPLE_RATE_HZ / CLASS_S)) + 1 for clip in clips])
        counts = [2 * len(said) for said in words]
        with self._forward:  # packed attention is a state of the model
            logits = packed_logits(model, pack)
        classes = raw_classes(logits, num_classes.repeat_interleave(torch.tensor(counts)).to(model.device))
        times = np.split(classes.cpu().numpy() * CLASS_S, np.cumsum(counts)[:-1])
        return [Alignment(starts_s=own[0::2], ends_s=own[1::2]) for own in times]


def raw_classes(logits: Tensor, num_classes: Tensor) -> Tensor:
    """Likeliest of the first `num_classes` [L] time classes at each marker, [L]; logits are [L, classes]."""
    outside = torch.arange(logits.shape[1], device=logits.device) >= num_classes[:, None]
    return logits.masked_fill(outside, -torch.inf).argmax(-1)
