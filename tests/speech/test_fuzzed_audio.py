"""Ten thousand damaged files through the readers: samples or one sentence, soon, and in little memory."""

import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from made_audio import amr, chirp, encode, mux

from shibolet.errors import AudioError
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load, probe, stream

LIBSNDFILE = {
    "wav": {"format": "WAV"}, "flac": {"format": "FLAC"}, "aiff": {"format": "AIFF"}, "au": {"format": "AU"},
    "caf": {"format": "CAF"}, "w64": {"format": "W64"}, "rf64": {"format": "RF64"}, "sph": {"format": "NIST"},
    "mp3": {"format": "MP3"}, "opus": {"format": "OGG", "subtype": "OPUS"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "float.wav": {"format": "WAV", "subtype": "FLOAT"}, "adpcm.wav": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "alac.caf": {"format": "CAF", "subtype": "ALAC_16"},
}  # fmt: skip
FFMPEG = {  # container, codec, seconds of picture
    "m4a": ("ipod", "aac", 0), "mp4": ("mp4", "aac", 1), "mkv": ("matroska", "libopus", 1),
    "mka": ("matroska", "aac", 0),
    "ts": ("mpegts", "aac", 0), "aac": ("adts", "aac", 0), "avi": ("avi", "mp3", 1), "ac3": ("ac3", "ac3", 0),
    "mp3.wav": ("wav", "mp3", 0),
}  # fmt: skip
NUM_FILES = 10_000
LIMIT_CPU_S, LIMIT_WALL_S, LIMIT_MB = 10.0, 60, 1000
NUMBERS = (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1")


def whole_files(folder: Path) -> dict[str, bytes]:
    samples = chirp(1.5)
    files = {suffix: encode(samples, **how) for suffix, how in LIBSNDFILE.items()}
    files["stereo.flac"] = encode(np.stack([samples, -samples], axis=1), format="FLAC")
    files["chain.ogg"] = files["opus"] + files["opus"]
    files["amr"] = amr(75)
    for suffix, (container, codec, picture_s) in FFMPEG.items():
        path = mux(folder / f"whole.{suffix}", container, [(codec, chirp(1.5, 48000), 0.2)], picture_s=picture_s)
        files[suffix] = path.read_bytes()
    return files


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bits and bytes changed, bytes lost or added, numbers at their limits, the end cut off; often in the header."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        changed = changed or bytearray(1)
        at = int(rng.integers(0, len(changed) if rng.random() < 0.5 else min(len(changed), 300)))
        match rng.integers(0, 6):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                del changed[at : at + int(rng.integers(1, 64))]
            case 3:
                changed[at:at] = rng.bytes(int(rng.integers(1, 64)))
            case 4:
                changed[at : at + 4] = NUMBERS[int(rng.integers(len(NUMBERS)))]
            case 5 if rng.random() < 0.4:
                del changed[at + 1 :]
    return bytes(changed)


def all_of(path: Path) -> int:
    return sum(map(len, stream(path)))


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow("speech", seconds=60)
def test_no_damaged_file_ends_in_a_traceback_hangs_or_fills_the_memory(tmp_path):
    """Row 5 of 100,000 with flipped bytes must cost that row and no more."""
    av.logging.set_level(av.logging.PANIC)
    files, outcomes = whole_files(tmp_path), Counter()
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for number in range(NUM_FILES):
        suffix = list(files)[number % len(files)]
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(damaged(files[suffix], np.random.default_rng(number)))
        ref, span = AudioRef(path=str(path)), AudioRef(path=str(path), start_s=1.1, end_s=1.3)
        started_s = time.process_time()
        for read in (partial(probe, ref), partial(load, ref), partial(load, span), partial(all_of, path)):
            try:
                with alarm(LIMIT_WALL_S):
                    read()
                outcomes["ok"] += 1
            except AudioError as error:
                outcomes[error.reason] += 1
            except BaseException as error:
                error.add_note(f"file {number} ({suffix})")
                raise
        assert time.process_time() - started_s < LIMIT_CPU_S, f"file {number} ({suffix})"
    grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    print(f"{dict(outcomes)}, {grown_mb:.0f} MB more")
    assert grown_mb < LIMIT_MB
    assert min(outcomes["ok"], outcomes["undecodable"], outcomes["damaged"], outcomes["cut_short"]) > NUM_FILES // 20
