"""Where there is speech, how far it stands above the noise, and how wide its band is: by energy alone, no model.

Samples are float32 [S] at 16 kHz. Frames are 25 ms every 10 ms; energies are those of the band 150-4,000 Hz, which
holds most of speech, none of mains hum and little of hiss.
"""

from dataclasses import dataclass

import numpy as np

from shibolet.records.pickled import pickled_fast
from shibolet.speech.audio import SAMPLE_RATE_HZ

FRAME_SAMPLES = 400
HOP_SAMPLES = 160
HOP_S = HOP_SAMPLES / SAMPLE_RATE_HZ
BAND_HZ = (150.0, 4000.0)

SMOOTH_FRAMES = 7  # noise alone then varies by about 1 dB
FLOOR_BLOCK_FRAMES = 10  # the floor is followed in steps of 0.1 s
FLOOR_WINDOW_S = 8.0  # as the 10th percentile of this long: longer than a breath group, shorter than a change of room
FLOOR_PERCENTILE = 10
LEVEL_PERCENTILE = 95  # of a clip's energies: how loud its speech is
MIN_RANGE_DB = 6.0  # level above floor; less is steady noise or silence
ABOVE_FLOOR = 0.3  # a frame is speech from this share of the range above the floor
ABOVE_FLOOR_DB = (3.5, 12.0)  # but at least and at most so many dB
BELOW_LEVEL_DB = 40.0  # and never this far below the clip's level: breath in a digitally silent room
SILENCE_DB = -65.0  # level of a clip, relative to full scale, under which there is nothing to hear
MIN_SPEECH_S = 0.08  # shorter is a click
MIN_GAP_S = 0.25  # shorter gaps belong to the word around them: a stop's closure
HANGOVER_S = 0.06  # added at both ends: weak onsets and offsets

SNR_RANGE_DB = (-10.0, 60.0)
MIN_NOISE_S = 0.1  # of frames outside speech, before their mean counts as the noise

BANDWIDTH_FLOOR_DB = 55.0  # below the strongest bin; a wide-band "s" stays above it, a resampler's stop band does not
_BLOCK_FRAMES = 6000  # a minute: bounds memory on recordings of hours


@pickled_fast
@dataclass(frozen=True, slots=True)
class Sound:
    """What energy alone says of a clip."""

    duration_s: float
    speech: tuple[tuple[float, float], ...]  # as `speech_spans`
    snr_db: float  # as `estimate_snr_db`
    # Highest frequency with energy less than `BANDWIDTH_FLOOR_DB` under the strongest; 0.0 for silence. About 4,000 for
    # a telephone band, near 8,000 for speech recorded at 16 kHz.
    bandwidth_hz: float


def sound_of(samples: np.ndarray) -> Sound:
    """All of it from one look at the clip's spectra, which is where the time goes."""
    duration_s = len(samples) / SAMPLE_RATE_HZ
    energy_db, spectrum = _energy_db(samples)
    spans = _spans(energy_db, duration_s)
    return Sound(duration_s, tuple(spans), _snr_db(energy_db, spans), _bandwidth_hz(spectrum))


def speech_spans(samples: np.ndarray) -> list[tuple[float, float]]:
    """Start and end in seconds of each stretch of speech, in order and apart by at least `MIN_GAP_S` less hangover.

    Meant for speech at 5 dB or more above its noise; music and other people's voices count as speech.
    """
    return _spans(_energy_db(samples)[0], len(samples) / SAMPLE_RATE_HZ)


def estimate_snr_db(samples: np.ndarray) -> float:
    """Speech power over noise power, 150-4,000 Hz, within `SNR_RANGE_DB`; its lower end where there is no speech.

    Noise is the mean of what lies between spans of speech; where that is too short, the clip's quietest frames.
    """
    return sound_of(samples).snr_db


def _snr_db(energy_db: np.ndarray, spans: list[tuple[float, float]]) -> float:
    if not spans:
        return SNR_RANGE_DB[0]
    centre_s = np.arange(len(energy_db)) * HOP_S + FRAME_SAMPLES / 2 / SAMPLE_RATE_HZ
    in_speech = np.zeros(len(energy_db), bool)
    for start_s, end_s in spans:
        in_speech |= (start_s <= centre_s) & (centre_s < end_s)
    power = 10 ** (energy_db / 10)
    quiet = power[~in_speech]
    noise = quiet.mean() if len(quiet) * HOP_S >= MIN_NOISE_S else np.percentile(power, 5)
    speech = max(power[in_speech].mean() - noise, 1e-12)
    return float(np.clip(10 * np.log10(speech / max(noise, 1e-12)), *SNR_RANGE_DB))


def _bandwidth_hz(spectrum: np.ndarray) -> float:
    from scipy.ndimage import uniform_filter1d

    spectrum = uniform_filter1d(spectrum, 7)  # 220 Hz
    if spectrum.max() <= 1e-12:
        return 0.0
    highest = np.flatnonzero(spectrum > spectrum.max() * 10 ** (-BANDWIDTH_FLOOR_DB / 10))[-1]
    return float(_bin_hz(len(spectrum))[highest])


def _frames(samples: np.ndarray) -> np.ndarray:
    """Frames [N, FRAME_SAMPLES] as a view; a clip shorter than a frame is padded to one."""
    padded = np.pad(samples, (0, max(0, FRAME_SAMPLES - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME_SAMPLES)[::HOP_SAMPLES]


def _power(frames: np.ndarray) -> np.ndarray:
    """Power spectra [N, F] of Hann-windowed frames, scaled so that a full-scale sine sums to 0.5."""
    window = np.hanning(FRAME_SAMPLES).astype(np.float32)
    spectra = np.fft.rfft(frames * window, 512)
    return 2 * (spectra.real**2 + spectra.imag**2) / (512 * (window**2).sum())


def _bin_hz(num_bins: int) -> np.ndarray:
    return np.linspace(0, SAMPLE_RATE_HZ / 2, num_bins)


def _energy_db(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy in the speech band of each frame, dB relative to full scale, [N], and the mean power spectrum [F]."""
    frames = _frames(samples)
    hz = _bin_hz(257)
    band = (BAND_HZ[0] <= hz) & (hz <= BAND_HZ[1])
    energy, spectrum = np.empty(len(frames)), np.zeros(257)
    for first in range(0, len(frames), _BLOCK_FRAMES):
        power = _power(frames[first : first + _BLOCK_FRAMES])
        energy[first : first + len(power)] = power[:, band].sum(axis=1)
        spectrum += power.sum(axis=0)
    return 10 * np.log10(np.maximum(energy, 1e-12)), spectrum / len(frames)


def _spans(energy_db: np.ndarray, duration_s: float) -> list[tuple[float, float]]:
    from scipy.ndimage import uniform_filter1d  # 0.3 s, and who plans a round imports this module

    smooth_db = uniform_filter1d(energy_db, SMOOTH_FRAMES, mode="nearest")
    level_db = np.percentile(smooth_db, LEVEL_PERCENTILE)
    floor_db = _floor_db(smooth_db)
    range_db = level_db - floor_db.min()
    if level_db < SILENCE_DB or range_db < MIN_RANGE_DB:
        return []
    above_db = np.clip(ABOVE_FLOOR * (level_db - floor_db), *ABOVE_FLOOR_DB)
    is_speech = smooth_db > np.maximum(floor_db + above_db, level_db - BELOW_LEVEL_DB)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_speech, [False])).astype(np.int8)))
    # Frame i is heard from its middle; half a frame is 12.5 ms.
    middle_s = FRAME_SAMPLES / 2 / SAMPLE_RATE_HZ
    runs = [(start * HOP_S + middle_s, end * HOP_S + middle_s) for start, end in edges.reshape(-1, 2)]
    merged: list[tuple[float, float]] = []
    for start_s, end_s in runs:
        if merged and start_s - merged[-1][1] < MIN_GAP_S:
            merged[-1] = (merged[-1][0], end_s)
        else:
            merged.append((start_s, end_s))
    return [
        (float(max(0.0, start_s - HANGOVER_S)), float(min(duration_s, end_s + HANGOVER_S)))
        for start_s, end_s in merged
        if end_s - start_s >= MIN_SPEECH_S
    ]


def _floor_db(smooth_db: np.ndarray) -> np.ndarray:
    """Noise floor of each frame: a low percentile of the seconds around it, [N]."""
    from scipy.ndimage import percentile_filter

    num_blocks = -(-len(smooth_db) // FLOOR_BLOCK_FRAMES)
    blocks = np.pad(smooth_db, (0, num_blocks * FLOOR_BLOCK_FRAMES - len(smooth_db)), mode="edge")
    quietest = blocks.reshape(num_blocks, FLOOR_BLOCK_FRAMES).min(axis=1)
    window = min(num_blocks, round(FLOOR_WINDOW_S / (FLOOR_BLOCK_FRAMES * HOP_S)))
    floor = percentile_filter(quietest, FLOOR_PERCENTILE, size=window, mode="nearest")
    return np.repeat(floor, FLOOR_BLOCK_FRAMES)[: len(smooth_db)]
