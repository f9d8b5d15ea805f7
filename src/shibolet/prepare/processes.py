"""Utterances to pieces: in this process, or in as many others as the cores and the amount of audio are worth."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache

from shibolet.errors import ProcessLost
from shibolet.listen.decoders import ONE_THREAD
from shibolet.listen.executor import Executor, Here, Processes
from shibolet.listen.processes import MAX_STARTS, WorkerLost
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.pieces import Outcome, make_pieces
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.utterance import Utterance
from shibolet.speech.audio import content_hash
from shibolet.speech.text import get_language

CHUNK_UTTERANCES, CHUNK_S = 64, 300.0  # handed over together; encoded audio of four of them a process is in memory
ALONE_S = 3600.0  # of audio take two threads of one process no longer than others take to start and do it
MAX_PROCESSES = 24  # one process hands out to no more, and writes what they give
CACHED_HASHES = 4096  # of files that several utterances lie in

Job = tuple[Utterance, Reviewed | None]
FindVerdict = Callable[[Utterance], Reviewed | None]


@dataclass(frozen=True, slots=True)
class MakePieces:
    """A chunk of utterances to what becomes of them: the work of an `Executor`."""

    language: str
    config: PrepareConfig
    at_once: int = 2  # a decoder lets other threads run

    @contextmanager
    def open(self) -> Iterator[Callable[[list[Job]], list[Outcome]]]:
        language, hash_of = get_language(self.language), lru_cache(CACHED_HASHES)(content_hash)
        yield lambda jobs: [make_pieces(*job, language, self.config, hash_of) for job in jobs]


def count_worthwhile(utterances: Sequence[Utterance]) -> int:
    """As many processes as cores; 0, which is this one, where there is too little audio to wait for their start."""
    num = min(os.cpu_count() or 1, MAX_PROCESSES)
    return num if num > 1 and sum(utterance.duration_s for utterance in utterances) > ALONE_S else 0


def outcomes_of(utterances: Sequence[Utterance], find: FindVerdict, work: MakePieces, num: int) -> Iterator[Outcome]:
    """What becomes of each utterance, in order, by `num` processes; 0: by this one. The same whatever the number.

    It runs little ahead of its reader. ProcessLost names the utterance that a process crashes on.
    """
    executor: Executor = Processes([ONE_THREAD] * num) if num else Here()
    chunks = _chunks(utterances)
    with closing(executor):
        made = _map(executor, work, chunks, find)
        for chunk, outcomes in zip(chunks, made, strict=True):
            if isinstance(outcomes, WorkerLost):
                made.close()  # which lets go of what it has in hand
                raise _lost(chunk, find, work, executor)
            yield from outcomes


def _map(
    executor: Executor, work: MakePieces, chunks: Sequence[Sequence[Utterance]], find: FindVerdict
) -> Iterator[list[Outcome] | WorkerLost]:
    """What becomes of each chunk, or that processes crashed on it."""
    try:
        yield from executor.map(work, ([(utterance, find(utterance)) for utterance in chunk] for chunk in chunks))
    except ProcessLost as error:
        raise ProcessLost(
            f"no process that decodes utterances starts here: {MAX_STARTS} crashed. See whether the memory is full, "
            "and run the same command again"
        ) from error


def _chunks(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Utterances in their order, so many at a time; neighbours often lie in one file, which is then read once."""
    chunks, seconds = [], 0.0
    for utterance in utterances:
        if not chunks or len(chunks[-1]) == CHUNK_UTTERANCES or seconds + utterance.duration_s > CHUNK_S:
            chunks.append([])
            seconds = 0.0
        chunks[-1].append(utterance)
        seconds += utterance.duration_s
    return chunks


def _lost(chunk: Sequence[Utterance], find: FindVerdict, work: MakePieces, executor: Executor) -> ProcessLost:
    """Which utterance of a chunk processes crash on, each tried alone."""
    alone = _map(executor, work, [[utterance] for utterance in chunk], find)
    for utterance, outcome in zip(chunk, alone, strict=True):
        if isinstance(outcome, WorkerLost):
            audio = utterance.audio
            place = audio.path if audio.row is None else f"{audio.path} row {audio.row}"
            return ProcessLost(
                f"utterance '{utterance.id}' of {utterance.source} crashes the process that decodes it ({place}): "
                "encode it anew or take it out of its source, and run the same command again"
            )
    return ProcessLost(
        f"processes that decode utterances crash here, and with none of them alone ('{chunk[0].id}' to "
        f"'{chunk[-1].id}'): see whether the memory is full, and run the same command again"
    )
