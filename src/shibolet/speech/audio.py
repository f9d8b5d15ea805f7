"""Encoded audio to samples and back: 16 kHz, mono, float32, shape [S].

What a decoder gives is the audio. libsndfile (`sndfile.py`) decodes what it reads to the end; FFmpeg (`ffmpeg.py`) all
else, damaged files included. A length that a header claims hides no samples; samples that it claims too many are an
error to `load`, which training reads with, and a note of `stream`, which transcribes.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from shibolet.errors import AudioError
from shibolet.records.files import digest_file
from shibolet.records.objects import local_file
from shibolet.records.store import NoObject
from shibolet.records.utterance import AudioRef
from shibolet.speech import tables
from shibolet.speech.encoded import (
    MAX_DURATION_S,
    MAX_UTTERANCE_S,
    DecoderStopped,
    Encoded,
    reading,
    require_file,
    require_rate,
    told,
)
from shibolet.speech.ffmpeg import FFmpegSound
from shibolet.speech.flac import plain_flac
from shibolet.speech.opening import links_of, open_sound
from shibolet.speech.sndfile import SndSound

SAMPLE_RATE_HZ = 16000
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .m4a .mp4 .aac .webm .mka .mkv .mov .aif .aiff .au .caf .wma .amr .3gp .sph .w64"
    .split()
)  # fmt: skip

_MAX_PEAK = 8.0  # decoders overshoot 1.0 a little; integers stored as floats reach 32768
_LOADED_S = MAX_UTTERANCE_S + 60.0  # more than a header can have claimed of what is loaded whole


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the header of encoded audio says; for the whole of it, whatever span a reference takes."""

    duration_s: float  # on the file's clock: from its zero to the end of its sound
    sample_rate_hz: int
    channels: int


def probe(ref: AudioRef) -> AudioInfo:
    """Length, rate and channels, from the header where the format gives them; AudioError as in `load`."""
    with reading(_name(ref)):
        return _probe(_content(ref))


def probe_file(path: str) -> AudioInfo | AudioError:
    """As `probe` of a whole file, or why it cannot be read: many files are probed, and most are good."""
    try:
        with reading(path):
            return _probe(_file_at(path))
    except AudioError as error:
        return error


def probe_encoded(content: bytes | Path, name: str) -> AudioInfo:
    """As `probe`, for bytes or a file; `name` is what an error calls it."""
    with reading(name):
        return _probe(content)


def load(ref: AudioRef) -> np.ndarray:
    """The samples of the referenced span, float32 [S] at 16 kHz, channels averaged where they do not cancel.

    Times are those of the file: silence stands before a sound that starts late. AudioError reasons: missing_file,
    not_a_file, missing_audio, undecodable, damaged, cut_short, empty_audio, nan_samples, out_of_range, too_long,
    span_beyond_audio.
    """
    with reading(_name(ref)):
        first, *more = links_of(Encoded.of(_content(ref)))
        if not more:
            return _load(first, ref.start_s, ref.end_s)
        samples = np.concatenate([_load(link, 0.0, None) for link in (first, *more)])
        end = None if ref.end_s is None else round(ref.end_s * SAMPLE_RATE_HZ)
        _require_span(ref.start_s, len(samples) / SAMPLE_RATE_HZ)
        return samples[round(ref.start_s * SAMPLE_RATE_HZ) : end]


def _load(encoded: Encoded, start_s: float, end_s: float | None) -> np.ndarray:
    try:
        return _read(open_sound(encoded), start_s, end_s)
    except DecoderStopped:
        return _read(open_sound(encoded, after_damage=True), start_s, end_s)


def _read(sound: SndSound | FFmpegSound, start_s: float, end_s: float | None) -> np.ndarray:
    """The samples of a span, [S] at 16 kHz; AudioError when any of them cannot be decoded."""
    with sound:
        rate_hz, lead = sound.rate_hz, round(sound.lead_s * sound.rate_hz)
        start = round(start_s * rate_hz) - lead
        end = None if end_s is None else round(end_s * rate_hz) - lead
        _require_start(start, sound)
        samples = _Samples(rate_hz)
        if start < 0:
            samples.add(np.zeros(-start if end is None else min(0, end) - start, np.float32))
        num_decoded = 0
        if end is None or end > 0:
            for block in sound.blocks(max(0, start), end):
                samples.add(block)
                num_decoded += len(block)
        for fault in sound.faults:
            if fault.end_s > start_s and (end_s is None or fault.start_s < end_s):
                raise AudioError(str(fault), fault.reason)
        if not num_decoded:
            _require_start(start, sound)
            raise AudioError("no samples in it", "empty_audio")
    return samples.finish()


def _probe(content: bytes | Path) -> AudioInfo:
    duration_s, firsts = 0.0, []
    for link in links_of(Encoded.of(content), for_length=True):
        if plain := plain_flac(link):  # a fifth of the time that it takes to open it
            num_samples, rate_hz, channels = plain
            duration_s += num_samples / require_rate(rate_hz)
            firsts.append((rate_hz, channels))
            continue
        with open_sound(link, for_length=True) as sound:
            duration_s += sound.lead_s + sound.length_s()
            firsts.append((sound.rate_hz, sound.channels))
    if duration_s <= 0:
        raise AudioError("no samples in it", "empty_audio")
    return AudioInfo(duration_s, *firsts[0])


class Stream:
    """A file's samples as `load` gives them, in blocks, decoded once from its start; to be iterated once.

    Damage costs what is damaged: silence stands for it, and `notes` says where, once all blocks have come; of one whose
    end is missing, `is_cut_short` says so too. `start_s`, known with the first block, is when a sound begins that
    starts late: no silence stands for that. AudioError as in `load` for what is nowhere audio, and for samples that are
    none, after the blocks before them.
    """

    def __init__(self, content: bytes | Path | str, block_s: float = 30.0) -> None:
        self.start_s = 0.0
        self.notes: list[str] = []
        self.is_cut_short = False
        self._block_s = block_s
        self._blocks = self._decode(content)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._blocks

    def __next__(self) -> np.ndarray:
        return next(self._blocks)

    def _decode(self, content: bytes | Path | str) -> Iterator[np.ndarray]:
        with reading("the audio" if isinstance(content, bytes) else str(content)):
            num = 0
            content = _file_at(content) if isinstance(content, str) else content
            for link in links_of(Encoded.of(content)):
                for block in self._link(link, num / SAMPLE_RATE_HZ):
                    num += len(block)
                    yield block
            if not num:
                raise AudioError("no samples in it", "empty_audio")

    def _link(self, encoded: Encoded, before_s: float) -> Iterator[np.ndarray]:
        """Blocks at 16 kHz of one of the streams that follow each other in a file; of most files that is all of it."""
        sound, done_s = open_sound(encoded), 0.0
        while sound is not None:
            follower, wrong = None, None
            resampler = _Resampler(sound.rate_hz)
            with sound:
                self.start_s = sound.lead_s
                try:
                    for block in sound.blocks(
                        round(done_s * sound.rate_hz), None, round(self._block_s * sound.rate_hz)
                    ):
                        wrong = _wrong(block)
                        good = block if wrong is None else block[: np.argmin(np.abs(block) <= _MAX_PEAK)]
                        done_s += len(good) / sound.rate_hz
                        yield resampler.add(good)
                        if wrong is None and before_s + done_s > MAX_DURATION_S:
                            wrong = AudioError("more than a recording has", "too_long")
                        if wrong is not None:
                            break
                except DecoderStopped:
                    follower = open_sound(encoded, after_damage=True)
                yield resampler.finish()
                self.notes += [*told(sound.faults, before_s), *sound.notes]
                self.is_cut_short |= any(fault.reason == "cut_short" for fault in sound.faults)
            if wrong is not None:
                raise AudioError(f"after {before_s + sound.lead_s + done_s:.2f} s: {wrong}", wrong.reason)
            sound = follower


def stream(content: bytes | Path | str, block_s: float = 30.0) -> Stream:
    """The samples of a file, of an object (text: a path or URL as in `AudioRef`) or bytes, in blocks of `block_s`."""
    return Stream(content, block_s)


def encode_flac(samples: np.ndarray) -> bytes:
    """16-bit mono FLAC at 16 kHz; same samples, same bytes; what lies outside -1 to 1 is clipped."""
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    sf.write(file, pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def content_hash(ref: AudioRef) -> str:
    """SHA-256 of all encoded bytes that a reference points into, whatever the span; AudioError as in `load`.

    At 2 GB/s it costs a tenth of decoding FLAC, which has to read the same bytes; that of a large file is kept.
    """
    with reading(_name(ref)):
        content = _content(ref)
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest()
        require_file(content)
        return digest_file(content)


def _name(ref: AudioRef) -> str:
    return ref.path if ref.row is None else f"{ref.path} row {ref.row}"


def _content(ref: AudioRef) -> bytes | Path:
    path = _file_at(ref.path)
    if ref.row is None:
        return path
    require_file(path)
    content = tables.read_cell(ref.path, ref.row, ref.column)
    return _file_at(content) if isinstance(content, str) else content


def _file_at(place: str) -> Path:
    """The file of a path, or the copy of an object."""
    try:
        return local_file(place)
    except NoObject:
        raise AudioError("no such object in the store", "missing_file") from None


def _require_span(start_s: float, length_s: float) -> None:
    if 0 < length_s <= start_s:
        raise AudioError(f"the span starts at {start_s:.2f} s, the audio ends at {length_s:.2f} s", "span_beyond_audio")


def _require_start(start: int, sound: SndSound | FFmpegSound) -> None:
    if sound.num_samples is not None:
        _require_span(start / sound.rate_hz + sound.lead_s, sound.num_samples / sound.rate_hz + sound.lead_s)


def _wrong(block: np.ndarray) -> AudioError | None:
    """Why samples are none."""
    if not np.isfinite(block).all():
        return AudioError(f"{np.count_nonzero(~np.isfinite(block)):,} samples are not numbers", "nan_samples")
    if (peak := float(np.abs(block).max(initial=0.0))) > _MAX_PEAK:
        return AudioError(f"samples reach {peak:.3g}, expected -1 to 1 (integers stored as floats?)", "out_of_range")
    return None


class _Resampler:
    """Blocks at any rate to blocks at 16 kHz."""

    def __init__(self, rate_hz: int) -> None:
        same = rate_hz == SAMPLE_RATE_HZ
        self._stream = None if same else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")

    def add(self, block: np.ndarray) -> np.ndarray:
        return block if self._stream is None else self._stream.resample_chunk(block)

    def finish(self) -> np.ndarray:
        nothing = np.zeros(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)


class _Samples:
    """Mono blocks at any rate, kept as samples at 16 kHz: memory grows with the length alone."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz, self._num_added = rate_hz, 0
        self._resampler, self._blocks = _Resampler(rate_hz), []

    def add(self, block: np.ndarray) -> None:
        if not len(block):
            return
        if wrong := _wrong(block):
            raise wrong
        self._num_added += len(block)
        if self._num_added > _LOADED_S * self._rate_hz:
            raise AudioError(f"more than {_LOADED_S:,.0f} s in one piece", "too_long")
        self._blocks.append(self._resampler.add(block))

    def finish(self) -> np.ndarray:
        """All of it, [S]."""
        return np.concatenate([*self._blocks, self._resampler.finish()])
