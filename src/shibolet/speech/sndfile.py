"""Decoding by libsndfile: WAV, FLAC, Ogg Vorbis and Opus, AIFF, AU, CAF and others of that kind, where they are whole.

It believes what headers say of the length, stops at the first damaged frame and cannot go on after it: what is such a
file is FFmpeg's (`ffmpeg.py`), as is MP3, of which it takes the length from the first frames and misses seeks.
"""

import re
from collections.abc import Iterator

import numpy as np
import soundfile as sf

from shibolet.speech.channels import Mixer
from shibolet.speech.encoded import SHORT_S, DecoderStopped, Encoded, Fault, require_rate
from shibolet.speech.extents import Extent, ogg_pages
from shibolet.speech.flac import flac_lengths

_BLOCK_VALUES = 1 << 20  # decoded at a time, over all channels: what a header claims is never allocated
_MPEG_IN_WAV = re.compile(rb"RIFF....WAVE.{0,200}?fmt ....[\x50\x55]\0", re.DOTALL)


class SndSound:
    """A file that libsndfile has opened."""

    lead_s = 0.0

    def __init__(self, sound: sf.SoundFile, extent: Extent | None) -> None:
        self._sound, self._mixer = sound, Mixer()
        self.rate_hz, self.channels = require_rate(sound.samplerate), sound.channels
        self.num_samples = sound.frames
        self.promised_samples = round(sound.frames * (extent.times_present if extent else 1.0))
        self.faults: list[Fault] = []

    def __enter__(self) -> "SndSound":
        return self

    def __exit__(self, *_: object) -> None:
        self._sound.close()

    def length_s(self) -> float:
        return self.num_samples / self.rate_hz

    @property
    def notes(self) -> list[str]:
        return [note for note in (self._mixer.note,) if note]

    def blocks(self, start: int, end: int | None, block_samples: int | None = None) -> Iterator[np.ndarray]:
        """Mono samples from `start` on, up to `end`, in blocks; DecoderStopped where there should be more."""
        if start or self._sound.seekable():
            self._sound.seek(start)  # to 0 too: without it, Opus that FFmpeg wrote begins with the codec's delay
        left = max(0, (self.num_samples if end is None else min(end, self.num_samples)) - start)
        most = _BLOCK_VALUES // self.channels if block_samples is None else block_samples
        while left:
            try:
                block = self._sound.read(min(left, most), dtype="float32", always_2d=True)
            except sf.LibsndfileError as error:
                raise DecoderStopped from error
            if len(block):
                yield self._mixer.mix(block.T)
                left -= len(block)
            elif left > SHORT_S * self.rate_hz:
                raise DecoderStopped
            else:
                break
        if end is None and self.promised_samples > self.num_samples + SHORT_S * self.rate_hz:
            self.faults.append(Fault("cut_short", self.length_s(), self.promised_samples / self.rate_hz))


def try_sndfile(encoded: Encoded, extent: Extent | None, *, for_length: bool) -> SndSound | None:
    """The audio opened by libsndfile, or None where FFmpeg does better."""
    source = encoded.source
    if isinstance(source, str) and source.lower().endswith((".raw", ".mp3")):
        return None  # soundfile takes .raw for headerless samples and asks for a rate
    if _MPEG_IN_WAV.match(encoded.head):
        return None
    if not isinstance(source, str):
        source.seek(0)
    try:
        sound = sf.SoundFile(source)
    except sf.LibsndfileError:
        return None
    if not _is_fit(sound, encoded, for_length):
        sound.close()
        return None
    return SndSound(sound, extent)


def _is_fit(sound: sf.SoundFile, encoded: Encoded, for_length: bool) -> bool:
    """Whether libsndfile decodes all of a file: no MP3, and nothing that has more or less in it than it says."""
    if sound.format == "MP3":
        return False
    if sound.format == "FLAC":
        header, last = flac_lengths(encoded) or (sound.frames, None)
        return header > 0 and last in (None, header)
    if sound.format == "OGG" and not for_length:
        return ogg_pages(encoded).is_plain
    return True
