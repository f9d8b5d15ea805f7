"""Listening to clips in chunks that are put on disk as they come; what was heard before is not heard again.

Chunks are cut from the whole list, less what is in it twice, before anything is looked up, and of each only that is
heard which was not known when the run began. So a run that was cut off goes on with the same batches and ends with the
same bytes, and so do several that hear every n-th group of chunks each. A GPU hears a group as one chunk. (The last
bits of evidence depend on its batch, and a CTC aligner's times on the lag that it shows in its chunk: evidence stays as
it was when it was first heard.)

A clip that a process was lost over again and again is a failure in this run alone. It may be the machine: nothing of
that is put on disk, and the next run hears the clip.
"""

import logging
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from shibolet.audit.chunks import (
    ChooseWindow,
    Group,
    HashChunk,
    HearChunk,
    Lost,
    Window,
    chunks_of,
    given_up,
    grouped,
    hash_part,
)
from shibolet.audit.clip import Clip
from shibolet.audit.config import AuditConfig
from shibolet.audit.content import ContentIds
from shibolet.audit.evidence import EvidenceStore, HeardClips
from shibolet.audit.workers import Load, load_libraries
from shibolet.errors import DataError, ProcessLost
from shibolet.listen.decoders import Decoders, num_decoders
from shibolet.listen.dispatch import TRIES
from shibolet.listen.executor import Executor, Here
from shibolet.listen.lazy import LazyListener, Loading
from shibolet.listen.processes import WorkerLost
from shibolet.listen.protocols import Aligner, ByName, Recogniser
from shibolet.records.files import hash_json, write_json
from shibolet.records.reading import read_cached
from shibolet.records.utterance import AudioRef

LOG = logging.getLogger(__name__)
VERSION = 10  # of the signals; raising it makes everything be heard again
HASHED_TOGETHER = 64  # files
WHOLE = (0, 1)
WINDOW_CLIPS = 24  # that a recogniser's window is tried on
Progress = Callable[[int, int], None]
Chunk = Sequence[int]  # places of clips


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
        executor: Executor | None = None,  # who hears; None: this process
    ) -> None:
        self.identities = tuple(one.identity for one in (aligner, recogniser) if one is not None)
        self._by_name = hasattr(recogniser, "look_up")
        self._aligner, self._recogniser = aligner, recogniser
        self._load, self._config, self._language = load, config, language
        self.num_lost = 0  # clips that the last hearing gave up, as no fault of theirs: the next one tries them again
        self.num_clips = self.num_heard = 0  # of the last hearing: what was asked for, and what was not known before
        has_models = not self._by_name or aligner is not None
        self._own = None if executor and has_models else Here()  # it ends with what is done
        self._executor = self._own or executor
        self.num_processes = self._executor.num_processes
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
        with self.decoders() as decoders:
            content_ids, _ = self._identify(clips, decoders)
            self._settle(self._kept_window(), clips, content_ids, decoders)

    def can_hear(self, clip: Clip) -> bool:
        """Whether the recogniser can say anything of it: a file knows changed audio only if somebody put it there."""
        return not (self._by_name and clip.change_audio) or self._recogniser.look_up([clip.key])[0] is not None

    def hear(
        self, clips: Sequence[Clip], on_progress: Progress | None = None, shard: tuple[int, int] = WHOLE
    ) -> HeardClips:
        """Evidence on every clip, by key; of a shard (i, n), from 0, only what that part and earlier runs heard."""
        with self.decoders() as decoders:
            window = self._kept_window()
            store = None if window is None else EvidenceStore(self._folder(window))
            if store is None or len(store) < len(clips):
                self.begin()
            content_ids, lost = self._identify(clips, decoders)
            folder = self._settle(window, clips, content_ids, decoders)
            if store is None:
                store = EvidenceStore(folder)
            else:
                store.refresh()  # another job may have heard something meanwhile
            todo = list(filter(None, self._unheard(clips, content_ids, store, lost)[shard[0] :: shard[1]]))
            done, total = 0, sum(len(chunk) for group in todo for chunk in group)
            self.num_clips, self.num_heard = len(clips), total
            with closing(self._hear(clips, content_ids, todo, folder, decoders)) as heard:
                for chunk, lost_here in heard:
                    lost |= lost_here
                    done += len(chunk)
                    if on_progress:
                        on_progress(done, total)
        store.refresh()
        _require_all(content_ids, store, lost, None if shard == WHOLE else chain.from_iterable(chain(*todo)))
        self.num_lost = sum(content_id in lost for content_id in content_ids) if lost else 0
        return HeardClips(store, clips, content_ids, lost)

    def merge(self, clips: Sequence[Clip]) -> HeardClips:
        """Evidence on every clip, by key, when shards have heard all of them; DataError when they have not."""
        with self.decoders() as decoders:
            content_ids, _ = self._identify(clips, decoders)
            store = EvidenceStore(folder := self._settle(self._kept_window(), clips, content_ids, decoders))
        if missing := sum(content_id not in store for content_id in set(content_ids)):
            raise DataError(
                f"{missing:,} of {len(clips):,} clips have been heard by no shard, or could not be decoded where one "
                "tried: start the shards again, they go on where they were cut off, and bring the files of all into "
                f"{folder}; without 'merge', 'shibolet audit' hears what is missing by itself"
            )
        self.num_lost = 0
        return HeardClips(store, clips, content_ids, {})

    def begin(self) -> None:
        """Load the listeners and start what decodes for them, in the background."""
        decoders = self._executor.decoders(num_decoders(self._config.num_workers))
        if isinstance(self._executor, Here):
            decoders.start(load_libraries)
            theirs = None
        else:
            decoders.start()
            theirs = self._executor.share(self._config.num_workers)
        self._executor.begin(Loading((self._aligner, self._recogniser), theirs, load_libraries))

    @contextmanager
    def decoders(self) -> Iterator[Decoders]:
        """Workers of this process, for what is to be done within."""
        try:
            yield self._executor.decoders(num_decoders(self._config.num_workers))
        finally:
            if self._own:
                self._own.close()

    def _hear(
        self,
        clips: Sequence[Clip],
        content_ids: Sequence[str],
        todo: Sequence[Sequence[Chunk]],
        folder: Path,
        decoders: Decoders,
    ) -> Iterator[tuple[Chunk, Lost]]:
        """What was heard together and what was given up of it; the evidence on the others is in the folder then."""
        if not todo:
            return
        work = HearChunk(folder=folder, language=self._language, **self._listening())

        groups = todo if self._is_on_gpu() else [[chunk] for chunk in chain.from_iterable(todo)]
        jobs = (Group([[(content_ids[i], clips[i]) for i in chunk] for chunk in group]) for group in groups)
        with closing(self._executor.map(work, jobs)) as results:
            for group, lost in zip(groups, results, strict=True):
                chunk = list(chain.from_iterable(group))
                is_lost = isinstance(lost, WorkerLost)
                yield chunk, {content_ids[i]: given_up(clips[i], lost) for i in chunk} if is_lost else lost

    def _kept_window(self) -> Window | None:
        """The window that is given or was settled before; None where the recogniser's is to be chosen.

        The first choice stays, so that shards, later runs and the rest of the data are heard in the same way.
        """
        if not hasattr(self._recogniser, "choose_window"):
            return Window(None)
        return Window(self._fixed_window_s) if self._fixed_window_s is not None else _kept_window(self._window_path)

    @property
    def _window_path(self) -> Path:
        return self._cache_dir / f"window-{self.identities[-1][:16]}.json"

    def _folder(self, window: Window) -> Path:
        """Where the evidence of these listeners lies."""
        heard_as = [self.identities, self._language, self._config.aligner_max_s, window.window_s]
        return self._cache_dir / hash_json([VERSION, *heard_as])

    def _settle(
        self, window: Window | None, clips: Sequence[Clip], content_ids: Sequence[str], decoders: Decoders
    ) -> Path:
        """Settle with which window the recogniser hears, the kept one or one that is chosen; the folder of evidence."""
        window = window or self._choose_window(clips, content_ids, decoders)
        self.window_s = window.window_s
        if self.window_s is not None:
            self._recogniser.set_window(self.window_s)
        return self._folder(window)

    def _choose_window(self, clips: Sequence[Clip], content_ids: Sequence[str], decoders: Decoders) -> Window:
        untouched = ((content_ids[i], i) for i, clip in enumerate(clips) if clip.key == clip.utterance)
        trial = [clips[i] for _, i in nsmallest(WINDOW_CLIPS, untouched)]
        [window] = self._executor.map(ChooseWindow(**self._listening()), [trial])
        if isinstance(window, WorkerLost):
            raise DataError(f"the recogniser's window could not be chosen: {window}")
        if window is None:
            return Window(None)
        write_json(self._window_path, {**asdict(window), "sha256": hash_json(asdict(window))})
        return window

    def _listening(self) -> dict[str, Any]:
        """What every work of these listeners has."""
        return {
            "aligner": self._aligner, "recogniser": self._recogniser, "load": self._load, "config": self._config,
            "decoders": self._executor.share(self._config.num_workers),
        }  # fmt: skip

    def _identify(self, clips: Sequence[Clip], decoders: Decoders) -> tuple[ContentIds, Lost]:
        """What each clip is, by the bytes of its audio, its words and its changes; and which could not be read."""
        # Of one file with many spans the bytes are read once.
        refs = list(dict.fromkeys(ref.whole() for clip in clips for ref in (clip.audio, *clip.other_audio)))
        batches = [refs[first : first + HASHED_TOGETHER] for first in range(0, len(refs), HASHED_TOGETHER)]
        hash_of: dict[AudioRef, str | WorkerLost] = {}
        for batch, hashes in zip(batches, self._hashes(batches, decoders), strict=True):
            hash_of.update(zip(batch, hashes, strict=True))

        def known_as(ref: AudioRef) -> str:
            found = hash_of[ref.whole()]
            return hash_json([found.reason, ref.path]) if isinstance(found, WorkerLost) else found

        content_ids, lost = ContentIds(), {}
        for clip in clips:
            found = hash_of[clip.audio.whole()]
            is_lost = isinstance(found, WorkerLost)
            content_id = clip.content_id(known_as(clip.audio), [known_as(ref) for ref in clip.other_audio])
            content_ids.append(hash_json([content_id, clip.utterance]) if self._by_name else content_id)
            if is_lost:
                lost[content_ids[-1]] = given_up(clip, found)
        return content_ids, lost

    def _hashes(self, batches: Sequence[Sequence[AudioRef]], decoders: Decoders) -> Iterator[list[str | WorkerLost]]:
        """Content hashes of each batch; WorkerLost for what could not be read by any process."""
        if not self._executor.is_elsewhere:
            yield from decoders.map(partial(hash_part, config=self._config), batches)
            return
        with closing(self._executor.map(HashChunk(**self._listening()), batches)) as results:
            for batch, hashes in zip(batches, results, strict=True):
                yield [hashes] * len(batch) if isinstance(hashes, WorkerLost) else hashes

    def _is_on_gpu(self) -> bool:
        """Whether models hear on one; what hears without torch is none of them, and does not load it here."""
        if self._executor.has_gpus is not None:
            return self._executor.has_gpus
        is_lazy = any(isinstance(one, LazyListener) for one in (self._aligner, self._recogniser))
        if not is_lazy and "torch" not in sys.modules:
            return False
        from shibolet.model.folders import best_device

        return best_device() != "cpu"

    def _unheard(
        self, clips: Sequence[Clip], content_ids: ContentIds, store: EvidenceStore, lost: Lost
    ) -> list[list[Chunk]]:
        """Of each group of the whole list its chunks, less the clips whose evidence is there or cannot be had.

        Groups are the same on a CPU, which hears their chunks one by one: jobs of an array share them out.
        """
        limits = self._config.chunk_utterances, self._config.chunk_audio_s
        wanted = _missing(content_ids, store, lost).tobytes().__getitem__
        groups = grouped(list(chunks_of(clips, content_ids.numbers, *limits)))
        return [[own for chunk in group if (own := array("q", filter(wanted, chunk)))] for group in groups]


@dataclass(frozen=True, slots=True)
class _KeptWindow(Window):
    """As it is on disk: folders of evidence are put together with `cp`, so it has its own checksum."""

    sha256: str


def _kept_window(path: Path) -> Window | None:
    if (kept := read_cached(path, _KeptWindow)) is None:
        return None
    window = Window(kept.window_s)
    if kept.sha256 == hash_json(asdict(window)):
        return window
    LOG.warning("%s is not as it was written; it is made again", path)
    return None


def lost_sentence(num_lost: int) -> str:
    """What a reader has to know of clips that were given up."""
    return (
        f"Clips that could not be decoded or heard here in {TRIES} tries: {num_lost:,}. Such a clip counts as a "
        "failure in this run, and the next audit hears it again."
    )


def _missing(content_ids: ContentIds, store: EvidenceStore, lost: Lost) -> np.ndarray:
    """Mask of the clips whose evidence is not on disk, and that were not given up."""
    missing = ~store.holds(content_ids)
    return missing & np.array([id not in lost for id in content_ids]) if lost else missing


def _require_all(content_ids: ContentIds, store: EvidenceStore, lost: Lost, places: Iterable[int] | None) -> None:
    """ProcessLost where a clip at one of the places is neither on disk, heard or undecodable, nor given up."""
    chosen = slice(None) if places is None else np.fromiter(places, int)
    numbers, is_missing = np.asarray(content_ids.numbers)[chosen], _missing(content_ids, store, lost)[chosen]
    if is_missing.any():
        raise ProcessLost(
            f"of {len(np.unique(numbers)):,} clips that were to be heard {len(np.unique(numbers[is_missing])):,} have "
            "left no evidence on disk, and were not given up: a file that was written is gone, or whoever heard them "
            "answered for others. What is there stays; the same command hears the rest"
        )
