"""Listening to clips in chunks that are put on disk as they come; what was heard before is not heard again.

Chunks are cut from the whole list, less what is in it twice, before anything is looked up, and of each only that is
heard which was not known when the run began. So a run that was cut off goes on with the same batches and ends with the
same bytes, and so do several that hear every n-th chunk each. (The last bits of evidence depend on its batch, and a
CTC aligner's times on the lag that it shows in its chunk: evidence stays as it was when it was first heard.)
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore

from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.evidence import EvidenceStore, HeardClips, to_line
from shibolet.audit.workers import AnyWorker, Load, WorkerLost, decode, hash_audio, run_each, weigh, worker_threads
from shibolet.errors import DataError
from shibolet.listen.long_audio import align
from shibolet.listen.protocols import Aligner, ByName, Recogniser
from shibolet.records.files import hash_json
from shibolet.records.utterance import AudioRef

VERSION = 8  # of the signals; raising it makes everything be heard again
HASHED_TOGETHER = 256  # files
WHOLE = (0, 1)
NOT_IN_FILE = "the file of hypotheses has none of this utterance"
BY_NAME = (
    "The hypotheses come from a file: there is no likelihood, and the self-test has no copies of which the audio is "
    "changed, so it cannot pass."
)
Progress = Callable[[int, int], None]


class Listener:
    """An aligner and a recogniser with a folder of what they heard before."""

    def __init__(
        self, aligner: Aligner, recogniser: Recogniser | ByName, cache_dir: Path, load: Load, config: AuditConfig
    ) -> None:
        self.identities = (aligner.identity, recogniser.identity)
        self._by_name = hasattr(recogniser, "look_up")
        self._aligner, self._recogniser = aligner, recogniser
        self._load, self._config = load, config
        self._turns = BoundedSemaphore(2)  # one chunk is prepared while the models have the other
        self._folder = cache_dir / hash_json([VERSION, self.identities, config.aligner_max_s])

    @property
    def notes(self) -> list[str]:
        """What a reader of the results has to know of these listeners."""
        return [BY_NAME] if self._by_name else []

    def can_hear(self, clip: Clip) -> bool:
        """Whether the recogniser can say anything of it: a file knows no audio that was changed."""
        return not (self._by_name and clip.change_audio)

    def hear(
        self, clips: Sequence[Clip], on_progress: Progress | None = None, shard: tuple[int, int] = WHOLE
    ) -> HeardClips:
        """Evidence on every clip, by key; of a shard (i, n), from 0, only what that part and earlier runs heard."""
        store = EvidenceStore(self._folder)
        with worker_threads(self._config.num_workers) as threads:
            content_ids = self._content_ids(clips, threads)
            todo = self._unheard(clips, content_ids, store)[shard[0] :: shard[1]]
            done, total = 0, sum(map(len, todo))
            jobs = ([(content_ids[i], clips[i]) for i in chunk] for chunk in todo if chunk)
            for num_heard in threads(partial(self._hear_chunk, store), jobs):
                done += num_heard
                if on_progress:
                    on_progress(done, total)
        store.refresh()
        return HeardClips(store, {clip.key: content_id for clip, content_id in zip(clips, content_ids, strict=True)})

    def merge(self, clips: Sequence[Clip]) -> HeardClips:
        """Evidence on every clip, by key, when shards have heard all of them; DataError when they have not."""
        store = EvidenceStore(self._folder)
        with worker_threads(self._config.num_workers) as threads:
            content_ids = self._content_ids(clips, threads)
        if missing := sum(map(len, self._unheard(clips, content_ids, store))):
            raise DataError(
                f"{missing:,} of {len(clips):,} clips have been heard by no shard: start the missing shards again, "
                f"they go on where they were cut off, and bring the files of all into {self._folder}"
            )
        return HeardClips(store, {clip.key: content_id for clip, content_id in zip(clips, content_ids, strict=True)})

    def _content_ids(self, clips: Sequence[Clip], threads: Callable) -> list[str]:
        """What each clip is, by the bytes of its audio, its words and its changes."""
        # Of one file with many spans the bytes are read once.
        refs = list(dict.fromkeys(clip.audio.whole() for clip in clips))
        batches = [refs[first : first + HASHED_TOGETHER] for first in range(0, len(refs), HASHED_TOGETHER)]
        hash_of: dict[AudioRef, str] = {}
        for batch, hashes in zip(batches, threads(self._hash, batches), strict=True):
            hash_of.update(zip(batch, hashes, strict=True))
        ids = [clip.content_id(hash_of[clip.audio.whole()]) for clip in clips]
        return [hash_json([i, clip.utterance]) for i, clip in zip(ids, clips, strict=True)] if self._by_name else ids

    def _hash(self, worker: AnyWorker, refs: Sequence[AudioRef]) -> list[str]:
        found = run_each(worker, hash_audio, refs, 10 * self._config.decode_timeout_s)
        return [hash_json([h.reason, ref.path]) if isinstance(h, WorkerLost) else h for ref, h in zip(refs, found)]

    def _unheard(self, clips: Sequence[Clip], content_ids: Sequence[str], store: EvidenceStore) -> list[list[int]]:
        """Of each chunk of the whole list, the places of clips whose evidence is not there."""
        chunks = _chunks(clips, content_ids, self._config.chunk_utterances, self._config.chunk_audio_s)
        return [[i for i in chunk if content_ids[i] not in store] for chunk in chunks]

    def _hear_chunk(self, store: EvidenceStore, worker: AnyWorker, jobs: Sequence[tuple[str, Clip]]) -> int:
        """Hear clips, each with its content id, and put their evidence on disk; how many they were."""
        clips = [clip for _, clip in jobs]
        limit_s = self._config.decode_timeout_s + sum(clip.duration_s for clip in clips) / 10
        decoded = run_each(worker, partial(decode, load=self._load), clips, limit_s)
        known = self._recogniser.look_up([clip.utterance for clip in clips]) if self._by_name else None
        lines: list[bytes | None] = [
            _failure(clip, found, not_in_file=known is not None and known[i] is None)
            for i, (clip, found) in enumerate(zip(clips, decoded, strict=True))
        ]
        if usable := [i for i, line in enumerate(lines) if line is None]:
            samples, words = [decoded[i][0] for i in usable], [list(clips[i].words) for i in usable]
            with self._turns:
                hearings = [known[i] for i in usable] if known else self._recogniser.hear(samples, words)
                alignments = align(self._aligner, samples, words, hearings, self._config.aligner_max_s)
            material = [
                (clips[i], decoded[i][1], alignment, hearing)
                for i, alignment, hearing in zip(usable, alignments, hearings, strict=True)
            ]
            for i, line in zip(usable, run_each(worker, weigh, material, limit_s), strict=True):
                lines[i] = _failure(clips[i], line) or line
        store.write({content_id: line for (content_id, _), line in zip(jobs, lines, strict=True)})
        return len(jobs)


def _failure(clip: Clip, found: object, not_in_file: bool = False) -> bytes | None:
    """The line of a clip that could not be heard; None for what a worker has `found`."""
    if isinstance(found, WorkerLost):
        found = Evidence(key=clip.key, failure=found.reason, detail=str(found))
    elif not isinstance(found, Evidence) and not_in_file:
        found = Evidence(key=clip.key, failure="no_hypothesis", detail=NOT_IN_FILE)
    return to_line({"": found}) if isinstance(found, Evidence) else None


def _chunks(
    clips: Sequence[Clip], content_ids: Sequence[str], max_clips: int, max_audio_s: float
) -> Iterator[list[int]]:
    """Places of clips that are heard together, each content once; those that share their audio stand together."""
    first_with: dict[AudioRef, int] = {}
    for i, clip in enumerate(clips):
        first_with.setdefault(clip.audio, i)
    seen: set[str] = set()
    chunk, audio_s = [], 0.0
    for i in sorted(range(len(clips)), key=lambda i: (first_with[clips[i].audio], i)):
        if content_ids[i] in seen:
            continue
        seen.add(content_ids[i])
        if chunk and (len(chunk) == max_clips or audio_s + clips[i].duration_s > max_audio_s):
            yield chunk
            chunk, audio_s = [], 0.0
        chunk.append(i)
        audio_s += clips[i].duration_s
    if chunk:
        yield chunk
