"""Features of a whole pack are those that the library's extractor gives for each utterance alone."""

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRFeatureExtractor

from shibolet.model.protocols import SpecMask
from shibolet.model.qwen3_asr.features import PackedLogMel, lay_samples, log_mel
from shibolet.model.qwen3_asr.lengths import num_mel_frames

EXTRACTOR = Qwen3ASRFeatureExtractor()


def voiced(seconds: float, seed: int, level: float) -> np.ndarray:
    """A gliding tone with harmonics over noise 60 dB down, and a stretch of digital silence."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(16000 * seconds)) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 60 * np.sin(2 * time_s)) / 16000
    samples = sum(np.sin(k * phase) / k for k in range(1, 12)) + 1e-3 * rng.standard_normal(len(time_s))
    samples[len(samples) // 3 : len(samples) // 2] = 0
    return (level * samples / np.abs(samples).max()).astype(np.float32)


@pytest.mark.parametrize("lengths_s", [(0.1,), (0.5, 1.0, 1.00001), (2.0, 0.3, 7.993, 15.0)])
def test_a_pack_has_the_features_of_its_utterances(lengths_s: tuple[float, ...]):
    # A level of its own each: the floor of 8 decades lies under the utterance's own peak, not under the pack's.
    clips = [voiced(seconds, seed, 10.0**-seed) for seed, seconds in enumerate(lengths_s)]
    features = PackedLogMel(EXTRACTOR, "cpu")(lay_samples(clips))
    start = 0
    for clip in clips:
        alone = log_mel(clip, EXTRACTOR)
        assert alone.shape[1] == num_mel_frames(len(clip))
        width = -(-alone.shape[1] // 100) * 100
        torch.testing.assert_close(features[0, :, start : start + alone.shape[1]], alone, rtol=0, atol=1e-4)
        assert not features[0, :, start + alone.shape[1] : start + width].any()
        start += width
    assert start == features.shape[2]


def test_masks_blank_what_they_name_and_nothing_else():
    clips = [voiced(2.5, 0, 0.5), voiced(1.2, 1, 0.5)]
    plain = PackedLogMel(EXTRACTOR, "cpu")(lay_samples(clips))
    masks = [SpecMask(frames=((10, 5), (200, 30))), SpecMask(bins=((3, 4),))]
    masked = PackedLogMel(EXTRACTOR, "cpu")(lay_samples(clips, masks))
    expected = plain.clone()
    expected[..., 10:15] = expected[..., 200:230] = 0
    expected[:, 3:7, 300:] = 0
    assert masked.equal(expected) and not masked.equal(plain)
