"""Voice activity, signal-to-noise ratio and bandwidth on signals whose truth is known, and on real recordings."""

import json
from pathlib import Path

import numpy as np
import pytest
import soxr

from shibolet.records.utterance import AudioRef
from shibolet.speech.activity import SNR_RANGE_DB, estimate_snr_db, sound_of, speech_spans
from shibolet.speech.audio import SAMPLE_RATE_HZ, load

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
WORDS_S = [(0.7, 1.6), (2.2, 3.4), (4.3, 5.1)]  # of the 6 s clip below


def voice(duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """Something like vowels: harmonics of 120 Hz from 240 Hz up, under a falling spectrum, beating at 4 Hz."""
    t = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = sum(np.sin(2 * np.pi * 120 * k * t + rng.uniform(0, 6)) / k for k in range(2, 30))
    return 0.1 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))


def clip(snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Three stretches of voice in 6 s of white noise; the ratio holds within 150-4,000 Hz."""
    samples = np.zeros(6 * SAMPLE_RATE_HZ)
    for start_s, end_s in WORDS_S:
        part = voice(end_s - start_s, rng)
        start = round(start_s * SAMPLE_RATE_HZ)
        samples[start : start + len(part)] = part
    power = np.mean(np.concatenate([samples[round(a * 16000) : round(b * 16000)] for a, b in WORDS_S]) ** 2)
    noise = rng.normal(size=len(samples)) * np.sqrt(power / 10 ** (snr_db / 10) * 8000 / 3850)
    return (samples + noise).astype(np.float32)


def as_frames(spans: list[tuple[float, float]], num_frames: int) -> np.ndarray:
    frames = np.zeros(num_frames, bool)
    for start_s, end_s in spans:
        frames[round(start_s * 100) : round(end_s * 100)] = True
    return frames


@pytest.mark.parametrize("snr_db", [5, 10, 20, 40])
@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_spans_are_found_in_noise(snr_db, gain):
    """A word that is missed would count as unheard text; noise taken for speech as uncovered speech."""
    spans = speech_spans(gain * clip(snr_db, np.random.default_rng(0)))
    assert len(spans) == len(WORDS_S)
    for found, true in zip(spans, WORDS_S):
        assert found == pytest.approx(true, abs=0.15)


@pytest.mark.parametrize("snr_db", [5, 10, 20, 40])
def test_snr(snr_db):
    assert estimate_snr_db(clip(snr_db, np.random.default_rng(1))) == pytest.approx(snr_db, abs=2.0)


def test_nothing_to_hear():
    """Silence, noise at any level and clips too short for a frame have no speech and the lowest ratio, not an error."""
    rng = np.random.default_rng(2)
    noises = [rng.normal(0, level, 5 * SAMPLE_RATE_HZ).astype(np.float32) for level in (0.3, 1e-2, 1e-5)]
    for samples in [*noises, *(np.zeros(n, np.float32) for n in (0, 1, 399, 16000))]:
        assert speech_spans(samples) == []
        assert estimate_snr_db(samples) == SNR_RANGE_DB[0]
    assert sound_of(np.zeros(16000, np.float32)).bandwidth_hz == 0.0


def test_a_click_is_not_speech():
    samples = np.random.default_rng(3).normal(0, 1e-3, 3 * SAMPLE_RATE_HZ).astype(np.float32)
    samples[16000:16160] = 0.5
    assert speech_spans(samples) == []


def test_speech_without_a_pause_is_one_span():
    """With no pause to take the floor from, the voice itself must not become the floor."""
    samples = voice(4.0, np.random.default_rng(4)).astype(np.float32)
    spans = speech_spans(samples)
    assert sum(end_s - start_s for start_s, end_s in spans) > 3.6


def test_floor_follows_the_room():
    """Steady noise that comes up half way (a door, a car) is not speech for the rest of the recording."""
    rng = np.random.default_rng(5)
    quiet, loud = rng.normal(0, 1e-3, 20 * SAMPLE_RATE_HZ), rng.normal(0, 1e-2, 20 * SAMPLE_RATE_HZ)
    samples = np.concatenate([quiet, loud])
    for start_s in (5, 15, 25, 35):
        samples[start_s * SAMPLE_RATE_HZ :][:SAMPLE_RATE_HZ] += voice(1.0, rng)
    found = as_frames(speech_spans(samples.astype(np.float32)), 4000)
    truth = as_frames([(s, s + 1.0) for s in (5, 15, 25, 35)], 4000)
    assert (found & truth).sum() > 0.9 * truth.sum()
    assert (found & ~truth).sum() < 0.15 * (~truth).sum()


@pytest.mark.parametrize("rate_hz, low_hz, high_hz", [(8000, 3300, 4100), (11025, 4700, 5700), (16000, 7000, 8000)])
def test_bandwidth(rate_hz, low_hz, high_hz):
    """A telephone band shows, whatever the file's rate says."""
    samples = clip(30, np.random.default_rng(6))
    narrow = soxr.resample(soxr.resample(samples, SAMPLE_RATE_HZ, rate_hz), rate_hz, SAMPLE_RATE_HZ)
    assert low_hz < sound_of(narrow).bandwidth_hz < high_hz + 1


def test_real_speech_in_noise():
    """On real recordings nothing outside the clean clip's speech is found at 5 and 10 dB, and most of it is."""
    manifest = SHARED / "an4_en" / "manifest.jsonl"
    if not manifest.exists():
        pytest.skip("shared/data is not beside the repository")
    rng = np.random.default_rng(7)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()][:30]
    assert len(rows) == 30
    for snr_db, min_recall in ((10, 0.80), (5, 0.75)):
        hits = false_alarms = speech = silence = 0
        for row in rows:
            samples = load(AudioRef(path=str(manifest.parent / row["audio"])))
            clean = speech_spans(samples)
            truth = as_frames(clean, len(samples) // 160)
            power = np.mean(np.concatenate([samples[round(a * 16000) : round(b * 16000)] for a, b in clean]) ** 2)
            noise = rng.normal(size=len(samples)) * np.sqrt(power / 10 ** (snr_db / 10))
            found = as_frames(speech_spans((samples + noise).astype(np.float32)), len(truth))
            hits, speech = hits + (found & truth).sum(), speech + truth.sum()
            false_alarms, silence = false_alarms + (found & ~truth).sum(), silence + (~truth).sum()
        assert hits / speech > min_recall and false_alarms / silence < 0.02


def test_yesno_is_a_telephone_band():
    manifest = SHARED / "yesno_he" / "manifest.jsonl"
    if not manifest.exists():
        pytest.skip("shared/data is not beside the repository")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    widths = [sound_of(load(AudioRef(path=str(manifest.parent / row["audio"])))).bandwidth_hz for row in rows]
    assert widths and max(widths) < 4100
