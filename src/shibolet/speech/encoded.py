"""Encoded audio before it is decoded: where it lies, what may be opened at all, and what is wrong with it in words."""

import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import av
import soundfile as sf

from shibolet.errors import AudioError

_HEAD_BYTES = 4096
MAX_DURATION_S = 24 * 3600.0  # longer is taken for a broken header, and is not decoded any further
MAX_UTTERANCE_S = 3600.0  # is decoded and heard in one piece: 230 MB of samples; longer needs spans
_TOLD_FAULTS = 5
SHORT_S = 0.1  # lengths and times agree up to this: a codec's delay and padding, times rounded to a frame
RATES_HZ = (4000, 384_000)  # outside, the header is broken, and resampling from 1 Hz would fill the memory


class DecoderStopped(Exception):
    """libsndfile gives no more samples where its header promises some; FFmpeg may go on after the damage."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Sound that should be there and cannot be decoded."""

    reason: str  # the ledger's rule: "damaged" in the middle, "cut_short" at the end
    start_s: float
    end_s: float

    def __str__(self) -> str:
        if self.reason == "cut_short" and self.start_s == self.end_s:
            return f"it is cut in the middle of a page: samples end at {self.end_s:.2f} s"
        if self.reason == "cut_short":
            return f"the header says {self.end_s:.2f} s, samples end at {self.start_s:.2f} s"
        return f"damaged: {self.end_s - self.start_s:.2f} s from {self.start_s:.2f} s on could not be decoded"


def told(faults: Sequence[Fault], before_s: float) -> list[str]:
    """A sentence for each fault, of many for the first ones; `before_s` is what comes before in the same file."""
    faults = [replace(fault, start_s=fault.start_s + before_s, end_s=fault.end_s + before_s) for fault in faults]
    lines = [str(fault) for fault in faults[:_TOLD_FAULTS]]
    if more := faults[_TOLD_FAULTS:]:
        lost_s = sum(fault.end_s - fault.start_s for fault in more)
        lines.append(f"damaged in {len(more):,} more places, up to {more[-1].end_s:.2f} s: {lost_s:.2f} s in all")
    return lines


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoded audio that may be opened: a regular file, or bytes in memory, or a part of either."""

    source: str | BinaryIO  # what both decoders open: a path, or a file object that can seek
    size: int
    head: bytes  # its first bytes

    @classmethod
    def of(cls, content: bytes | Path | BinaryIO) -> "Encoded":
        """AudioError missing_file, not_a_file, empty_audio."""
        if isinstance(content, Path):
            size = require_file(content)
            with open(content, "rb", buffering=0) as file:
                return cls(str(content), size, file.read(_HEAD_BYTES))
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        size = source.seek(0, os.SEEK_END)
        if not size:
            raise AudioError("no bytes in it", "empty_audio")
        source.seek(0)
        return cls(source, size, source.read(_HEAD_BYTES))

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """A file object at its begin."""
        if isinstance(self.source, str):
            with open(self.source, "rb", buffering=0) as file:
                yield file
        else:
            self.source.seek(0)
            yield self.source

    def bytes_at(self, at: int, num: int) -> bytes:
        """Some of its bytes; fewer at its end."""
        if at + num <= len(self.head):
            return self.head[at : at + num]
        with self.opened() as file:
            file.seek(at)
            return file.read(num)

    def parts(self, spans: Iterable[tuple[int, int]]) -> Iterator["Encoded"]:
        """Parts of it, each as if it were all; they share a file that stays open."""
        source = open(self.source, "rb", buffering=0) if isinstance(self.source, str) else self.source
        return (Encoded.of(_Part(source, begin, end)) for begin, end in spans)

    def patched(self, at: int, patch: bytes) -> "Encoded":
        """All of it with other bytes in one place."""
        return Encoded.of(_Part(self.source, 0, self.size, at, patch))


class _Part(io.RawIOBase):
    """A part of a file as a file of its own, with some of its bytes replaced by others."""

    def __init__(self, source: str | BinaryIO, begin: int, end: int, patch_at: int = 0, patch: bytes = b"") -> None:
        super().__init__()
        self._file = open(source, "rb", buffering=0) if isinstance(source, str) else source
        self._owns = isinstance(source, str)
        self._begin, self._size, self._at = begin, end - begin, 0
        self._patch_at, self._patch = patch_at, patch

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._begin + self._at)
        content = bytearray(self._file.read(wanted))
        for i, byte in enumerate(self._patch, self._patch_at - self._at):
            if 0 <= i < len(content):
                content[i] = byte
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        if self._owns and not self.closed:
            self._file.close()
        super().close()


def require_file(path: Path) -> int:
    """Its bytes; AudioError for what is no regular file with bytes: opening a pipe or a device would wait for ever."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        raise AudioError("no such file", "missing_file") from None
    if not stat.S_ISREG(found.st_mode):
        raise AudioError("not a regular file", "not_a_file")
    if not found.st_size:
        raise AudioError("no bytes in it", "empty_audio")
    return found.st_size


def require_rate(rate_hz: int) -> int:
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise AudioError(f"sample rate {rate_hz:,} Hz, expected {RATES_HZ[0]:,} to {RATES_HZ[1]:,}")
    return rate_hz


@contextmanager
def reading(name: str) -> Iterator[None]:
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
