"""A family's forced aligner with its logits: raw times, before the repair that hides what is wrong."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from shibolet.listen.batches import WARM_CLIP_S, by_audio, forward_lock, made_up_clips, own_stream, pack_audio_s
from shibolet.listen.protocols import Alignment
from shibolet.model.ahead import one_ahead
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Movable, Pack
from shibolet.speech.audio import SAMPLE_RATE_HZ


class FamilyAligner:
    """`Aligner` over a model that gives each word two time classes; packs hold so many seconds, or one clip."""

    def __init__(self, loaded: LoadedModel, max_pack_s: float | None = None) -> None:
        self.identity = loaded.identity
        self._loaded, self._family = loaded, loaded.family
        self._max_pack_s = max_pack_s or pack_audio_s(loaded.model.device)
        self._features = self._family.features(loaded.extractor, loaded.model.device)
        self._forward = forward_lock(loaded.model.device)
        self._stream = own_stream(loaded.model.device)

    @torch.inference_mode()
    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        runs, found = list(by_audio(clips, self._max_pack_s)), []
        laid = one_ahead(self._lay_out(clips[first:last], words[first:last]) for first, last in runs)
        with self._stream(), closing(laid):
            for (first, last), (pack, samples) in zip(runs, laid, strict=True):
                found += self._align_pack(pack, samples, clips[first:last], words[first:last])
        return found

    def warm(self) -> None:
        """On a GPU do now what takes time at first use; what is said later is the same with and without it."""
        if self._loaded.model.device.type == "cuda":
            clips = made_up_clips(self._max_pack_s)
            self.align(clips, [["a"] * WARM_CLIP_S] * len(clips))

    def _lay_out(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> tuple[Pack, Movable]:
        """A pack and the samples of its clips, on the host."""
        family, features = self._family, self._features
        pack = family.lay_words(self._loaded.tokenizer, words, [family.num_frames(len(clip)) for clip in clips])
        samples = family.lay_samples(clips, None, features.num_bins)
        is_cuda = self._loaded.model.device.type == "cuda"
        return (pack.pin_memory(), samples.pin_memory()) if is_cuda else (pack, samples)

    def _align_pack(
        self, pack: Pack, samples: Movable, clips: Sequence[np.ndarray], words: Sequence[list[str]]
    ) -> list[Alignment]:
        family, model, class_s = self._family, self._loaded.model, self._family.class_s
        # The classes that lie within the audio, and one more for its end.
        num_classes = torch.tensor([int(np.ceil(len(clip) / SAMPLE_RATE_HZ / class_s)) + 1 for clip in clips])
        counts = [2 * len(said) for said in words]
        with self._forward:  # packed attention is a state of the model
            logits = family.logits(model, replace(pack.to(model.device), features=self._features(samples)))
        classes = raw_classes(logits, num_classes.repeat_interleave(torch.tensor(counts)).to(model.device))
        times = np.split(classes.cpu().numpy() * class_s, np.cumsum(counts)[:-1])
        return [Alignment(starts_s=own[0::2], ends_s=own[1::2]) for own in times]


def raw_classes(logits: Tensor, num_classes: Tensor) -> Tensor:
    """Likeliest of the first `num_classes` [L] time classes at each marker, [L]; logits are [L, classes]."""
    outside = torch.arange(logits.shape[1], device=logits.device) >= num_classes[:, None]
    return logits.masked_fill(outside, -torch.inf).argmax(-1)
