"""Speech from espeak-ng's Hebrew voice, spoken from the lexicon's phonemes, with the time of every word.

espeak-ng is GPL: it comes with the `demo` extra and is loaded here only. A waveform depends on all that the process has
said before, so speech is made in shards, each by a fresh process in a fixed order, and a shard that exists is kept.
"""

import ctypes
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from shibolet.demo.lexicon import load_lexicon
from shibolet.errors import DataError, RecipeError, ShiboletError
from shibolet.records.files import hash_json, write_bytes
from shibolet.speech.audio import SAMPLE_RATE_HZ

MISSING_EXTRA = "synthetic speech needs espeak-ng: pip install 'shibolet[demo]'"
SPEECH_RMS = 0.07  # every utterance leaves at this level, or below it where its peak would pass PEAK
PEAK = 0.95
VOLUME_PCT = 30  # espeak's own level; at 100 the loud variants clip
SHARD_REQUESTS = 64  # part of a shard's identity: another size is another sequence, so other waveforms

# Names from espeak-ng/speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2  # RETRIEVAL (1) hangs after a fork
INITIALIZE_PHONEME_EVENTS = 1
CHARS_UTF8, PHONEMES = 0x1, 0x100
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
EVENT_END_OF_LIST, EVENT_WORD, EVENT_PHONEME = 0, 1, 7


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """Who speaks, and how."""

    variant: str  # a file in espeak-ng's voices/!v
    pitch: int = 50  # 0-100 around the variant's own pitch
    rate_wpm: int = 160  # words per minute
    pitch_range: int = 50  # 0-100, 0 is monotone


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenWord:
    """A word and when it is said, from the start of the samples."""

    word: str
    start_s: float
    end_s: float

    def shift(self, by_s: float) -> "SpokenWord":
        return SpokenWord(word=self.word, start_s=self.start_s + by_s, end_s=self.end_s + by_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """Samples at 16 kHz, mono, float32, and the words in them."""

    samples: np.ndarray
    words: tuple[SpokenWord, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechRequest:
    """One sentence, by the spellings of its words, to be said by one voice."""

    words: tuple[str, ...]
    voice: Voice


@cache
def _start_espeak() -> tuple[ctypes.CDLL, int, Path]:
    """The library, its sample rate and the folder of its voice variants; started once.

    A second start frees the phoneme tables that it still points into, and whether they can still be read is chance.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise RecipeError(MISSING_EXTRA) from error
    data_dir = Path(espeakng_loader.get_data_path())
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate_hz = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data_dir).encode(), INITIALIZE_PHONEME_EVENTS)
    if rate_hz <= 0:
        raise ShiboletError(f"espeak-ng did not start with its data in {data_dir}: reinstall espeakng-loader")
    return library, rate_hz, data_dir / "voices" / "!v"


class Speaker:
    """espeak-ng in this process; it has one global state, so use one at a time."""

    def __init__(self) -> None:
        self._library, self._rate_hz, self.variants_dir = _start_espeak()
        self._lexicon = load_lexicon()
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, int, str]] = []  # type, sample, phoneme
        self._callback = _Callback(self._collect)  # espeak keeps the pointer only: the object must outlive it
        self._library.espeak_SetSynthCallback(self._callback)
        # espeak seeds its breath and flutter with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(0))

    def _collect(self, samples, num_samples: int, events) -> int:
        if samples and num_samples:
            self._chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        index = 0
        while (event := events[index]).type != EVENT_END_OF_LIST:
            name = event.id.string.decode() if event.type == EVENT_PHONEME else ""
            self._events.append((event.type, event.sample, name))
            index += 1
        return 0

    def _set_voice(self, voice: Voice) -> None:
        # espeak takes any variant name and speaks with its default voice when there is no such file.
        if not (self.variants_dir / voice.variant).is_file():
            raise DataError(f"espeak-ng has no voice variant '{voice.variant}' in {self.variants_dir}")
        if self._library.espeak_SetVoiceByName(f"he+{voice.variant}".encode()) != 0:
            raise ShiboletError(f"espeak-ng refused the voice 'he+{voice.variant}'")
        for parameter, value in (
            (VOLUME, VOLUME_PCT),
            (RATE, voice.rate_wpm),
            (PITCH, voice.pitch),
            (RANGE, voice.pitch_range),
        ):
            if self._library.espeak_SetParameter(parameter, value, 0) != 0:
                raise ShiboletError(f"espeak-ng refused a parameter of {voice}")

    def speak(self, words: Sequence[str], voice: Voice) -> Speech:
        """The words, spellings of the lexicon, said as one sentence; a word ends where the next one starts."""
        import soxr

        unknown = [word for word in words if word not in self._lexicon.by_spelling]
        if unknown or not words:
            raise DataError(f"cannot say {list(words)}: not in the lexicon: {unknown or 'nothing to say'}")
        self.pronounce([self._lexicon.by_spelling[word].phonemes for word in words], voice)
        starts = [sample for kind, sample, _ in self._events if kind == EVENT_WORD]
        if len(starts) != len(words):
            raise ShiboletError(f"espeak-ng timed {len(starts)} words of the {len(words)} in '{' '.join(words)}'")
        # The pause that closes a sentence is a phoneme whose name starts with "_".
        end = next(sample for kind, sample, name in self._events if kind == EVENT_PHONEME and name.startswith("_"))
        times = [sample / self._rate_hz for sample in [*starts, end]]
        samples = soxr.resample(np.concatenate(self._chunks).astype(np.float32), self._rate_hz, SAMPLE_RATE_HZ)
        level = min(SPEECH_RMS / np.sqrt(np.mean(samples**2)), PEAK / np.abs(samples).max())
        return Speech(
            samples=(samples * level).astype(np.float32),
            words=tuple(SpokenWord(word=w, start_s=a, end_s=b) for w, a, b in zip(words, times[:-1], times[1:])),
        )

    def pronounce(self, words: Sequence[str], voice: Voice) -> list[str]:
        """Say words given as phonemes; what comes back are the phonemes that espeak-ng really said, pauses included."""
        self._set_voice(voice)
        self._chunks.clear()
        self._events.clear()
        text = " ".join(f"[[{phonemes}]]" for phonemes in words).encode() + b"\0"
        if self._library.espeak_Synth(text, len(text), 0, 0, 0, CHARS_UTF8 | PHONEMES, None, None) != 0:
            raise ShiboletError(f"espeak-ng refused '{text.decode()}'")
        return [name for kind, _, name in self._events if kind == EVENT_PHONEME]


def synthesise(
    requests: Sequence[SpeechRequest],
    out_dir: Path,
    num_workers: int,
    on_shard: Callable[[], None] | None = None,
) -> Iterator[Speech]:
    """Speech for each request, in order, read back from shards in `out_dir`; missing shards are made before it returns.

    The result depends on the list of requests alone, not on the number of workers or on interruptions.
    """
    shards = [requests[start : start + SHARD_REQUESTS] for start in range(0, len(requests), SHARD_REQUESTS)]
    made_by = _fingerprint()
    paths = [out_dir / f"speech-{hash_json([made_by, *map(asdict, shard)])}.npz" for shard in shards]

    def make(shard: Sequence[SpeechRequest], path: Path) -> None:
        if not path.exists():
            process = subprocess.run(
                [sys.executable, "-P", "-m", "shibolet.demo.synth", str(path)],
                input=json.dumps([asdict(request) for request in shard]),
                capture_output=True, text=True,
            )  # fmt: skip
            if process.returncode != 0:
                raise ShiboletError(f"no speech for {path}: {process.stderr.strip()}")
        if on_shard:
            on_shard()

    with ThreadPoolExecutor(num_workers) as pool:
        list(pool.map(make, shards, paths))
    return (speech for path in paths for speech in read_shard(path))


def _fingerprint() -> str:
    """Hash of all but the requests that the samples depend on."""
    try:
        version = metadata.version("espeakng-loader")
    except metadata.PackageNotFoundError as error:
        raise RecipeError(MISSING_EXTRA) from error
    return hash_json([version, [asdict(e) for e in load_lexicon().entries], SPEECH_RMS, PEAK, VOLUME_PCT])


def read_shard(path: Path) -> list[Speech]:
    """The speech of one shard; samples are stored as 16-bit integers."""
    with np.load(path) as arrays:
        pieces = np.split(arrays["samples"].astype(np.float32) / 32768, np.cumsum(arrays["num_samples"])[:-1])
        all_words = json.loads(str(arrays["words"]))
    return [Speech(samples=p, words=tuple(SpokenWord(**w) for w in words)) for p, words in zip(pieces, all_words)]


def request_of(words: Sequence[str], voice: dict) -> SpeechRequest:
    """A request from its plain data."""
    return SpeechRequest(words=tuple(words), voice=Voice(**voice))


def write_shard(requests: Sequence[SpeechRequest], path: Path) -> None:
    """Speak the requests, in order, into a shard that is whole or absent."""
    speaker = Speaker()
    speeches = [speaker.speak(request.words, request.voice) for request in requests]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        samples=np.round(np.concatenate([speech.samples for speech in speeches]) * 32768).astype(np.int16),
        num_samples=np.array([len(speech.samples) for speech in speeches]),
        words=json.dumps([[asdict(word) for word in speech.words] for speech in speeches], ensure_ascii=False),
    )
    # Under a name of its own first: a killed build's children may still be at work when the next build starts.
    own_path = path.with_name(f".{os.getpid()}-{path.name}")
    write_bytes(own_path, buffer.getvalue())
    os.replace(own_path, path)


if __name__ == "__main__":
    write_shard([request_of(**row) for row in json.load(sys.stdin)], Path(sys.argv[1]))
