"""Log-mel features as Qwen3-ASR takes them, one utterance at a time so that a neighbour in a batch changes nothing.

Shapes: F mel bins (128), M mel frames (10 ms), A audio tokens (13 a second).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor

HOP_SAMPLES = 160
MIN_SAMPLES = 8000  # shorter audio is padded with zeros, as the official package does
CHUNK_FRAMES = 100  # the convolutions see one second at a time
TOKENS_PER_CHUNK = 13
WINDOW_TOKENS = 8 * TOKENS_PER_CHUNK  # the encoder attends within windows of 8 s


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of an utterance of that many samples at 16 kHz."""
    return max(num_samples, MIN_SAMPLES) // HOP_SAMPLES


def num_audio_tokens(num_frames: int) -> int:
    """Encoder tokens of that many mel frames: 13 a full second, three halvings (rounded up) of the rest."""
    rest = num_frames % CHUNK_FRAMES
    for _ in range(3):
        rest = (rest + 1) // 2
    return num_frames // CHUNK_FRAMES * TOKENS_PER_CHUNK + rest


def log_mel(samples: np.ndarray, extractor: Qwen3ASRFeatureExtractor) -> torch.Tensor:
    """Log-mel features `[F, M]`, float32, of mono 16 kHz samples, without padding."""
    features = extractor(samples, sampling_rate=16000, padding="longest", n_window=0, return_tensors="pt")
    return features["input_features"][0]


def log_mels(
    clips: Sequence[np.ndarray], extractor: Qwen3ASRFeatureExtractor, device: torch.device | str
) -> list[Tensor]:
    """As `log_mel`, of many clips at once and on a device, where the features stay.

    Clips lie end to end, each with its own reflected edges and on a multiple of the hop: one transform serves all.
    """
    padded = [np.pad(clip, (0, max(0, extractor.min_length - len(clip)))) for clip in clips]
    hop, size = extractor.hop_length, extractor.n_fft
    num_frames = [len(clip) // hop for clip in padded]
    # `size / 2` samples are reflected at both ends, and the rest fills up to whole hops.
    edged = [np.pad(clip, size // 2, mode="reflect") for clip in padded]
    flat = np.concatenate([np.pad(clip, (0, -len(clip) % hop)) for clip in edged])
    begins = np.cumsum([0, *(-(-len(clip) // hop) for clip in edged[:-1])])
    at = np.concatenate([begin + np.arange(n) for begin, n in zip(begins, num_frames, strict=True)])
    samples = torch.from_numpy(flat.astype(np.float32, copy=False)).to(device)
    frames = samples.unfold(0, size, hop)[torch.from_numpy(at).to(device)]  # [M of all, size]
    spectra = torch.fft.rfft(frames * torch.hann_window(size, device=device))
    filters = torch.from_numpy(extractor.mel_filters).to(device, torch.float32)  # [bins, F]
    mel = (spectra.real**2 + spectra.imag**2) @ filters
    features = []
    for own in mel.clamp(min=1e-10).log10().split(num_frames):
        features.append(((torch.maximum(own, own.max() - 8.0) + 4.0) / 4.0).T)
    return features
