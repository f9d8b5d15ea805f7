"""A family's forced aligner with its logits: raw times, before the repair that hides what is wrong."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shibolet.listen.batches import by_audio, forward_lock, pack_audio_s
from shibolet.listen.protocols import Alignment
from shibolet.model.family import LoadedModel
from shibolet.speech.audio import SAMPLE_RATE_HZ


class FamilyAligner:
    """`Aligner` over a model that gives each word two time classes; packs hold so many seconds, or one clip."""

    def __init__(self, loaded: LoadedModel, max_pack_s: float | None = None) -> None:
        self.identity = loaded.identity
        self._loaded, self._family = loaded, loaded.family
        self._max_pack_s = max_pack_s or pack_audio_s(loaded.model.device)
        self._features = self._family.features(loaded.extractor, loaded.model.device)
        self._forward = forward_lock(loaded.model.device)

    @torch.inference_mode()
    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        found: list[Alignment] = []
        for first, last in by_audio(clips, self._max_pack_s):
            found += self._align_pack(clips[first:last], words[first:last])
        return found

    def _align_pack(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        family, model, class_s = self._family, self._loaded.model, self._family.class_s
        pack = family.lay_words(self._loaded.tokenizer, words, [family.num_frames(len(clip)) for clip in clips])
        pack = family.with_audio(pack, clips, self._features, model.device)
        # The classes that lie within the audio, and one more for its end.
        num_classes = torch.tensor([int(np.ceil(len(clip) / SAMPLE_RATE_HZ / class_s)) + 1 for clip in clips])
        counts = [2 * len(said) for said in words]
        with self._forward:  # packed attention is a state of the model
            logits = family.logits(model, pack)
        classes = raw_classes(logits, num_classes.repeat_interleave(torch.tensor(counts)).to(model.device))
        times = np.split(classes.cpu().numpy() * class_s, np.cumsum(counts)[:-1])
        return [Alignment(starts_s=own[0::2], ends_s=own[1::2]) for own in times]


def raw_classes(logits: Tensor, num_classes: Tensor) -> Tensor:
    """Likeliest of the first `num_classes` [L] time classes at each marker, [L]; logits are [L, classes]."""
    outside = torch.arange(logits.shape[1], device=logits.device) >= num_classes[:, None]
    return logits.masked_fill(outside, -torch.inf).argmax(-1)
