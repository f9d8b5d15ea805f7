"""Log-mel features as Whisper takes them: every clip is padded with silence to 30 s, so that all have one length.

The same numbers as `WhisperFeatureExtractor(padding="max_length")`, on the device that trains.

Shapes: U utterances, F mel bins (80 or 128), 3000 frames of 10 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from shibolet.errors import ModelError
from shibolet.model.fast.tensors import Tensors
from shibolet.model.protocols import SpecMask
from shibolet.model.whisper.lengths import HOP_SAMPLES, WINDOW_FRAMES, WINDOW_SAMPLES

_WINDOW = 400  # samples of the transform
_AT_ONCE = 16  # clips in a transform: it holds 10 MB of each


@dataclass(frozen=True, slots=True)
class PaddedSamples(Tensors):
    """Utterances of one length, and what is to be blanked out of their features."""

    samples: Tensor  # [U, 480000] float32
    frames_kept: Tensor | None = None  # [U, 3000] bool: False where a time mask lies
    bins_kept: Tensor | None = None  # [U, F] bool: False where a frequency mask lies


def lay_samples(
    clips: Sequence[np.ndarray], masks: Sequence[SpecMask] | None = None, num_bins: int = 80
) -> PaddedSamples:
    """Mono 16 kHz clips for `LogMel`, with the stretches that it is to blank out; ModelError for one over 30 s."""
    samples = np.zeros((len(clips), WINDOW_SAMPLES), np.float32)
    for row, clip in zip(samples, clips, strict=True):
        if len(clip) > WINDOW_SAMPLES:
            raise ModelError(
                f"a clip of {len(clip) / 16000:.2f} s is longer than the 30 s that a Whisper hears; cut it into "
                "shorter ones"
            )
        row[: len(clip)] = clip
    frames = bins = None
    if masks and any(mask.frames for mask in masks):
        frames = _kept([mask.frames for mask in masks], WINDOW_FRAMES)
    if masks and any(mask.bins for mask in masks):
        bins = _kept([mask.bins for mask in masks], num_bins)
    return PaddedSamples(torch.from_numpy(samples), frames, bins)


def _kept(stretches: Sequence[Sequence[tuple[int, int]]], size: int) -> Tensor:
    """`[U, size]` bool: False in the stretches (first, number) of each utterance."""
    kept = torch.ones(len(stretches), size, dtype=torch.bool)
    for row, own in zip(kept, stretches, strict=True):
        for start, length in own:
            row[start : start + length] = False
    return kept


class LogMel:
    """Log-mel features of the clips of a pack."""

    def __init__(self, extractor: WhisperFeatureExtractor, device: torch.device | str) -> None:
        self.num_bins, self.device = extractor.feature_size, torch.device(device)
        self._window = torch.hann_window(_WINDOW, device=device)
        self._filters = torch.from_numpy(extractor.mel_filters.T).to(device, torch.float32)  # [F, frequencies]

    def __call__(self, laid: PaddedSamples) -> Tensor:
        """Features `[U, F, 3000]`, float32, on its device."""
        laid = laid.to(self.device)
        features = torch.cat([self._log_mel(samples) for samples in laid.samples.split(_AT_ONCE)])
        if laid.bins_kept is not None:
            features = features * laid.bins_kept[:, :, None]
        return features if laid.frames_kept is None else features * laid.frames_kept[:, None]

    def _log_mel(self, samples: Tensor) -> Tensor:
        spectrum = torch.stft(samples, _WINDOW, HOP_SAMPLES, window=self._window, return_complex=True)[..., :-1]
        mel = self._filters @ spectrum.abs().square_().contiguous()
        mel = mel.clamp_(min=1e-10).log10_()
        return torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0).add_(4.0).div_(4.0)

    def split(self, features: Tensor, num_frames: Sequence[int]) -> list[Tensor]:
        """The features `[1, F, 3000]` of each utterance of a pack."""
        return list(features.split(1))

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Those of utterances as a pack has them."""
        return torch.cat(list(features))
