"""Log-mel features as Qwen3-ASR takes them; a neighbour changes nothing.

`log_mel` is the library's extractor on one utterance. `PackedLogMel` gives the same numbers for a whole pack in one
transform, on the device that trains.

Shapes: S samples of a pack, F mel bins (128), M mel frames (10 ms), C one-second chunks of frames, U utterances, A
audio tokens (13 a second).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor

from shibolet.model.fast.tensors import Tensors
from shibolet.model.protocols import SpecMask
from shibolet.model.qwen3_asr.lengths import CHUNK_FRAMES, HOP_SAMPLES, MIN_SAMPLES, num_mel_frames

_HALF_WINDOW = 200  # samples; the transform's window is 25 ms
_FRAME_STEP = 512  # frames of a pack's transform come in multiples of it: a GPU plans each number of them anew
_MARGIN_FRAMES = 2  # a window of 400 samples reaches 1.5 hops beyond its frame's


def log_mel(samples: np.ndarray, extractor: Qwen3ASRFeatureExtractor) -> torch.Tensor:
    """Log-mel features `[F, M]`, float32, of mono 16 kHz samples, without padding."""
    features = extractor(samples, sampling_rate=16000, padding="longest", n_window=0, return_tensors="pt")
    return features["input_features"][0]


@dataclass(frozen=True, slots=True)
class PackedSamples(Tensors):
    """Utterances laid end to end so that one transform with a hop of 160 covers them all."""

    samples: Tensor  # [S] float32: each utterance mirrored at its ends, in whole hops
    frame_index: Tensor  # [C * 100], where in the transform's frames a frame of the features stands
    frame_kept: Tensor  # [C * 100] bool: False where a chunk is padding, or a time mask lies
    chunk_utterance: Tensor  # [C]
    bins_kept: Tensor | None = None  # [U, F] bool: False where a frequency mask lies


def lay_samples(
    clips: Sequence[np.ndarray], masks: Sequence[SpecMask] | None = None, num_bins: int = 128
) -> PackedSamples:
    """Mono 16 kHz clips for `PackedLogMel`, with the stretches that it is to blank out."""
    frames_of = [num_mel_frames(len(clip)) for clip in clips]
    total_frames = sum(frames_of) + _MARGIN_FRAMES * len(clips)
    laid = np.zeros((total_frames + -total_frames % _FRAME_STEP) * HOP_SAMPLES, np.float32)
    index, kept, owner, first = [], [], [], 0
    for number, (clip, num_frames) in enumerate(zip(clips, frames_of, strict=True)):
        place = laid[first * HOP_SAMPLES : (first + num_frames + _MARGIN_FRAMES) * HOP_SAMPLES]
        if len(clip) < MIN_SAMPLES:
            clip = np.pad(clip, (0, MIN_SAMPLES - len(clip)))
        place[:_HALF_WINDOW] = clip[_HALF_WINDOW:0:-1]
        after = min(len(clip), len(place) - _HALF_WINDOW)
        place[_HALF_WINDOW : _HALF_WINDOW + after] = clip[:after]
        mirrored = len(place) - _HALF_WINDOW - after  # up to half a window; the rest of a hop has been cut off
        place[len(place) - mirrored :] = clip[-2 : -2 - mirrored : -1]
        num_chunks = -(-num_frames // CHUNK_FRAMES)
        at = np.arange(num_chunks * CHUNK_FRAMES)
        shown = at < num_frames
        for start, length in masks[number].frames if masks else ():
            shown[start : start + length] = False
        index.append(first + np.minimum(at, num_frames - 1))
        kept.append(shown)
        owner.append(np.full(num_chunks, number))
        first += num_frames + _MARGIN_FRAMES
    bins = None
    if masks and any(mask.bins for mask in masks):
        bins = torch.ones(len(clips), num_bins, dtype=torch.bool)
        for number, mask in enumerate(masks):
            for start, length in mask.bins:
                bins[number, start : start + length] = False
    joined = (torch.from_numpy(np.concatenate(arrays)) for arrays in (index, kept, owner))
    return PackedSamples(torch.from_numpy(laid), *joined, bins_kept=bins)


class PackedLogMel:
    """Log-mel features of a pack as `log_mel` gives them one by one, each utterance padded to whole chunks."""

    def __init__(self, extractor: Qwen3ASRFeatureExtractor, device: torch.device | str) -> None:
        self.num_bins, self.device = extractor.feature_size, torch.device(device)
        self._window = torch.hann_window(2 * _HALF_WINDOW, device=device)
        self._filters = torch.from_numpy(extractor.mel_filters.T).to(device, torch.float32)  # [F, frequencies]

    def __call__(self, packed: PackedSamples) -> Tensor:
        """Features `[1, F, C * 100]`, float32, on its device."""
        packed = packed.to(self.device)
        spectrum = torch.stft(
            packed.samples, 2 * _HALF_WINDOW, HOP_SAMPLES, window=self._window, center=False, return_complex=True
        )
        mel = self._filters @ spectrum.abs().square()
        mel = mel.clamp_(min=1e-10).log10_().index_select(1, packed.frame_index)
        by_chunk = mel.view(self.num_bins, -1, CHUNK_FRAMES)
        # A padding frame repeats the utterance's last frame, so it raises no maximum.
        peak_of_chunk = by_chunk.amax(dim=(0, 2))
        peak = torch.full_like(peak_of_chunk, -10.0).scatter_reduce_(0, packed.chunk_utterance, peak_of_chunk, "amax")
        floor = peak.index_select(0, packed.chunk_utterance) - 8.0
        features = (torch.maximum(by_chunk, floor[None, :, None]) + 4.0).div_(4.0)
        if packed.bins_kept is not None:
            features = features * packed.bins_kept.index_select(0, packed.chunk_utterance).T[:, :, None]
        return (features.view(self.num_bins, -1) * packed.frame_kept)[None]

    def split(self, features: Tensor, num_frames: Sequence[int]) -> list[Tensor]:
        """The features `[F, whole chunks]` of each utterance of a pack."""
        return list(features[0].split([-(-frames // CHUNK_FRAMES) * CHUNK_FRAMES for frames in num_frames], dim=1))

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Those of utterances as a pack has them."""
        return torch.cat(list(features), dim=1)[None]


def log_mels(clips: Sequence[np.ndarray], features: PackedLogMel) -> list[Tensor]:
    """As `log_mel`, of many clips in one transform, on its device, where they stay."""
    num_frames = [num_mel_frames(len(clip)) for clip in clips]
    made = features.split(features(lay_samples(clips, num_bins=features.num_bins)), num_frames)
    return [own[:, :frames] for own, frames in zip(made, num_frames, strict=True)]
