"""Protects training labels and the demo's channel: noise at the stated ratio, codecs without delay, lengths kept."""

import numpy as np
import pytest

from shibolet.speech import augment
from shibolet.speech.audio import SAMPLE_RATE_HZ, probe_encoded

NUM_SAMPLES = 3 * SAMPLE_RATE_HZ


def speechlike(seed: int = 0) -> np.ndarray:
    """Bursts of a harmonic tone of gliding pitch: it has an envelope and a phase that a delay would move."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time_s)) / SAMPLE_RATE_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.1 * voice * (np.repeat(rng.random(30), NUM_SAMPLES // 30) > 0.4)).astype(np.float32)


def delay_s(before: np.ndarray, after: np.ndarray) -> float:
    spectrum = np.fft.rfft(after, 2 * NUM_SAMPLES) * np.conj(np.fft.rfft(before, 2 * NUM_SAMPLES))
    lag = int(np.fft.irfft(spectrum).argmax())
    return (lag if lag < NUM_SAMPLES else lag - 2 * NUM_SAMPLES) / SAMPLE_RATE_HZ


@pytest.mark.parametrize("kind", augment.NOISE_KINDS)
@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
def test_noise_stands_at_the_stated_ratio(kind, snr_db):
    samples = speechlike()
    noisy = augment.add_noise(samples, snr_db, kind, np.random.default_rng(1))
    measured = 10 * np.log10(np.mean(samples**2) / np.mean((noisy - samples) ** 2))
    assert measured == pytest.approx(snr_db, abs=0.1)
    assert noisy.dtype == np.float32


def test_kinds_of_noise_differ_in_their_spectrum():
    def high_share(kind) -> float:
        power = np.abs(np.fft.rfft(augment.make_noise(NUM_SAMPLES, kind, np.random.default_rng(0)))) ** 2
        return power[len(power) // 2 :].sum() / power.sum()

    assert high_share("white") == pytest.approx(0.5, abs=0.02)
    assert high_share("pink") < 0.2 and high_share("babble") < 0.05


def test_silence_and_nothing_pass_through():
    rng = np.random.default_rng(0)
    empty, silence = np.zeros(0, np.float32), np.zeros(100, np.float32)
    assert not augment.add_noise(silence, 10, "pink", rng).any()
    for samples in (empty, silence, silence[:1]):
        assert len(augment.add_noise(samples, 10, "babble", rng)) == len(samples)
        assert len(augment.band_limit(samples, 200, 3400)) == len(samples)
        assert len(augment.through_codec(samples, "opus", 12000)) == len(samples)


def test_band_limit_takes_out_what_lies_outside_and_moves_nothing():
    samples = speechlike()
    limited = augment.band_limit(samples, 300, 3400)
    assert abs(delay_s(samples, limited)) < 0.001 and len(limited) == len(samples)
    tones = {hz: np.sin(2 * np.pi * hz * np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ) for hz in (60, 1000, 6000)}
    left = {hz: np.std(augment.band_limit(tone, 300, 3400)) / np.std(tone) for hz, tone in tones.items()}
    assert left[1000] > 0.98 and left[60] < 0.01 and left[6000] < 0.01
    with pytest.raises(ValueError, match="band 3400-300"):
        augment.band_limit(samples, 3400, 300)


@pytest.mark.parametrize(("codec", "bitrate_bps"), [("opus", 8000), ("opus", 16000), ("opus", 32000),
                                                    ("mp3", 16000), ("mp3", 32000)])  # fmt: skip
def test_a_codec_keeps_length_and_place_and_loses_something(codec, bitrate_bps):
    samples = speechlike()
    decoded = augment.through_codec(samples, codec, bitrate_bps)
    assert len(decoded) == len(samples) and decoded.dtype == np.float32
    assert abs(delay_s(samples, decoded)) < 0.02
    assert 0.8 < np.corrcoef(samples, decoded)[0, 1] < 0.99999


@pytest.mark.parametrize("codec", ["opus", "mp3"])
def test_an_encoded_file_has_its_length_and_the_same_bytes_each_time(codec):
    samples = speechlike()
    content = augment.encode(samples, codec, 16000)
    assert content == augment.encode(samples, codec, 16000) != augment.encode(speechlike(1), codec, 16000)
    assert probe_encoded(content, "clip").duration_s == pytest.approx(NUM_SAMPLES / SAMPLE_RATE_HZ, abs=0.15)
    assert len(content) * 8 / 3 < 24000


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch_together(factor):
    tone = np.sin(2 * np.pi * 1000 * np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ).astype(np.float32)
    fast = augment.change_speed(tone, factor)
    assert len(fast) == pytest.approx(NUM_SAMPLES / factor, abs=2)
    assert np.abs(np.fft.rfft(fast)).argmax() / len(fast) * SAMPLE_RATE_HZ == pytest.approx(1000 * factor, abs=1)


def test_speed_of_zero_is_an_error():
    with pytest.raises(ValueError, match="positive, got 0"):
        augment.change_speed(speechlike(), 0)


def test_gain_clips_at_full_scale():
    assert augment.scale_gain(np.array([0.1, -0.9], np.float32), 20) == pytest.approx([1.0, -1.0])
    assert augment.scale_gain(np.array([0.1], np.float32), -20) == pytest.approx([0.01])


def test_clipping_cuts_off_the_share_that_is_loudest():
    samples = (np.arange(1000, dtype=np.float32) - 500) / 1000
    clipped = augment.clip_loudest(samples, 0.05)
    assert np.sum(clipped != samples) == pytest.approx(50, abs=2) and np.abs(clipped).max() == pytest.approx(0.475)
    assert np.array_equal(clipped[100:900], samples[100:900])
    assert len(augment.clip_loudest(samples[:0], 0.05)) == 0
