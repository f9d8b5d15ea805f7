"""Utterances to pieces, by whoever decodes: the same whether that is this process or others.

Of a chunk all encoded audio comes back as one block: for each of several, a thread would wait for Python's lock.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from pickle import PickleBuffer

from shibolet.errors import ProcessLost
from shibolet.listen.decoders import MAX_WORKERS, AnyWorker, Decoders, Share, run_each
from shibolet.listen.dispatch import UNSEEN, require_seen
from shibolet.listen.executor import Executor
from shibolet.listen.processes import WorkerLost
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.pieces import Outcome, make_pieces
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.cores import usable_cores
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import content_hash
from shibolet.speech.text import get_language

CHUNK_UTTERANCES, CHUNK_S = 64, 300.0  # handed over together; encoded audio of two of them a process is in memory
ALONE_S = 3600.0  # of audio take two threads of one process no longer than others take to start and do it
LIMIT_S = 120.0  # and as long as the audio: a process that decodes longer hangs
CACHED_HASHES = 4096  # of files that several utterances lie in

Job = tuple[Utterance, Reviewed | None]
FindVerdicts = Callable[[Sequence[Utterance]], list[Reviewed | None]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What becomes of a chunk's utterances, in order, on its way between processes."""

    outcomes: list[Outcome]  # without their FLACs
    sizes: list[int]  # of the FLACs, in bytes
    flacs: PickleBuffer | bytes  # one after the other

    def unpacked(self) -> Iterator[Outcome]:
        block = memoryview(self.flacs)
        flacs = (block[first:end] for first, end in pairwise(accumulate(self.sizes, initial=0)))
        for outcome in self.outcomes:
            yield replace(outcome, flacs=[next(flacs) for _ in outcome.pieces])


def make_chunk(jobs: Sequence[Job], language: str, config: PrepareConfig) -> list[Chunk]:
    """One chunk: what a worker does."""
    spoken = get_language(language)
    outcomes = [make_pieces(*job, spoken, config, _hash_of) for job in jobs]
    flacs = [flac for outcome in outcomes for flac in outcome.flacs]
    return [Chunk([replace(one, flacs=[]) for one in outcomes], list(map(len, flacs)), PickleBuffer(b"".join(flacs)))]


def _hash_of(ref: AudioRef) -> str:
    """`content_hash`, once for a file in which several utterances lie, as long as it stays as it is."""
    with suppress(OSError):
        found = os.stat(ref.path)
        return _kept_hash(ref, found.st_size, found.st_mtime_ns)
    return content_hash(ref)


@lru_cache(CACHED_HASHES)
def _kept_hash(ref: AudioRef, *state: int) -> str:
    return content_hash(ref)


def is_worth_processes(utterances: Sequence[Utterance], elsewhere: bool = False) -> bool:
    """Whether there is so much audio that other processes, which take a second to start, are done first."""
    return (elsewhere or usable_cores() > 1) and sum(utterance.duration_s for utterance in utterances) > ALONE_S


@dataclass(frozen=True, slots=True)
class MakePieces:
    """The work: decode the utterances of a chunk, trim, cut and encode them; who asks for it writes shards."""

    decoders: Decoders | Share  # of this process; of each process of a cluster its own
    language: str
    config: PrepareConfig

    @property
    def at_once(self) -> int:
        return MAX_WORKERS + 2  # two wait while results are on their way

    def submit(self, jobs: Sequence[Job]) -> Future[list[Chunk]]:
        """By the next worker of this process that is free."""
        make = partial(make_chunk, language=self.language, config=self.config)
        return self.decoders.submit(partial(_run, make=make), jobs)

    def begin(self) -> None:
        """Have each worker load what it takes, while this process reads verdicts; what fails there fails again."""
        for _ in range(self.decoders.num_workers):
            self.submit([])

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[Job]], tuple[list[Chunk], list[str]]]]:
        self.begin()
        yield self._make

    def _make(self, jobs: Sequence[Job]) -> tuple[list[Chunk], list[str]]:
        """The chunks, and the audio files that are not there."""
        chunks = self.submit(jobs).result()
        outcomes = (outcome for chunk in chunks for outcome in chunk.outcomes)
        unseen = [
            utterance.audio.path
            for (utterance, _), outcome in zip(jobs, outcomes, strict=True)
            if any(line.rule == UNSEEN for line in outcome.lines)
        ]
        # Ray would leave a buffer in the memory that nodes share, which is small, for as long as anybody has it.
        return [replace(chunk, flacs=bytes(chunk.flacs)) for chunk in chunks], unseen

    def keep(self, result: tuple[list[Chunk], list[str]]) -> list[Chunk]:
        """DataError where a node does not see a file that is here."""
        chunks, unseen = result
        require_seen(unseen)
        return chunks


def outcomes_of(
    utterances: Iterable[Utterance], find: FindVerdicts, work: MakePieces, executor: Executor | None = None
) -> Iterator[Outcome]:
    """What becomes of each utterance, in order: by workers of this process, or on a cluster; the same whichever.

    It runs little ahead of its reader. ProcessLost names the utterance that a process crashes on, or hangs at.
    """
    jobs = (list(zip(chunk, find(chunk), strict=True)) for chunk in _chunks(utterances))
    with closing(_here(work, jobs) if executor is None else _elsewhere(work, jobs, executor)) as results:
        for chunks in results:
            for chunk in chunks:
                yield from chunk.unpacked()


def _here(work: MakePieces, jobs: Iterable[list[Job]]) -> Iterator[list[Chunk]]:
    ahead: deque[Future[list[Chunk]]] = deque()
    try:
        for some in jobs:
            ahead.append(work.submit(some))
            if len(ahead) > 2 * max(2, work.decoders.num_workers):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def _elsewhere(work: MakePieces, jobs: Iterable[list[Job]], executor: Executor) -> Iterator[list[Chunk]]:
    handed: deque[list[Job]] = deque()
    with closing(executor.map(work, (handed.append(some) or some for some in jobs))) as results:
        for chunks in results:
            some = handed.popleft()
            if isinstance(chunks, WorkerLost):
                raise ProcessLost(
                    f"{len(some)} utterances from '{some[0][0].id}' of {some[0][0].source} on could not be prepared: "
                    f"{chunks}. Without --on the one at fault is named"
                )
            yield chunks


def _run(worker: AnyWorker, jobs: Sequence[Job], make: Callable[[Sequence[Job]], list[Chunk]]) -> list[Chunk]:
    """The chunk; in as many chunks as it has utterances where a process was lost over it, and over none alone."""
    made = run_each(worker, make, jobs, _limit_s)
    for (utterance, _), chunk in zip(jobs, made, strict=False):
        if isinstance(chunk, WorkerLost):
            audio, does = utterance.audio, "hangs" if chunk.reason == "decoder_hung" else "crashes"
            place = audio.path if audio.row is None else f"{audio.path} row {audio.row}"
            raise ProcessLost(
                f"utterance '{utterance.id}' of {utterance.source} {does} the process that decodes it ({place}): "
                "encode it anew or take it out of its source, and run the same command again"
            ) from chunk
    return made


def _limit_s(jobs: Sequence[Job]) -> float:
    return LIMIT_S + sum(utterance.duration_s for utterance, _ in jobs)


def _chunks(utterances: Iterable[Utterance]) -> Iterator[list[Utterance]]:
    """Utterances in their order, so many at a time; neighbours often lie in one file, which is then read once."""
    chunk, seconds = [], 0.0
    for utterance in utterances:
        if chunk and (len(chunk) == CHUNK_UTTERANCES or seconds + utterance.duration_s > CHUNK_S):
            yield chunk
            chunk, seconds = [], 0.0
        chunk.append(utterance)
        seconds += utterance.duration_s
    if chunk:
        yield chunk
