"""Features of clips are those of Whisper's own extractor, with what is blanked out."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from shibolet.errors import ModelError
from shibolet.model.protocols import SpecMask
from shibolet.model.whisper.features import LogMel, lay_samples


@pytest.mark.parametrize("num_bins", [80, 128])
def test_features_are_those_of_the_library(num_bins: int, clips):
    extractor = WhisperFeatureExtractor(feature_size=num_bins)
    many = [*clips, np.zeros(100, np.float32), np.sin(np.arange(480_000) / 9).astype(np.float32)] * 3  # over 16 clips
    made = LogMel(extractor, "cpu")(lay_samples(many, num_bins=num_bins))
    for clip, own in zip(many[:6], made, strict=False):
        stock = extractor(clip, sampling_rate=16000, return_tensors="pt").input_features[0]
        torch.testing.assert_close(own, stock, rtol=0, atol=1e-6)
    assert made.shape == (18, num_bins, 3000) and made[6:12].equal(made[:6])


def test_masks_blank_out_what_they_name_and_nothing_else(clips):
    features = LogMel(WhisperFeatureExtractor(), "cpu")
    whole = features(lay_samples(clips[:2]))
    masks = [SpecMask(), SpecMask(frames=((10, 5), (40, 0)), bins=((70, 10),))]
    masked = features(lay_samples(clips[:2], masks))
    assert masked[0].equal(whole[0])
    blank = torch.zeros(80, 3000, dtype=torch.bool)
    blank[:, 10:15], blank[70:] = True, True
    assert masked[1].equal(whole[1].masked_fill(blank, 0.0))


def test_features_go_apart_and_together_again(clips):
    features = LogMel(WhisperFeatureExtractor(), "cpu")
    made = features(lay_samples(clips))
    assert features.join(features.split(made, [3000] * 4)[::-1]).equal(made.flip(0))


def test_a_clip_over_30_s_is_refused():
    with pytest.raises(ModelError, match=r"a clip of 30\.01 s is longer than the 30 s.*cut it"):
        lay_samples([np.zeros(16000), np.zeros(480_160)])
