"""Listening to clips in chunks that are put on disk as they come; what was heard before is not heard again.

Chunks are cut from the whole list, less what is in it twice, before anything is looked up, and of each only that is
heard which was not known when the run began. So a run that was cut off goes on with the same batches and ends with the
same bytes, and so do several that hear every n-th chunk each. (The last bits of evidence depend on its batch, and a
CTC aligner's times on the lag that it shows in its chunk: evidence stays as it was when it was first heard.)

A clip that a process was lost over again and again is a failure in this run alone. It may be the machine: nothing of
that is put on disk, and the next run hears the clip.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import BoundedSemaphore

from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.evidence import EvidenceStore, HeardClips, to_line
from shibolet.audit.workers import (
    RETRIES,
    AnyWorker,
    Load,
    WorkerLost,
    decode,
    hash_audio,
    run_each,
    weigh,
    worker_threads,
)
from shibolet.errors import DataError
from shibolet.listen.long_audio import align
from shibolet.listen.protocols import Aligner, Alignment, ByName, Recogniser
from shibolet.records.files import hash_json, read_json, write_json
from shibolet.records.utterance import AudioRef

VERSION = 9  # of the signals; raising it makes everything be heard again
HASHED_TOGETHER = 256  # files
WHOLE = (0, 1)
NOT_IN_FILE = "the file of hypotheses has none of this utterance"
WINDOW_CLIPS = 24  # that a recogniser's window is tried on
Progress = Callable[[int, int], None]


class Listener:
    """A recogniser, and an aligner if there is one, with a folder of what they heard before."""

    def __init__(
        self,
        aligner: Aligner | None,
        recogniser: Recogniser | ByName,
        cache_dir: Path,
        load: Load,
        config: AuditConfig,
        language: str,
    ) -> None:
        self.identities = tuple(one.identity for one in (aligner, recogniser) if one is not None)
        self._by_name = hasattr(recogniser, "look_up")
        self._aligner, self._recogniser = aligner, recogniser
        self._load, self._config, self._language = load, config, language
        self.num_lost = 0  # clips that the last hearing gave up, as no fault of theirs: the next one tries them again
        self._turns = BoundedSemaphore(2)  # one chunk is prepared while the models have the other
        self._cache_dir = cache_dir
        self.window_s: float | None = None  # that the recogniser heard with last, where it has several
        self._fixed_window_s = config.window_s

    @property
    def notes(self) -> list[str]:
        """What a reader of the results has to know of these listeners."""
        return [lost_sentence(self.num_lost)] if self.num_lost else []

    @property
    def hears(self) -> bool:
        """Whether the recogniser hears audio; a file of hypotheses only knows what was heard elsewhere."""
        return not self._by_name

    def hear_as(self, window_s: float | None) -> None:
        """Hear with the window of a calibration; DataError where the recipe asks for another."""
        if window_s is not None and self._config.window_s not in (None, window_s):
            raise DataError(
                f"audit.window_s is {self._config.window_s:g}, and the calibration was made with windows of "
                f"{window_s:g} s: leave audit.window_s out, or calibrate again"
            )
        self._fixed_window_s = window_s if window_s is not None else self._fixed_window_s

    def settle_window(self, clips: Sequence[Clip]) -> None:
        """Choose the recogniser's window on these clips, before a part of them is heard."""
        if not hasattr(self._recogniser, "choose_window"):
            return
        with worker_threads(self._config.num_workers) as threads:
            content_ids, _ = self._identify(clips, threads)
            self._folder(clips, content_ids, threads)

    def can_hear(self, clip: Clip) -> bool:
        """Whether the recogniser can say anything of it: a file knows changed audio only if somebody put it there."""
        return not (self._by_name and clip.change_audio) or self._recogniser.look_up([clip.key])[0] is not None

    def hear(
        self, clips: Sequence[Clip], on_progress: Progress | None = None, shard: tuple[int, int] = WHOLE
    ) -> HeardClips:
        """Evidence on every clip, by key; of a shard (i, n), from 0, only what that part and earlier runs heard."""
        with worker_threads(self._config.num_workers) as threads:
            content_ids, lost = self._identify(clips, threads)
            store = EvidenceStore(self._folder(clips, content_ids, threads))
            todo = self._unheard(clips, content_ids, store)[shard[0] :: shard[1]]
            todo = [[i for i in chunk if content_ids[i] not in lost] for chunk in todo]
            done, total = 0, sum(map(len, todo))
            jobs = ([(content_ids[i], clips[i]) for i in chunk] for chunk in todo if chunk)
            for num_heard, lost_here in threads(partial(self._hear_chunk, store), jobs):
                done += num_heard
                lost |= lost_here
                if on_progress:
                    on_progress(done, total)
        store.refresh()
        self.num_lost = sum(content_id in lost for content_id in content_ids)
        return _heard(store, clips, content_ids, lost)

    def merge(self, clips: Sequence[Clip]) -> HeardClips:
        """Evidence on every clip, by key, when shards have heard all of them; DataError when they have not."""
        with worker_threads(self._config.num_workers) as threads:
            content_ids, _ = self._identify(clips, threads)
            store = EvidenceStore(folder := self._folder(clips, content_ids, threads))
        if missing := sum(map(len, self._unheard(clips, content_ids, store))):
            raise DataError(
                f"{missing:,} of {len(clips):,} clips have been heard by no shard, or could not be decoded where one "
                "tried: start the shards again, they go on where they were cut off, and bring the files of all into "
                f"{folder}; without 'merge', 'shibolet audit' hears what is missing by itself"
            )
        self.num_lost = 0
        return _heard(store, clips, content_ids, {})

    def _folder(self, clips: Sequence[Clip], content_ids: Sequence[str], threads: Callable) -> Path:
        """Where the evidence of these listeners lies; settles first with which window the recogniser hears.

        The first choice stays, so that shards, later runs and the rest of the data are heard in the same way.
        """
        window_s = self._fixed_window_s
        choose = getattr(self._recogniser, "choose_window", None)
        if choose and window_s is None:
            path = self._cache_dir / f"window-{self.identities[-1][:16]}.json"
            if not path.is_file():
                untouched = [i for i, clip in enumerate(clips) if clip.key == clip.utterance]
                first = sorted((content_ids[i], i) for i in untouched)
                trial = [clips[i] for _, i in first[:WINDOW_CLIPS]]
                decoded = zip(next(threads(self._decode, [trial])), trial, strict=True)
                usable = [(one[0], list(clip.words)) for one, clip in decoded if isinstance(one, tuple)]
                if usable:
                    write_json(path, {"window_s": choose(*map(list, zip(*usable, strict=True)))})
            window_s = read_json(path)["window_s"] if path.is_file() else None
        self.window_s = window_s if choose else None
        if self.window_s is not None:
            self._recogniser.set_window(self.window_s)
        heard_as = [self.identities, self._language, self._config.aligner_max_s, self.window_s]
        return self._cache_dir / hash_json([VERSION, *heard_as])

    def _decode(self, worker: AnyWorker, clips: Sequence[Clip]) -> list:
        return run_each(worker, partial(decode, load=self._load), clips, self._limit_s)

    def _identify(self, clips: Sequence[Clip], threads: Callable) -> tuple[list[str], dict[str, Evidence]]:
        """What each clip is, by the bytes of its audio, its words and its changes; and which could not be read."""
        # Of one file with many spans the bytes are read once.
        refs = list(dict.fromkeys(clip.audio.whole() for clip in clips))
        batches = [refs[first : first + HASHED_TOGETHER] for first in range(0, len(refs), HASHED_TOGETHER)]
        hash_of: dict[AudioRef, str | WorkerLost] = {}
        for batch, hashes in zip(batches, threads(self._hash, batches), strict=True):
            hash_of.update(zip(batch, hashes, strict=True))
        content_ids, lost = [], {}
        for clip in clips:
            found = hash_of[clip.audio.whole()]
            is_lost = isinstance(found, WorkerLost)
            content_id = clip.content_id(hash_json([found.reason, clip.audio.path]) if is_lost else found)
            content_ids.append(hash_json([content_id, clip.utterance]) if self._by_name else content_id)
            if is_lost:
                lost[content_ids[-1]] = _given_up(clip, found)
        return content_ids, lost

    def _hash(self, worker: AnyWorker, refs: Sequence[AudioRef]) -> list[str | WorkerLost]:
        limit_s = lambda refs: self._config.decode_timeout_s * (10 if len(refs) > 1 else 1)  # noqa: E731
        return run_each(worker, hash_audio, refs, limit_s)

    def _unheard(self, clips: Sequence[Clip], content_ids: Sequence[str], store: EvidenceStore) -> list[list[int]]:
        """Of each chunk of the whole list, the places of clips whose evidence is not there."""
        chunks = _chunks(clips, content_ids, self._config.chunk_utterances, self._config.chunk_audio_s)
        return [[i for i in chunk if content_ids[i] not in store] for chunk in chunks]

    def _hear_chunk(
        self, store: EvidenceStore, worker: AnyWorker, jobs: Sequence[tuple[str, Clip]]
    ) -> tuple[int, dict[str, Evidence]]:
        """Hear clips, each with its content id, and put their evidence on disk; how many they were, and why not all."""
        clips = [clip for _, clip in jobs]
        # What sounds the same is decoded once, and listeners get the same array for it.
        distinct = {(clip.audio, clip.change_audio): clip for clip in clips}
        sounds = self._decode(worker, list(distinct.values()))
        sound_of = dict(zip(distinct, sounds, strict=True))
        decoded = [sound_of[clip.audio, clip.change_audio] for clip in clips]
        names = [clip.key if clip.change_audio else clip.utterance for clip in clips]
        known = self._recogniser.look_up(names) if self._by_name else None
        found: list[bytes | Evidence | WorkerLost | None] = [
            _failure(clip, one, not_in_file=known is not None and known[i] is None)
            for i, (clip, one) in enumerate(zip(clips, decoded, strict=True))
        ]
        if usable := [i for i, failure in enumerate(found) if failure is None]:
            samples, words = [decoded[i][0] for i in usable], [list(clips[i].words) for i in usable]
            with self._turns:
                hearings = [known[i] for i in usable] if known else self._recogniser.hear(samples, words)
                alignments: list[Alignment | None] = [None] * len(usable)
                if self._aligner is not None:
                    alignments = align(self._aligner, samples, words, hearings, self._config.aligner_max_s)
            material = [
                (clips[i], decoded[i][1], alignment, hearing, self._language)
                for i, alignment, hearing in zip(usable, alignments, hearings, strict=True)
            ]
            weighed = run_each(worker, weigh, material, lambda jobs: self._limit_s([clip for clip, *_ in jobs]))
            for i, line in zip(usable, weighed, strict=True):
                found[i] = line
        lines, lost = {}, {}
        for (content_id, clip), one in zip(jobs, found, strict=True):
            if isinstance(one, WorkerLost):
                lost[content_id] = _given_up(clip, one)
            else:
                lines[content_id] = to_line(one) if isinstance(one, Evidence) else one
        if lines:
            store.write(lines)
        return len(jobs), lost

    def _limit_s(self, clips: Sequence[Clip]) -> float:
        """How long clips may take that are decoded together."""
        return self._config.decode_timeout_s + sum(clip.duration_s for clip in clips) / 10


def lost_sentence(num_lost: int) -> str:
    """What a reader has to know of clips that were given up."""
    return (
        f"Clips that could not be decoded here in {1 + len(RETRIES)} tries: {num_lost:,}. Such a clip counts as a "
        "failure in this run, and the next audit hears it again."
    )


def _heard(
    store: EvidenceStore, clips: Sequence[Clip], content_ids: Sequence[str], lost: dict[str, Evidence]
) -> HeardClips:
    return HeardClips(store, {clip.key: id for clip, id in zip(clips, content_ids, strict=True)}, lost)


def _failure(
    clip: Clip, found: tuple | Evidence | WorkerLost, not_in_file: bool = False
) -> Evidence | WorkerLost | None:
    """Why a clip cannot be heard; None for samples that a worker has `found`."""
    if isinstance(found, Evidence | WorkerLost):
        return found
    return Evidence(key=clip.key, failure="no_hypothesis", detail=NOT_IN_FILE) if not_in_file else None


def _given_up(clip: Clip, lost: WorkerLost) -> Evidence:
    return Evidence(key=clip.key, failure=lost.reason, detail=str(lost))


def _chunks(
    clips: Sequence[Clip], content_ids: Sequence[str], max_clips: int, max_audio_s: float
) -> Iterator[list[int]]:
    """Places of clips that are heard together, each content once; what sounds the same is in one chunk.

    Under one audio stand first the texts of it as it is, then those of each of its changes. A chunk goes over a limit
    only when it holds nothing but the texts of one sound.
    """
    first_with: dict[AudioRef | tuple, int] = {}
    for i, clip in enumerate(clips):
        first_with.setdefault(clip.audio, i)
        if clip.change_audio:
            first_with.setdefault((clip.audio, clip.change_audio), i)

    def sound(i: int) -> tuple[int, int]:
        clip = clips[i]
        changed = first_with[clip.audio, clip.change_audio] if clip.change_audio else -1
        return first_with[clip.audio], changed

    first_of: dict[str, int] = {}
    for i, content_id in enumerate(content_ids):
        first_of.setdefault(content_id, i)
    once = sorted(first_of.values(), key=lambda i: (*sound(i), i))
    chunk, audio_s = [], 0.0
    for _, same in groupby(once, key=sound):
        same = list(same)
        same_s = sum(clips[i].duration_s for i in same)
        if chunk and (len(chunk) + len(same) > max_clips or audio_s + same_s > max_audio_s):
            yield chunk
            chunk, audio_s = [], 0.0
        chunk += same
        audio_s += same_s
    if chunk:
        yield chunk
