"""Audio made for tests: tones whose pitch tells the time, in any container, with any start, and damaged."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile as sf

RATE_HZ = 16000
FLAC_FRAME = 4096  # samples


def chirp(duration_s: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A tone that rises from 200 Hz by 100 Hz a second: its pitch tells which part of it one is looking at."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * (200 + 50 * t) * t)).astype(np.float32)


def pitch_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 17))
    return float(np.argmax(spectrum) * RATE_HZ / (1 << 17))


def encode(samples: np.ndarray, rate_hz: int = RATE_HZ, **how: str) -> bytes:
    """`[S]` or `[S, C]` by libsndfile."""
    file = io.BytesIO()
    sf.write(file, samples, rate_hz, **how)
    return file.getvalue()


def mux(
    path: Path,
    container: str,
    tracks: Sequence[tuple[str, np.ndarray, float]],
    *,
    picture_s: float = 0.0,
    rate_hz: int = 48000,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Tracks of (codec, mono samples, start in seconds) in a container, beside a picture of some length."""
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        packets: list[av.Packet] = []
        picture = out.add_stream("mpeg4", rate=10) if picture_s else None
        streams = [out.add_stream(codec, rate=rate_hz, layout="mono", options=codec_options) for codec, _, _ in tracks]
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for i in range(round(picture_s * 10)):
                image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                image.pts, image.time_base = i, Fraction(1, 10)
                packets += picture.encode(image)
            packets += picture.encode(None)
        for stream, (_, samples, start_s) in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, round(start_s * rate_hz), Fraction(1, rate_hz)
            to_codec = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate_hz)
            for converted in [*to_codec.resample(frame), *to_codec.resample(None)]:
                packets += stream.encode(converted)
            packets += stream.encode(None)
        packets = [packet for packet in packets if packet.dts is not None]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def amr(num_frames: int) -> bytes:
    """An AMR file of 20 ms frames, the first third of them large and the others small: no rate tells its length."""
    rng = np.random.default_rng(0)
    frames = [(7, 31) if i < num_frames // 3 else (0, 12) for i in range(num_frames)]
    return b"#!AMR\n" + b"".join(bytes([mode << 3 | 4]) + rng.bytes(size) for mode, size in frames)


def uneven(duration_s: float, rate_hz: int) -> np.ndarray:
    """Two thirds of silence, then noise: of a variable rate the first frames tell nothing about the rest."""
    noise = np.random.default_rng(0).normal(0, 0.1, round(duration_s * rate_hz)).astype(np.float32)
    noise[: len(noise) * 2 // 3] = 0
    return noise
