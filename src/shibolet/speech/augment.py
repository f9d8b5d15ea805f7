"""What happens to speech on its way: noise, a narrow band, a lossy codec, another speed, another level.

Pure functions of float32 mono samples at 16 kHz; chance comes in as `rng`. Lengths and positions stay, except under
`change_speed` and `add_quiet`.
"""

import io
from typing import Literal

import av
import numpy as np
import soxr

from shibolet.speech.audio import SAMPLE_RATE_HZ

NoiseKind = Literal["white", "pink", "babble"]
NOISE_KINDS: tuple[NoiseKind, ...] = ("white", "pink", "babble")
Codec = Literal["opus", "mp3"]
# codec -> encoder, container, encoder's options. Opus at complexity 2 takes half the time of the default 10.
CODECS = {"opus": ("libopus", "ogg", {"compression_level": "2"}), "mp3": ("libmp3lame", "mp3", {})}
_QUIET_SAMPLES = 400  # 25 ms, of which the quietest has the level of a room or a channel
_FFT_BLOCK = 4096  # noise is made in multiples of it: a transform of prime length takes several times as long


def make_noise(num_samples: int, kind: NoiseKind, rng: np.random.Generator) -> np.ndarray:
    """Noise of mean power 1.

    "pink" falls 3 dB an octave; "babble" has about the spectrum of speech (flat to 500 Hz, then 9 dB an octave
    down) and swells and fades like syllables.
    """
    if not num_samples:
        return np.zeros(0, np.float32)
    size = -(-num_samples // _FFT_BLOCK) * _FFT_BLOCK
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency_hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    if kind == "pink":
        spectrum /= np.sqrt(np.maximum(frequency_hz, 50))
    elif kind == "babble":
        spectrum /= (1 + (frequency_hz / 500) ** 2) ** 0.75
    noise = np.fft.irfft(spectrum)
    if kind == "babble":
        sway = np.fft.rfft(rng.standard_normal(size))
        sway[(frequency_hz == 0) | (frequency_hz > 8)] = 0
        envelope = np.fft.irfft(sway)
        noise *= np.exp(0.5 * envelope / envelope.std())
    noise = noise[:num_samples]
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def add_noise(
    samples: np.ndarray, snr_db: float, kind: NoiseKind, rng: np.random.Generator, spoken: np.ndarray | None = None
) -> np.ndarray:
    """Samples with noise at this ratio of mean powers, pauses included; silence stays silent.

    `spoken` is the part of them whose power counts.
    """
    loud = samples if spoken is None else spoken
    level = np.sqrt(np.mean(loud.astype(np.float64) ** 2)) * 10 ** (-snr_db / 20) if len(loud) else 0.0
    return (samples + level * make_noise(len(samples), kind, rng)).astype(np.float32)


def add_quiet(samples: np.ndarray, pauses: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """So many samples of white noise before and after, as loud as the quietest 25 ms of these."""
    if not any(pauses):
        return samples
    whole = len(samples) // _QUIET_SAMPLES * _QUIET_SAMPLES
    powers = np.mean(samples[:whole].reshape(-1, _QUIET_SAMPLES).astype(np.float64) ** 2, axis=1)
    quiet = np.sqrt(min(powers, default=0.0)) * rng.standard_normal(sum(pauses))
    return np.concatenate([quiet[: pauses[0]], samples, quiet[pauses[0] :]]).astype(np.float32)


def band_limit(samples: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Only what lies between the two frequencies; filtered forwards and backwards, so without delay."""
    from scipy.signal import butter, sosfiltfilt

    if not 0 < low_hz < high_hz < SAMPLE_RATE_HZ / 2:
        raise ValueError(f"band {low_hz}-{high_hz} Hz does not lie inside 0-{SAMPLE_RATE_HZ // 2} Hz")
    if len(samples) < 2:
        return samples
    sections = butter(4, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    return sosfiltfilt(sections, samples, padlen=min(len(samples) - 1, 400)).astype(np.float32)


def reverberate(samples: np.ndarray, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """Speech in a room: the direct sound, and as much power in noise that falls by 60 dB in `rt60_s`.

    Length, place and mean power stay.
    """
    from scipy.signal import fftconvolve

    if not len(samples) or not samples.any():
        return samples
    num = round(rt60_s * SAMPLE_RATE_HZ)
    tail = rng.standard_normal(num) * 10 ** (-3 * np.arange(num) / num)
    room = np.concatenate([[1.0], tail / np.linalg.norm(tail)])
    wet = fftconvolve(samples, room)[: len(samples)]
    return (wet * np.sqrt(np.mean(samples.astype(np.float64) ** 2) / np.mean(wet**2))).astype(np.float32)


def encode(samples: np.ndarray, codec: Codec, bitrate_bps: int, **settings: str) -> bytes:
    """An Ogg Opus or MP3 file of these samples, with settings of the encoder; the same samples give the same bytes."""
    encoder, container_format, options = CODECS[codec]
    buffer = io.BytesIO()
    # bitexact: ffmpeg's Ogg writer otherwise draws the stream's serial number at random.
    with av.open(buffer, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(encoder, rate=SAMPLE_RATE_HZ, layout="mono", options=options | settings)
        stream.bit_rate = bitrate_bps
        frame = av.AudioFrame.from_ndarray(_to_int16(samples)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=SAMPLE_RATE_HZ)
        for piece in [*resampler.resample(frame), None]:
            container.mux(stream.encode(piece))
    return buffer.getvalue()


def through_codec(samples: np.ndarray, codec: Codec, bitrate_bps: int) -> np.ndarray:
    """What is left after encoding and decoding; same length, the codec's delay taken out."""
    if not len(samples):
        return samples
    with av.open(io.BytesIO(encode(samples, codec, bitrate_bps))) as container:
        resampler = av.AudioResampler(format="flt", layout="mono")
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        rate_hz = container.streams.audio[0].rate
    return at_16_khz(np.concatenate([frame.to_ndarray()[0] for frame in frames]), rate_hz, len(samples))


def at_16_khz(decoded: np.ndarray, rate_hz: int, num_samples: int) -> np.ndarray:
    """What a decoder gave at its own rate, `num_samples` of it at 16 kHz."""
    decoded = soxr.resample(decoded, rate_hz, SAMPLE_RATE_HZ)
    return np.pad(decoded, (0, max(0, num_samples - len(decoded))))[:num_samples].astype(np.float32)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Faster by this factor, and higher in pitch with it; the length is divided by the factor."""
    if factor <= 0:
        raise ValueError(f"speed factor must be positive, got {factor}")
    return soxr.resample(samples, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ).astype(np.float32)


def scale_gain(samples: np.ndarray, gain_db: float) -> np.ndarray:
    """Louder by this many decibels; what passes full scale is clipped."""
    return np.clip(samples * 10 ** (gain_db / 20), -1, 1).astype(np.float32)


def clip_loudest(samples: np.ndarray, frac: float) -> np.ndarray:
    """An overloaded input: this share of the samples, the loudest, is cut off at the level of the next."""
    limit = max(float(np.quantile(np.abs(samples), 1 - frac)), 1e-4) if len(samples) else 1.0
    return np.clip(samples, -limit, limit)


def _to_int16(samples: np.ndarray) -> np.ndarray:
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
