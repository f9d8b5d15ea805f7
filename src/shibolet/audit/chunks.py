"""What is heard together, and how: the unit of an audit's work, in this process, on any GPU, in any job of an array.

A chunk is decoded by all workers in small parts, heard by the recogniser, then aligned while the recogniser hears the
next chunk, then weighed by the workers, and ends as one file of evidence.
"""

import gc
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from threading import Lock, Semaphore
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.evidence import to_line, write_lines
from shibolet.audit.workers import Decoded, Heard, Load, decode, hash_audio, is_hash_of_unseen, weigh
from shibolet.listen.decoders import AnyWorker, Decoders, run_each
from shibolet.listen.dispatch import UNSEEN, require_seen
from shibolet.listen.lazy import Loading
from shibolet.listen.long_audio import align
from shibolet.listen.processes import WorkerLost
from shibolet.listen.protocols import Aligner, Alignment, ByName, Hearing, Recogniser
from shibolet.records.utterance import AudioRef

NOT_IN_FILE = "the file of hypotheses has none of this utterance"
# Chunks of a process whose samples are in memory: one with each model, a second with a recogniser that hears two at
# once, and one that is decoded meanwhile. On a GPU that is 4 x 4 h at most, 3.7 GB.
DECODED = 3
PART_CLIPS, PART_S = 16, 60.0  # a worker decodes at a time: the first chunk is there when the last of its parts is
# A GPU hears up to so many chunks as one: when that begins and when it ends rows are empty, for seconds. The first ones
# are smaller, so that models have work at once; so are the last ones, so that no GPU has a long one alone.
FIRST_GROUP, GROUP, LAST_GROUP = 4, 16, 4
Job = tuple[str, Clip]  # a content id, and what is to be heard for it
Lines = dict[str, bytes]  # of evidence, by content id
Lost = dict[str, Evidence]  # by content id, what was given up as no fault of its own
Unseen = list[str]  # paths of files that were not found where they were to be read
Item = TypeVar("Item")
Found = bytes | Evidence | WorkerLost  # the line of a clip's evidence, the failure that it is, why it was given up


@dataclass(frozen=True, slots=True)
class Group:
    """Chunks that are heard as one; where that loses its process, one by one, and then by halves."""

    chunks: Sequence[Sequence[Job]]

    @property
    def jobs(self) -> list[Job]:
        return list(chain.from_iterable(self.chunks))

    def __len__(self) -> int:
        return sum(map(len, self.chunks))


class _Models(NamedTuple):
    """Threads of each, in which chunks take their turns."""

    recognising: ThreadPoolExecutor
    aligning: ThreadPoolExecutor
    room: Semaphore  # for samples


@dataclass(frozen=True, kw_only=True)
class _Listening:
    """What listens and decodes, loaded when the work is open."""

    aligner: Aligner | None
    recogniser: Recogniser | ByName
    load: Load
    config: AuditConfig
    decoders: Decoders

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        with Loading((self.aligner, self.recogniser), self.decoders).open():
            yield

    def _decode(self, clips: Sequence[Clip]) -> list[Decoded | Evidence | WorkerLost]:
        """What `decode` finds of each; what sounds the same is decoded once, and is one array for the listeners."""
        distinct = {(clip.audio, clip.change_audio): clip for clip in clips}
        decode_by = partial(_decode_part, load=self.load, config=self.config)
        sounds = chain.from_iterable(self.decoders.map(decode_by, _parts(list(distinct.values()))))
        found = dict(zip(distinct, sounds, strict=True))
        return [found[clip.audio, clip.change_audio] for clip in clips]


@dataclass(frozen=True, kw_only=True)
class HearChunk(_Listening):
    """The work: hear a chunk; who handed it out puts the evidence on disk, and reads what was given up."""

    folder: Path  # of the evidence
    language: str
    at_once = DECODED + 2  # the evidence of one more is weighed and written

    @contextmanager
    def open(self) -> Iterator[Callable[[Group], tuple[Lines, Lost, Unseen]]]:
        with self._loaded(), ShortCollections():
            hear_at_once = getattr(self.recogniser, "at_once", 1)
            room = Semaphore(DECODED - 1 + hear_at_once)
            models = _Models(ThreadPoolExecutor(hear_at_once), ThreadPoolExecutor(1), room)
            try:
                yield partial(self._hear, models)
            finally:
                for thread in (models.recognising, models.aligning):
                    thread.shutdown(wait=False, cancel_futures=True)

    def keep(self, result: tuple[Lines, Lost, Unseen]) -> Lost:
        lines, lost, unseen = result
        require_seen(unseen)
        if lines:
            write_lines(self.folder, lines)
        return lost

    def split(self, chunk: Group) -> list[Group]:
        if len(chunk.chunks) > 1:
            return [Group([one]) for one in chunk.chunks]
        jobs, half = chunk.jobs, len(chunk) // 2
        return [Group([jobs[:half]]), Group([jobs[half:]])] if half else []

    def join(self, parts: Sequence[tuple[Group, Lost | WorkerLost]]) -> Lost:
        joined: Lost = {}
        for group, lost in parts:
            joined |= {id: given_up(clip, lost) for id, clip in group.jobs} if isinstance(lost, WorkerLost) else lost
        return joined

    def _hear(self, models: _Models, group: Group) -> tuple[Lines, Lost, Unseen]:
        lines, lost, unseen, jobs = {}, {}, [], group.jobs
        for (content_id, clip), one in zip(jobs, self._evidence_of(models, [clip for _, clip in jobs]), strict=True):
            if isinstance(one, WorkerLost):
                lost[content_id] = given_up(clip, one)
            else:
                lines[content_id] = to_line(one) if isinstance(one, Evidence) else one
                unseen += [clip.audio.path] if _is_unseen(one) else []
        return lines, lost, unseen

    def _evidence_of(self, models: _Models, clips: Sequence[Clip]) -> list[Found]:
        with models.room:
            found, heard = self._heard(models, clips)
        weigh_by = partial(_weigh_part, config=self.config)
        parts = [heard[first : first + PART_CLIPS] for first in range(0, len(heard), PART_CLIPS)]
        lines = chain.from_iterable(self.decoders.map(weigh_by, parts, first=True))
        return [next(lines) if one is None else one for one in found]

    def _heard(self, models: _Models, clips: Sequence[Clip]) -> tuple[list[Evidence | WorkerLost | None], list[Heard]]:
        """What each clip failed of, None for one that was heard; and what was heard of these."""
        known: list[Hearing | None] | None = None
        if hasattr(self.recogniser, "look_up"):
            known = self.recogniser.look_up([clip.key if clip.change_audio else clip.utterance for clip in clips])
        decoded = self._decode(clips)
        failures = [
            _failure(clip, one, not_in_file=known is not None and known[i] is None)
            for i, (clip, one) in enumerate(zip(clips, decoded, strict=True))
        ]
        usable = [i for i, failure in enumerate(failures) if failure is None]
        if not usable:
            return failures, []
        samples, words = [decoded[i][0] for i in usable], [list(clips[i].words) for i in usable]
        if known is not None:
            hearings = [known[i] for i in usable]
        else:
            hearings = models.recognising.submit(self.recogniser.hear, samples, words).result()
        alignments: list[Alignment | None] = [None] * len(usable)
        if self.aligner is not None:
            max_s = self.config.aligner_max_s
            alignments = models.aligning.submit(align, self.aligner, samples, words, hearings, max_s).result()
        return failures, [
            (clips[i], decoded[i][1], alignment, hearing, self.language)
            for i, alignment, hearing in zip(usable, alignments, hearings, strict=True)
        ]


class ShortCollections:
    """Within one Python's collector of garbage looks at new objects only.

    To go through all those of torch and transformers takes 0.4 s, in which no thread can launch a kernel. Without
    `collects_first` garbage of before keeps its memory until the end.
    """

    _changing = Lock()
    _num_open = 0

    def __init__(self, *, collects_first: bool = True) -> None:
        self._collects_first = collects_first

    def __enter__(self) -> None:
        with self._changing:
            if not ShortCollections._num_open:
                if self._collects_first:
                    gc.collect()
                gc.freeze()
            ShortCollections._num_open += 1

    def __exit__(self, *_: object) -> None:
        with self._changing:
            ShortCollections._num_open -= 1
            if not ShortCollections._num_open:
                gc.unfreeze()


@dataclass(frozen=True, slots=True)
class Window:
    """What a recogniser hears at once."""

    window_s: Annotated[float, Field(gt=0)] | None  # None: of one that has no choice


@dataclass(frozen=True, kw_only=True)
class ChooseWindow(_Listening):
    """The work: choose with which window a recogniser hears, on clips; None where they cannot be decoded."""

    at_once = 1

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[Clip]], tuple[Window | None, Unseen]]]:
        with self._loaded():
            yield self._choose

    def keep(self, result: tuple[Window | None, Unseen]) -> Window | None:
        window, unseen = result
        require_seen(unseen)
        return window

    def _choose(self, clips: Sequence[Clip]) -> tuple[Window | None, Unseen]:
        decoded = list(zip(self._decode(clips), clips, strict=True))
        unseen = [clip.audio.path for one, clip in decoded if _is_unseen(one)]
        usable = [(one[0], list(clip.words)) for one, clip in decoded if isinstance(one, tuple)]
        if not usable:
            return None, unseen
        return Window(self.recogniser.choose_window(*map(list, zip(*usable, strict=True)))), unseen


@dataclass(frozen=True, kw_only=True)
class HashChunk(_Listening):
    """The work: content hashes of files, where they are read faster than here; what listens stays loaded meanwhile."""

    at_once = 2

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[AudioRef]], tuple[list[str | WorkerLost], Unseen]]]:
        self.decoders.start()
        yield self._hash

    def keep(self, result: tuple[list[str | WorkerLost], Unseen]) -> list[str | WorkerLost]:
        hashes, unseen = result
        require_seen(unseen)
        return hashes

    def _hash(self, refs: Sequence[AudioRef]) -> tuple[list[str | WorkerLost], Unseen]:
        [hashes] = self.decoders.map(partial(hash_part, config=self.config), [refs])
        return hashes, [ref.path for ref, found in zip(refs, hashes, strict=True) if is_hash_of_unseen(found, ref)]


def hash_part(worker: AnyWorker, refs: Sequence[AudioRef], config: AuditConfig) -> list[str | WorkerLost]:
    limit_s = lambda refs: config.decode_timeout_s * (10 if len(refs) > 1 else 1)  # noqa: E731
    return run_each(worker, hash_audio, refs, limit_s)


def _parts(clips: Sequence[Clip]) -> Iterator[list[Clip]]:
    """Clips that a worker decodes together; those of one audio are, and it is decoded once for all of its changes."""
    part: list[Clip] = []
    for _, same in groupby(clips, key=lambda clip: clip.audio):
        part += same
        if len(part) >= PART_CLIPS or sum(clip.duration_s for clip in part) >= PART_S:
            yield part
            part = []
    if part:
        yield part


def _decode_part(worker: AnyWorker, clips: Sequence[Clip], load: Load, config: AuditConfig) -> list:
    """What `decode` finds, WorkerLost for clips that a process was lost over again and again."""
    return run_each(worker, partial(decode, load=load), clips, partial(_limit_s, config=config))


def _weigh_part(worker: AnyWorker, heard: Sequence[Heard], config: AuditConfig) -> list:
    """What `weigh` makes of them, or WorkerLost in the same way."""
    return run_each(worker, weigh, heard, lambda some: _limit_s([clip for clip, *_ in some], config))


def _limit_s(clips: Sequence[Clip], config: AuditConfig) -> float:
    """How long clips may take that are decoded together."""
    return config.decode_timeout_s + sum(clip.duration_s for clip in clips) / 10


def _failure(
    clip: Clip, found: Decoded | Evidence | WorkerLost, not_in_file: bool = False
) -> Evidence | WorkerLost | None:
    """Why a clip cannot be heard; None for samples that a worker has `found`."""
    if isinstance(found, Evidence | WorkerLost):
        return found
    return Evidence(key=clip.key, failure="no_hypothesis", detail=NOT_IN_FILE) if not_in_file else None


def _is_unseen(found: object) -> bool:
    return isinstance(found, Evidence) and found.failure == UNSEEN


def given_up(clip: Clip, lost: WorkerLost) -> Evidence:
    return Evidence(key=clip.key, failure=lost.reason, detail=str(lost))


def chunks_of(
    clips: Sequence[Clip], content_ids: Sequence, max_clips: int, max_audio_s: float
) -> Iterator[Sequence[int]]:
    """Places of clips that are heard together, each content once; what sounds the same is in one chunk.

    Under one audio stand first the texts of it as it is, then those of each of its changes. A chunk goes over a limit
    only when it holds nothing but the texts of one sound.
    """
    sounds, durations_s = _sounds(clips)
    _, once = np.unique(np.asarray(content_ids), return_index=True)
    once.sort()
    in_order = _places(once[np.lexsort((sounds[1][once], sounds[0][once]))])
    first_with, first_changed = map(_places, sounds)
    chunk, audio_s = array("q"), 0.0
    for _, same in groupby(in_order, key=lambda i: (first_with[i], first_changed[i])):
        same = array("q", same)
        same_s = sum(durations_s[i] for i in same)
        if chunk and (len(chunk) + len(same) > max_clips or audio_s + same_s > max_audio_s):
            yield chunk
            chunk, audio_s = array("q"), 0.0
        chunk += same
        audio_s += same_s
    if chunk:
        yield chunk


def _sounds(clips: Sequence[Clip]) -> tuple[tuple[np.ndarray, np.ndarray], array]:
    """Of each clip the first place with its audio, and with its change of that, -1 for none; and its length.

    Audio is told apart by a hash of 64 bits: two that share one would only stand beside each other.
    """
    audio, changed, durations_s = array("q"), array("q"), array("d")
    first_changed: dict[tuple, int] = {}
    for i, clip in enumerate(clips):
        audio.append(hash(clip.audio))
        changed.append(first_changed.setdefault((clip.audio, clip.change_audio), i) if clip.change_audio else -1)
        durations_s.append(clip.duration_s)
    _, first, number = np.unique(np.asarray(audio), return_index=True, return_inverse=True)
    return (first[number], np.asarray(changed)), durations_s


def _places(places: np.ndarray) -> array:
    """As Python's own whole numbers when they are asked for, of which a list would hold four times as much."""
    return array("q", places.astype(np.int64).tobytes())


def grouped(chunks: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Neighbours that a GPU hears as one: 4 of them, 8, then 16 or an eighth of all, and at the end a third of what is
    left. Of 63 chunks 4, six times 7, 5, 4, 4 and 4.
    """
    first, size, most = 0, FIRST_GROUP, max(LAST_GROUP, min(GROUP, len(chunks) // 8))
    while left := len(chunks) - first:
        group = chunks[first : first + min(size, most, max(LAST_GROUP, left // 3))]
        yield group
        first, size = first + len(group), 2 * size
