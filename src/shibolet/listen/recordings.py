"""Whole recordings through an engine: read in blocks, cut at pauses, written down piece by piece in their order.

What is in memory at a time is a block of one file and the pieces that the engine takes at once, whatever the length.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import scipy.ndimage  # noqa: F401  # not by threads: two that begin with one library can lock each other out

from shibolet.errors import AudioError, ProcessLost
from shibolet.listen.dispatch import UNSEEN, require_seen
from shibolet.listen.engine import Engine
from shibolet.listen.lazy import Engines, Lazy, load_now
from shibolet.listen.pieces import cut_stream
from shibolet.listen.processes import WorkerLost
from shibolet.listen.protocols import Aligner
from shibolet.listen.word_times import repair_times
from shibolet.records.objects import fetch_ahead
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import SAMPLE_RATE_HZ, probe, stream
from shibolet.speech.text import get_language
from shibolet.speech.text.language import Language

GROUP_S = 7200.0  # of audio in recordings that one machine hears as a whole, and of which pieces share windows
FETCHED_AHEAD = 32  # recordings of a store, which are fetched at once
WINDOW_S = 1800.0  # of audio in pieces that wait for the engine, 115 MB, however many it takes at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word of the text, as it is written there, and when it is said."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A stretch of a recording and what is said in it."""

    start_s: float
    end_s: float
    text: str
    ending: str  # `Written.ending`
    words: tuple[Word, ...] = ()  # empty without an aligner

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What has become known of a recording: a piece of it, or with `piece` None, that it has ended, and how."""

    path: Path | str  # text: the URL of an object in a store
    piece: Piece | None = None
    error: AudioError | None = None  # why it was not heard, or not to its end
    warnings: tuple[str, ...] = ()  # what of it could not be decoded, and what was chosen in it


@dataclass(frozen=True, slots=True)
class Clip:
    """A piece that waits for the engine."""

    path: Path | str
    start_samples: int
    samples: np.ndarray

    @property
    def start_s(self) -> float:
        return self.start_samples / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        return (self.start_samples + len(self.samples)) / SAMPLE_RATE_HZ

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ


def hear_recordings(
    paths: Iterable[Path | str],
    engine: Engine | Engines,
    language: Language | None,
    *,
    aligner: Aligner | None = None,
    max_piece_s: float = 30.0,
    on_progress: Callable[[float], None] = lambda audio_s: None,
) -> Iterator[Heard]:
    """Pieces of each recording in turn, in their order, and one `Heard` without a piece at the end of each.

    Times are those of the file, also where its sound starts late. A file that cannot be read, or from some point on,
    ends with an error; the next ones are heard all the same. The language is the aligner's: None without one.
    """
    engines, groups = Engines.of(engine), _groups(paths)
    how = engines.engine, aligner, language and language.name
    if engines.executor.is_elsewhere:
        heard = _heard_elsewhere(engines, HearRecordings(*how, engines.clips_at_once, max_piece_s), groups)
    else:
        heard = _heard_here(engines, HearPieces(*how), groups, max_piece_s)
    with closing(heard):
        for one in heard:
            yield one
            if one.piece is not None:
                on_progress(one.piece.end_s - one.piece.start_s)


def _groups(paths: Iterable[Path | str]) -> Iterator[list[Path | str]]:
    """Recordings of which pieces may be heard together, by what their headers say; what says nothing counts as none."""
    group, audio_s = [], 0.0
    for path in _fetched(paths):
        group.append(path)
        with suppress(AudioError):
            audio_s += probe(AudioRef(path=str(path))).duration_s
        if audio_s >= GROUP_S:
            yield group
            group, audio_s = [], 0.0
    if group:
        yield group


def _fetched(paths: Iterable[Path | str]) -> Iterator[Path | str]:
    """The same, with copies of objects fetched some at a time: each alone would wait for the network."""
    paths = iter(paths)
    while some := list(islice(paths, FETCHED_AHEAD)):
        fetch_ahead(some)
        yield from some


def _heard_elsewhere(engines: Engines, work: "HearRecordings", groups: Iterable[list[Path | str]]) -> Iterator[Heard]:
    """Whoever hears a group reads its files too: no samples pass from machine to machine."""
    handed: deque[list[Path | str]] = deque()
    chunks = (handed.append(group) or group for group in groups)
    with closing(engines.executor.map(work, chunks)) as results:
        for heard in results:
            group = handed.popleft()
            if isinstance(heard, WorkerLost):
                raise ProcessLost(f"{len(group)} recordings from {group[0]} on could not be transcribed: {heard}")
            yield from heard


def _heard_here(
    engines: Engines, work: "HearPieces", groups: Iterable[list[Path | str]], max_piece_s: float
) -> Iterator[Heard]:
    """This process reads each file once and hands out samples."""
    windows: deque[list[Clip | Heard]] = deque()

    def clips() -> Iterator[list[Clip]]:
        for group in groups:
            for window in _windows(group, engines.clips_at_once, max_piece_s):
                windows.append(window)
                yield _clips_of(window)

    with closing(engines.executor.map(work, clips())) as results:
        for pieces in results:
            if isinstance(pieces, WorkerLost):
                [first, *_] = _clips_of(windows[0])
                raise ProcessLost(f"{first.path}, from {first.start_s:.1f} s on, could not be transcribed: {pieces}")
            yield from _in_order(windows.popleft(), pieces)


def _clips_of(window: Sequence[Clip | Heard]) -> list[Clip]:
    return [one for one in window if isinstance(one, Clip)]


def _in_order(window: Sequence[Clip | Heard], pieces: Sequence[Piece]) -> Iterator[Heard]:
    """What was heard of a window's pieces, and the ends of recordings where they come between them."""
    found = iter(pieces)
    for one in window:
        yield Heard(path=one.path, piece=next(found)) if isinstance(one, Clip) else one


def _windows(paths: Iterable[Path | str], clips_at_once: int, max_piece_s: float) -> Iterator[list[Clip | Heard]]:
    """Pieces that are heard together, and the ends of recordings where they come between them.

    Of pieces the samples: what a compressed recording has from some second on depends on what was decoded before.
    """
    window: list[Clip | Heard] = []
    num_clips, audio_s = 0, 0.0
    for path in paths:
        blocks, error = stream(path), None
        try:
            for start, samples in cut_stream(blocks, max_piece_s):
                window.append(Clip(path, start + round(blocks.start_s * SAMPLE_RATE_HZ), samples))
                num_clips, audio_s = num_clips + 1, audio_s + window[-1].duration_s
                if num_clips >= clips_at_once or audio_s >= WINDOW_S:
                    yield window
                    window, num_clips, audio_s = [], 0, 0.0
        except AudioError as found:
            error = found
        window.append(Heard(path=path, error=error, warnings=tuple(blocks.notes)))
    yield window


@dataclass(frozen=True, slots=True)
class HearPieces:
    """The work: transcribe pieces together, and find their words' times where there is an aligner."""

    engine: Lazy[Engine]
    aligner: Aligner | None
    language: str | None

    @property
    def at_once(self) -> int:
        return 1

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[Clip]], list[Piece]]]:
        load_now(self.engine, self.aligner)
        language = get_language(self.language) if self.language else None
        yield partial(hear_pieces, engine=self.engine.get(), language=language, aligner=self.aligner)


@dataclass(frozen=True, slots=True)
class HearRecordings:
    """The work: read whole recordings, transcribe them by the same pieces together, and find their words' times."""

    engine: Lazy[Engine]
    aligner: Aligner | None
    language: str | None
    clips_at_once: int
    max_piece_s: float

    @property
    def at_once(self) -> int:
        return 1

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[Path | str]], list[Heard]]]:
        with HearPieces(self.engine, self.aligner, self.language).open() as hear:
            yield partial(self._hear, hear)

    def keep(self, heard: list[Heard]) -> list[Heard]:
        """DataError where who heard does not see a file that is here: known where it is known which node that was."""
        require_seen(str(one.path) for one in heard if one.error is not None and one.error.reason == UNSEEN)
        return heard

    def _hear(self, hear: Callable[[Sequence[Clip]], list[Piece]], paths: Sequence[Path | str]) -> list[Heard]:
        windows = _windows(paths, self.clips_at_once, self.max_piece_s)
        return [one for window in windows for one in _in_order(window, hear(_clips_of(window)))]


def hear_pieces(
    clips: Sequence[Clip], engine: Engine, language: Language | None, aligner: Aligner | None
) -> list[Piece]:
    """What is said in clips, in their order, with the times of its words where there is an aligner of the language."""
    written = engine.write([clip.samples for clip in clips])
    spoken = [one.text.split() for one in written] if aligner is not None else [[] for _ in written]
    times = _times(clips, spoken, language, aligner)
    return [
        Piece(
            start_s=clip.start_s, end_s=clip.end_s, text=one.text, ending=one.ending,
            words=tuple(
                Word(text=word, start_s=clip.start_s + float(start_s), end_s=clip.start_s + float(end_s))
                for word, (start_s, end_s) in zip(words, own, strict=True)
            ),
        )
        for clip, one, words, own in zip(clips, written, spoken, times, strict=True)
    ]  # fmt: skip


def _times(
    clips: Sequence[Clip], spoken: Sequence[list[str]], language: Language | None, aligner: Aligner | None
) -> list[np.ndarray]:
    """Start and end in seconds of each word of each clip, `[W, 2]`; of a word of mere signs, the end of the one before.

    The aligner is given words without punctuation, "10-12" as two of them.
    """
    parts = [[language.to_words(word).tokens for word in words] for words in spoken]
    said = [[token for tokens in of_clip for token in tokens] for of_clip in parts]
    heard = [i for i, tokens in enumerate(said) if tokens]
    found = iter(aligner.align([clips[i].samples for i in heard], [said[i] for i in heard]) if heard else [])
    times = [np.zeros((len(words), 2)) for words in spoken]
    for i in heard:
        alignment = next(found)
        repaired = repair_times(alignment.starts_s, alignment.ends_s, clips[i].duration_s)
        at, before_s = 0, 0.0
        for place, tokens in enumerate(parts[i]):
            if tokens:
                times[i][place] = repaired.starts_s[at], repaired.ends_s[at + len(tokens) - 1]
            else:
                times[i][place] = before_s
            at, before_s = at + len(tokens), times[i][place, 1]
    return times
