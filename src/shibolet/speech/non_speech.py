"""Clips in which nobody speaks, made from code: silence, noise, music and breathing; the same samples every time.

A recogniser that was tuned on speech alone may write words for them (Koenecke et al. 2024, "Careless Whisper", find
such texts where speakers pause). The clips are simple on purpose: a model that writes words here does so in a call
that is on hold, too. Recordings are better where there are some (`evaluate.non_speech.sources`).

Shapes: S samples at 16 kHz.
"""

from collections.abc import Callable

import numpy as np

from shibolet.records.documents.non_speech import MADE
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.augment import NOISE_KINDS, band_limit, make_noise

_SCALE_HZ = (220.0, 246.9, 277.2, 329.6, 370.0, 440.0)  # A major, pentatonic: any two sound well together


def non_speech_clip(kind: str, number: int, duration_s: float) -> np.ndarray:
    """[S] clip `number`, from 0, of a kind of `MADE`: a pure function of the three."""
    num_samples = round(duration_s * SAMPLE_RATE_HZ)
    rng = np.random.default_rng([MADE.index(kind), number])
    return _OF[kind](num_samples, number, rng).astype(np.float32)


def _silence(num_samples: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Digital silence first, then the hiss of an open microphone at -80 to -60 dB of full scale."""
    return np.zeros(num_samples) if number == 0 else _at(rng.uniform(-80, -60), rng.standard_normal(num_samples))


def _noise(num_samples: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """White, pink and speech-shaped noise in turn, at -45 to -20 dB."""
    return _at(rng.uniform(-45, -20), make_noise(num_samples, NOISE_KINDS[number % len(NOISE_KINDS)], rng))


def _music(num_samples: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Plucked notes with four harmonics, one to four a second, each over a fading one."""
    made, at = np.zeros(num_samples), 0
    while at < num_samples:
        time_s = np.arange(num_samples - at) / SAMPLE_RATE_HZ
        for pitch_hz in rng.choice(_SCALE_HZ, size=rng.integers(1, 4), replace=False):
            pitch_hz *= rng.choice((0.5, 1.0, 2.0))
            for harmonic in range(1, 5):
                made[at:] += np.sin(2 * np.pi * harmonic * pitch_hz * time_s) * np.exp(-3 * time_s) / harmonic**1.5
        at += round(rng.uniform(0.25, 1.0) * SAMPLE_RATE_HZ)
    return _at(rng.uniform(-35, -20), made)


def _breathing(num_samples: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Noise between 300 and 3,000 Hz that swells 12 to 24 times a minute, close to a hissing microphone."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    swell = np.sin(2 * np.pi * rng.uniform(12, 24) / 60 * time_s + rng.uniform(0, 2 * np.pi)) ** 4
    breath = band_limit(rng.standard_normal(num_samples).astype(np.float32), 300.0, 3000.0) * swell
    return _at(rng.uniform(-40, -25), breath) + _at(-65, rng.standard_normal(num_samples))


def _at(level_db: float, samples: np.ndarray) -> np.ndarray:
    """The samples at this mean level below full scale."""
    return samples * 10 ** (level_db / 20) / max(float(np.sqrt(np.mean(samples**2))), 1e-12)


_Make = Callable[[int, int, np.random.Generator], np.ndarray]  # samples, number and chance to [S]
_OF: dict[str, _Make] = dict(zip(MADE, (_silence, _noise, _music, _breathing), strict=True))
