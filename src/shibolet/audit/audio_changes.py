"""Changes of audio: values that other processes can call, so that what was heard is kept under their text.

A change that mixes in other recordings has them as `mixes_in`: what was heard is kept under their content too.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from shibolet.errors import AudioError
from shibolet.records.utterance import AudioRef
from shibolet.speech import audio, augment


@dataclass(frozen=True, slots=True)
class Part:
    """What lies between two fractions of the length."""

    start: float
    end: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return samples[round(self.start * len(samples)) : round(self.end * len(samples))]


@dataclass(frozen=True, slots=True)
class Shifted:
    """Cut too late by `seconds`: the head is lost and what follows in the recording is there instead."""

    seconds: float
    after: AudioRef = field(repr=False)  # where it lies is no part of what is heard

    @property
    def mixes_in(self) -> tuple[AudioRef, ...]:
        return (self.after,)

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        num = min(round(self.seconds * audio.SAMPLE_RATE_HZ), len(samples))
        return np.concatenate([samples[num:], audio.load(self.after)[:num]])


@dataclass(frozen=True, slots=True)
class NoSpeech:
    """As long as the clip, and nobody speaks."""

    what: Literal["silence", "noise", "tones"]

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        num = len(samples)
        if self.what == "silence":  # 60 dB under full scale, as a microphone gives that nobody speaks into
            return (1e-3 * rng.standard_normal(num)).astype(np.float32)
        if self.what == "noise":
            return 0.05 * augment.make_noise(num, "pink", rng)
        t = np.arange(num) / audio.SAMPLE_RATE_HZ
        notes = [110 * 2 ** (step / 12) for step in rng.choice(36, 4, replace=False)]
        beat = 0.6 + 0.4 * np.sin(2 * np.pi * 2 * t)
        return (0.05 * beat * sum(np.sin(2 * np.pi * hz * t) for hz in notes)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Noise:
    kind: augment.NoiseKind
    snr_db: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment.add_noise(samples, self.snr_db, self.kind, rng)


@dataclass(frozen=True, slots=True)
class Babble:
    """Other speakers of the data talking all at once, at this ratio of mean powers."""

    others: tuple[str, ...]  # keys of their clips
    snr_db: float
    mixes_in: tuple[AudioRef, ...] = field(repr=False)  # where they lie is no part of what is heard

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        voices = np.zeros(len(samples), np.float64)
        for ref in self.mixes_in:
            try:
                voice = np.resize(audio.load(ref), len(samples)).astype(np.float64)
            except AudioError:  # that clip's fault, and said there
                continue
            voices += np.roll(voice, int(rng.integers(len(samples)))) / max(np.sqrt(np.mean(voice**2)), 1e-6)
        power = np.mean(samples.astype(np.float64) ** 2) / max(np.mean(voices**2), 1e-12)
        return (samples + voices * np.sqrt(power) * 10 ** (-self.snr_db / 20)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Clipping:
    """So loud that this share of the samples is cut off."""

    frac: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment.clip_loudest(samples, self.frac)


@dataclass(frozen=True, slots=True)
class Coded:
    codec: augment.Codec
    bitrate_bps: int

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment.through_codec(samples, self.codec, self.bitrate_bps)


@dataclass(frozen=True, slots=True)
class TelephoneBand:
    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment.band_limit(samples, 300, 3400)


@dataclass(frozen=True, slots=True)
class Reverb:
    rt60_s: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment.reverberate(samples, self.rt60_s, rng)


@dataclass(frozen=True, slots=True)
class Speed:
    factor: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment.change_speed(samples, self.factor)


@dataclass(frozen=True, slots=True)
class Gain:
    db: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return augment.scale_gain(samples, self.db)
