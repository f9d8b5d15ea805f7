"""Encoded audio to samples and back: 16 kHz, mono, float32, shape [S].

libsndfile decodes wav, FLAC, Ogg Vorbis and Ogg Opus, PyAV (FFmpeg) what libsndfile does not open, and MP3: without a
Xing header libsndfile takes an MP3's length from its first frames and stops there, and its seek misses by frames.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile as sf
import soxr

from shibolet.errors import AudioError
from shibolet.records.utterance import AudioRef
from shibolet.speech import tables

SAMPLE_RATE_HZ = 16000
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .m4a .mp4 .aac .webm .mka .mkv .mov .aif .aiff .au .caf .wma .amr .3gp .sph .w64"
    .split()
)  # fmt: skip

_UNKNOWN_FRAMES = 1 << 40  # libsndfile answers about 2**63 frames for a FLAC stream whose header gives no length
_RATES_HZ = (4000, 384_000)  # outside, the header is broken, and resampling from 1 Hz would fill the memory
_SHORT_READ_S = 0.1  # a decoder may end this much before the header says; more than that is a truncated file
_PREROLL_S = 1.0  # decoded and thrown away after a seek: AAC and Opus need up to 80 ms to settle
_MAX_PEAK = 8.0  # decoders overshoot 1.0 a little; integers stored as floats reach 32768
_BLOCK_VALUES = 1 << 20  # decoded at a time, over all channels: what a header claims is never allocated
_PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp"}  # FFmpeg would open the files and hosts that these name

Encoded = str | BinaryIO  # what both decoders open: a path or bytes in memory


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the header of encoded audio says; for the whole of it, whatever span a reference takes."""

    duration_s: float
    sample_rate_hz: int
    channels: int


def probe(ref: AudioRef) -> AudioInfo:
    """Length, rate and channels, from the header where the format gives them; AudioError as in `load`."""
    with _reading(_name(ref)):
        return _probe(_content(ref))


def probe_encoded(content: bytes | Path, name: str) -> AudioInfo:
    """As `probe`, for bytes or a file; `name` is what an error calls it."""
    with _reading(name):
        return _probe(content)


def load(ref: AudioRef) -> np.ndarray:
    """The samples of the referenced span, float32 [S] at 16 kHz, channels averaged.

    AudioError reasons: missing_file, not_a_file, missing_audio, undecodable, empty_audio, nan_samples, out_of_range,
    span_beyond_audio.
    """
    with _reading(_name(ref)):
        encoded = _encoded(_content(ref))
        sound = _open_sound(encoded)
        if sound is None:
            return _read_av(encoded, ref)
        try:
            return _read_sound(sound, ref)
        except sf.LibsndfileError:
            _require_length(encoded, sound.frames / sound.samplerate)
            raise


def stream(path: Path, block_s: float = 30.0) -> Iterator[np.ndarray]:
    """A file's samples as `load` gives them, in blocks: decoded once from its start, without seeking.

    AudioError as in `load`, after the blocks that could be decoded.
    """
    with _reading(str(path)):
        _require_file(path)
        sound = _open_sound(str(path))
        rate_hz, expected, blocks = _stream_av(str(path), block_s) if sound is None else _stream_sound(sound, block_s)
        resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
        decoded = 0
        for block in blocks:
            if not np.isfinite(block).all():
                raise AudioError(f"samples after {decoded / rate_hz:.0f} s are not numbers", "nan_samples")
            if (peak := float(np.abs(block).max())) > _MAX_PEAK:
                raise AudioError(f"samples reach {peak:.0f}, expected -1 to 1 (integers stored as floats?)")
            decoded += len(block)
            yield block if rate_hz == SAMPLE_RATE_HZ else resampler.resample_chunk(block)
        if rate_hz != SAMPLE_RATE_HZ:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if decoded < (expected or 1) - _SHORT_READ_S * rate_hz:
            raise AudioError(
                f"ends after {decoded / rate_hz:.2f} s of the {expected / rate_hz:.2f} s that it should have"
            )
        if not decoded:
            raise AudioError("no samples in it", "empty_audio")


def _stream_sound(sound: sf.SoundFile, block_s: float) -> tuple[int, int, Iterator[np.ndarray]]:
    """Rate, number of samples by the header, and mono blocks."""

    def blocks() -> Iterator[np.ndarray]:
        with sound:
            for block in sound.blocks(round(block_s * sound.samplerate), dtype="float32", always_2d=True):
                yield block.mean(axis=1)

    return _require_rate(sound.samplerate), sound.frames, blocks()


def _stream_av(path: str, block_s: float) -> tuple[int, int | None, Iterator[np.ndarray]]:
    container = _open_av(path)
    stream = _audio_stream(container)
    rate_hz, length_s = _require_rate(stream.codec_context.sample_rate), _length_s(container, stream)
    expected = None if length_s is None else round(length_s * rate_hz)

    def blocks() -> Iterator[np.ndarray]:
        with container:
            to_planar, held, decoded = av.AudioResampler(format="fltp"), [], 0
            for frame in container.decode(stream):
                for planar in to_planar.resample(frame):
                    held.append(planar.to_ndarray().mean(axis=0)[: None if expected is None else expected - decoded])
                    decoded += len(held[-1])
                    if expected is not None and decoded >= expected:  # what follows is a codec's padding
                        yield np.concatenate(held)
                        return
                if sum(map(len, held)) >= block_s * rate_hz:
                    yield np.concatenate(held)
                    held = []
            if held:
                yield np.concatenate(held)

    return rate_hz, expected, blocks()


def encode_flac(samples: np.ndarray) -> bytes:
    """16-bit mono FLAC at 16 kHz; same samples, same bytes; what lies outside -1 to 1 is clipped."""
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    sf.write(file, pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def content_hash(ref: AudioRef) -> str:
    """SHA-256 of all encoded bytes that a reference points into, whatever the span; AudioError as in `load`.

    At 2 GB/s it costs a tenth of decoding FLAC, which has to read the same bytes.
    """
    with _reading(_name(ref)):
        content = _content(ref)
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest()
        _require_file(content)
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _name(ref: AudioRef) -> str:
    return ref.path if ref.row is None else f"{ref.path} row {ref.row}"


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what the two decoders raise into AudioError; its cause is an AudioError too, without the name."""
    try:
        yield
        return
    except AudioError as error:
        bare = error
    except (sf.SoundFileError, av.FFmpegError, OSError) as error:
        bare = AudioError(_why(error))
        bare.__cause__ = error
    raise AudioError(f"{name}: {bare}", bare.reason, str(bare)) from bare


def _why(error: Exception) -> str:
    """One sentence, without the decoder's number and the path that it repeats."""
    if isinstance(error, sf.LibsndfileError):
        return f"not audio that can be read ({error.error_string.rstrip('.')})"
    what = getattr(error, "strerror", None) or str(error)
    is_decoder = isinstance(error, sf.SoundFileError | av.FFmpegError)
    return f"{'not audio that can be read' if is_decoder else 'cannot be read'} ({what})"


def _content(ref: AudioRef) -> bytes | Path:
    path = Path(ref.path)
    if ref.row is None:
        return path
    _require_file(path)
    return tables.read_cell(path, ref.row, ref.column)


def _encoded(content: bytes | Path) -> Encoded:
    if isinstance(content, bytes):
        if not content:
            raise AudioError("no bytes in it", "empty_audio")
        return io.BytesIO(content)
    _require_file(content)
    return str(content)


def _require_file(path: Path) -> None:
    # os.path, not Path: it answers False, not an exception, for names that are too long or hold a NUL.
    if not os.path.exists(path):
        raise AudioError("no such file", "missing_file")
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise AudioError("not a regular file", "not_a_file")
    if not os.path.getsize(path):
        raise AudioError("no bytes in it", "empty_audio")


def _probe(content: bytes | Path) -> AudioInfo:
    encoded = _encoded(content)
    sound = _open_sound(encoded)
    if sound is None:
        info = _probe_av(encoded)
    else:
        with sound:
            rate_hz = _require_rate(sound.samplerate)
            info = AudioInfo(sound.frames / rate_hz, rate_hz, sound.channels)
    if info.duration_s <= 0:
        raise AudioError("no samples in it", "empty_audio")
    return info


def _open_sound(encoded: Encoded) -> sf.SoundFile | None:
    """The audio opened by libsndfile, or None where PyAV does better."""
    if isinstance(encoded, str) and encoded.lower().endswith((".raw", ".mp3")):
        return None  # soundfile takes .raw for headerless samples and asks for a rate
    try:
        sound = sf.SoundFile(encoded)
    except sf.LibsndfileError:
        return None
    if sound.format == "MP3" or sound.frames >= _UNKNOWN_FRAMES:
        sound.close()
        return None
    return sound


class _Samples:
    """Mono blocks at any rate, kept as samples at 16 kHz: memory grows with the length alone."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz, self.num_decoded = rate_hz, 0
        self._blocks: list[np.ndarray] = []
        same = rate_hz == SAMPLE_RATE_HZ
        self._resampler = None if same else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")

    def add(self, block: np.ndarray) -> None:
        if not len(block):
            return
        if not np.isfinite(block).all():
            raise AudioError(f"{np.count_nonzero(~np.isfinite(block)):,} samples are not numbers", "nan_samples")
        if (peak := float(np.abs(block).max())) > _MAX_PEAK:
            detail = f"samples reach {peak:.3g}, expected -1 to 1 (integers stored as floats?)"
            raise AudioError(detail, "out_of_range")
        self.num_decoded += len(block)
        self._blocks.append(self._resampler.resample_chunk(block) if self._resampler else block)

    def finish(self, num_expected: int | None = None) -> np.ndarray:
        """All of it, [S]; `num_expected` at the original rate."""
        if num_expected is not None and self.num_decoded < num_expected - _SHORT_READ_S * self.rate_hz:
            got_s, expected_s = self.num_decoded / self.rate_hz, num_expected / self.rate_hz
            raise AudioError(f"{got_s:.2f} s could be decoded where {expected_s:.2f} s should be")
        if not self.num_decoded:
            raise AudioError("no samples in it", "empty_audio")
        if self._resampler:
            self._blocks.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        return np.concatenate(self._blocks)


def _read_sound(sound: sf.SoundFile, ref: AudioRef) -> np.ndarray:
    with sound:
        rate_hz = _require_rate(sound.samplerate)
        start = round(ref.start_s * rate_hz)
        end = sound.frames if ref.end_s is None else min(round(ref.end_s * rate_hz), sound.frames)
        _require_span(start / rate_hz, sound.frames / rate_hz)
        sound.seek(start)
        samples, left = _Samples(rate_hz), max(0, end - start)
        while left:
            block = sound.read(min(left, _BLOCK_VALUES // sound.channels), dtype="float32", always_2d=True)
            if not len(block):
                break
            samples.add(block.mean(axis=1))
            left -= len(block)
    return samples.finish(end - start)


def _open_av(encoded: Encoded) -> av.container.InputContainer:
    if isinstance(encoded, str):
        encoded = f"file:{encoded}"  # or FFmpeg takes "a:b.mp3" for a protocol
    else:
        encoded.seek(0)
    container = av.open(encoded, metadata_errors="replace", options={"protocol_whitelist": "file"})
    if playlist := _PLAYLISTS & set(container.format.name.split(",")):
        container.close()
        raise AudioError(f"a playlist ({playlist.pop()}), not audio")
    return container


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream:
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        raise AudioError("no audio stream in it that could be decoded")
    return container.streams.audio[0]


def _length_s(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """The length as the container gives it; None where it gives none, or (MP3) only an estimate."""
    if stream.codec_context.name.startswith("mp3"):
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


def _probe_av(encoded: Encoded) -> AudioInfo:
    with _open_av(encoded) as container:
        stream = _audio_stream(container)
        duration_s = _length_s(container, stream)
        if duration_s is None:  # count packets without decoding them
            ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            duration_s = float(ticks * stream.time_base)
        rate_hz = _require_rate(stream.codec_context.sample_rate)
        return AudioInfo(duration_s, rate_hz, stream.codec_context.channels)


def _read_av(encoded: Encoded, ref: AudioRef) -> np.ndarray:
    with _open_av(encoded) as container:
        stream = _audio_stream(container)
        rate_hz = _require_rate(stream.codec_context.sample_rate)
        length_s = _length_s(container, stream)
        ends_s = [end_s for end_s in (ref.end_s, length_s) if end_s is not None]
        start, end = round(ref.start_s * rate_hz), round(min(ends_s) * rate_hz) if ends_s else None
        is_sought = ref.start_s > _PREROLL_S
        if is_sought and length_s is not None:
            container.seek(int((ref.start_s - _PREROLL_S) * av.time_base))
        samples, position = _Samples(rate_hz), 0
        to_planar = av.AudioResampler(format="fltp")
        for i, frame in enumerate(_frames(container, stream, ref.start_s - _PREROLL_S)):
            if i == 0 and is_sought:  # later frames follow without a gap, whatever their rounded times say
                position = round((frame.pts - (stream.start_time or 0)) * frame.time_base * rate_hz)
            for planar in to_planar.resample(frame):
                block = planar.to_ndarray().mean(axis=0)
                stop = len(block) if end is None else min(len(block), end - position)
                samples.add(block[max(0, start - position) : max(0, stop)])
                position += len(block)
            if end is not None and position >= end:
                break
    _require_span(ref.start_s, position / rate_hz)
    return samples.finish(None if end is None else end - start)


def _frames(container: av.container.InputContainer, stream: av.AudioStream, from_s: float) -> Iterator[av.AudioFrame]:
    """Decoded frames, of the packets from `from_s` on: in MP3 seeks miss, and hours before a span need no decoding."""
    from_ticks, is_skipping = from_s / float(stream.time_base), True
    for packet in container.demux(stream):
        if is_skipping and packet.pts is not None and packet.pts < from_ticks:
            continue
        is_skipping = False
        yield from packet.decode()


def _require_rate(rate_hz: int) -> int:
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise AudioError(f"sample rate {rate_hz:,} Hz, expected {_RATES_HZ[0]:,} to {_RATES_HZ[1]:,}")
    return rate_hz


def _require_length(encoded: Encoded, header_s: float) -> None:
    """AudioError when what is there ends before the header says; counts packets without decoding them."""
    with _open_av(encoded) as container:
        stream = _audio_stream(container)
        length_s = float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
    if length_s < header_s - _SHORT_READ_S:
        raise AudioError(f"the header says {header_s:.2f} s, samples end at {length_s:.2f} s")


def _require_span(start_s: float, length_s: float) -> None:
    if 0 < length_s <= start_s:
        raise AudioError(f"the span starts at {start_s:.2f} s, the audio ends at {length_s:.2f} s", "span_beyond_audio")
