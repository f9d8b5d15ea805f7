"""Processes that decode and measure, one thread each, and what they do there.

A decoder that crashes or never returns takes its process with it and nothing else. No torch: a process starts in a
second and stays small.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import Process
from multiprocessing.connection import Connection
from queue import LifoQueue
from threading import Timer
from typing import Any

import numpy as np

from shibolet.audit.clip import AudioChange, Clip, Evidence
from shibolet.audit.evidence import to_line
from shibolet.audit.signals import measure
from shibolet.errors import AudioError, ProcessLost
from shibolet.listen import executor
from shibolet.listen.executor import in_threads
from shibolet.listen.processes import (
    MAX_STARTS,
    ONE_THREAD,
    Channel,
    Child,
    WorkerLost,
    attempt,
    leave_signals_to_parent,
    send_outcome,
)
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.files import hash_json
from shibolet.records.utterance import AudioRef
from shibolet.speech.activity import Sound, sound_of
from shibolet.speech.audio import content_hash

MAX_WORKERS = 14  # several hundred seconds of audio a second each: more than any model takes
START_S = 600.0  # for a process to load its libraries and to take a job; a busy machine or a slow disk is no reason
RETRIES = (2, 4)  # limits of an item's second and third try, alone in a new process, in units of its own limit
# Failures that say something of the machine and nothing of the content.
LOST = ("decoder_hung", "decoder_crashed", executor.LOST)
MIN_SAMPLES = 1600  # a tenth of a second is the least that every listener takes
Load = Callable[[AudioRef], np.ndarray]
Decoded = tuple[np.ndarray, Sound]


class Worker:
    """A process that runs functions of modules, one after the other; it starts at the first, and again when lost."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def run(self, function: Callable, *args: Any, timeout_s: float) -> Any:
        """What `function(*args)` returns there; raises what it raises, or WorkerLost.

        The clock starts when the process begins with the function: its start and the way of the arguments do not count.
        """
        self._hand_over((function, args))
        limit = _Limit(self._child.process, timeout_s)
        try:
            with limit:
                succeeded, result = self._child.channel.receive()
        except (EOFError, OSError):
            self.close()
            if limit.passed:
                raise WorkerLost("decoder_hung", f"not decoded within {timeout_s:.0f} s") from None
            raise WorkerLost("decoder_crashed", "the process that decoded it crashed") from None
        if limit.passed:  # the answer came just in time, and the process is gone all the same
            self.close()
        if succeeded:
            return result
        raise result

    def _hand_over(self, job: tuple[Callable, tuple]) -> None:
        """Return once a process has begun with the job; ProcessLost when none can be had."""
        for _ in range(MAX_STARTS):
            if self._child is None:
                self._child = Child(_serve, environment=ONE_THREAD)
            try:
                with _Limit(self._child.process, START_S):
                    self._child.channel.send(job)
                    self._child.channel.receive()
                return
            except (EOFError, OSError):  # it ended while it was idle, or at its start: nothing that a job did
                self.close()
        raise ProcessLost(
            f"no process that decodes audio starts here: {MAX_STARTS} crashed or took more than {START_S:.0f} s. See "
            "whether the memory is full; with --set audit.num_workers=0 the command decodes by itself"
        )

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._child is not None:
            self._child.close()
            self._child = None


class _Limit:
    """Kills a process when what is done within takes longer: whatever waits for it then reads the end of its pipe.

    Waiting with a timeout would not do: a process that is paused while it is written to, or half-way through its
    answer, blocks the call that moves the bytes.
    """

    def __init__(self, process: Process, limit_s: float) -> None:
        self.passed = False
        self._process = process
        self._timer = Timer(limit_s, self._kill)
        self._timer.daemon = True  # it must not hold up the end of this process

    def _kill(self) -> None:
        self.passed = True
        self._process.kill()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()  # from here on `passed` does not change


def _serve(connection: Connection) -> None:
    """What a process does: say that a job has come, run it and answer, until its parent ends."""
    leave_signals_to_parent()
    channel = Channel(connection)
    with suppress(EOFError, OSError):
        while True:
            function, args = channel.receive()
            channel.send("begun")
            send_outcome(channel, attempt(function, *args))


class InThisProcess:
    """Runs the same functions in place, for tests and small jobs."""

    def run(self, function: Callable, *args: Any, timeout_s: float) -> Any:
        return function(*args)

    def close(self) -> None:
        pass


AnyWorker = Worker | InThisProcess


def run_each(worker: AnyWorker, function: Callable, items: Sequence, limit_s: Callable[[Sequence], float]) -> list:
    """`function(items)`; when that loses its process, one item after the other, WorkerLost for those that still do.

    `limit_s` gives the limit of what is run together. A process may also be lost to a pause of the machine or to the
    kernel's want of memory, so an item alone gets a new process and more time, twice.
    """
    try:
        return worker.run(function, items, timeout_s=limit_s(items))
    except WorkerLost:
        return [_run_alone(worker, function, item, limit_s([item])) for item in items]


def _run_alone(worker: AnyWorker, function: Callable, item: Any, limit_s: float) -> Any:
    for times in RETRIES:
        try:
            [result] = worker.run(function, [item], timeout_s=times * limit_s)
            return result
        except WorkerLost as error:
            lost = error
    return WorkerLost(lost.reason, f"{lost} in {1 + len(RETRIES)} tries; the next audit tries again")


class Decoders:
    """Workers of which each is borrowed by one thread at a time; another process that is sent them has its own."""

    def __init__(self, num_workers: int) -> None:
        """0: the threads decode themselves."""
        self.num_workers = num_workers
        self._workers = [Worker() for _ in range(num_workers)] or [InThisProcess() for _ in range(2)]
        self.at_once = len(self._workers)
        self._idle: LifoQueue[AnyWorker] = LifoQueue()  # the last first: it is running
        for worker in self._workers:
            self._idle.put(worker)

    def __reduce__(self) -> tuple:
        return Decoders, (self.num_workers,)

    @contextmanager
    def borrow(self) -> Iterator[AnyWorker]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def map(self, function: Callable[[AnyWorker, Any], Any], items: Iterable) -> Iterator:
        """`function(worker, item)` of each item in order; one item is decoded while others are."""

        def with_worker(item: Any) -> Any:
            with self.borrow() as worker:
                return function(worker, item)

        return in_threads(with_worker, items, self.at_once)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # After an interrupt threads run on, and would take the end of a process for a crash.
        for worker in self._workers if kind is not KeyboardInterrupt else ():
            worker.close()


def num_decoders(num_workers: int | None, num_shares: int = 1) -> int:
    """Workers in each of `num_shares` processes; None is all cores but two, which feed the models."""
    if num_workers is None:
        return max(2, min(MAX_WORKERS, ((os.cpu_count() or 1) - 2) // num_shares))
    return num_workers and max(1, num_workers // num_shares)


def hash_audio(refs: Sequence[AudioRef]) -> list[str]:
    """Content hash of each; of what cannot be read, one of the reason and the place."""
    hashes = []
    for ref in refs:
        try:
            hashes.append(content_hash(ref))
        except AudioError as error:
            hashes.append(hash_json([error.reason, ref.path, ref.row]))
    return hashes


def decode(clips: Sequence[Clip], load: Load) -> list[Decoded | Evidence]:
    """Samples of each clip with what energy says of them, or why there are none.

    The same array for the same audio under the same change, whatever the texts: listeners hear an array once.
    """
    whole: dict[AudioRef, Decoded | AudioError] = {}
    changed: dict[tuple[AudioRef, AudioChange], Decoded] = {}
    return [_decode(clip, load, whole, changed) for clip in clips]


def _decode(
    clip: Clip,
    load: Load,
    whole: dict[AudioRef, Decoded | AudioError],
    changed: dict[tuple[AudioRef, AudioChange], Decoded],
) -> Decoded | Evidence:
    if clip.audio not in whole:
        try:
            samples = load(clip.audio)
            whole[clip.audio] = (samples, sound_of(samples))
        except AudioError as error:
            whole[clip.audio] = error
    decoded = whole[clip.audio]
    if isinstance(decoded, AudioError):
        # Without the place, which is no part of what was heard.
        return Evidence(key=clip.key, failure=decoded.reason, detail=str(decoded.__cause__ or decoded))
    if clip.change_audio:
        sounds_as = clip.audio, clip.change_audio
        if sounds_as not in changed:
            samples = clip.change_audio(decoded[0], _rng_of_audio(clip, decoded[0]))
            changed[sounds_as] = (samples, sound_of(samples))
        decoded = changed[sounds_as]
    samples, sound = decoded
    if len(samples) < MIN_SAMPLES:
        return Evidence(key=clip.key, failure="too_short", detail=f"{sound.duration_s:.2f} s of audio")
    return decoded


def weigh(jobs: Sequence[tuple[Clip, Sound, Alignment | None, Hearing, str]]) -> list[bytes]:
    """The line of each clip for the store, in the language that comes with it."""
    return [to_line(_evidence(*job)) for job in jobs]


def _evidence(clip: Clip, sound: Sound, alignment: Alignment | None, hearing: Hearing, language: str) -> Evidence:
    signals = measure(sound, clip.words, clip.verifiable, alignment, hearing, language)
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in signals.to_json().items()}
    spans_s = np.clip(hearing.word_spans_s, 0.0, sound.duration_s)
    if alignment is not None:
        spans_s = np.stack([alignment.starts_s, alignment.ends_s], axis=1)
    return Evidence(
        key=clip.key,
        hypothesis=hearing.hypothesis,
        starts_s=tuple(round(float(t), 3) for t in spans_s[:, 0]),
        ends_s=tuple(round(float(t), 3) for t in spans_s[:, 1]),
        signals=replace(signals, **rounded),
    )


def _rng_of_audio(clip: Clip, samples: np.ndarray) -> np.random.Generator:
    """Chance from what is heard alone: copies with other texts hear the same noise."""
    textless = replace(clip, words=(), verifiable=())
    return np.random.default_rng(int(textless.content_id(f"{zlib.crc32(np.ascontiguousarray(samples)):08x}"), 16))
