"""Processes that decode and measure, one thread each, and what they do there.

A decoder that crashes or never returns takes its process with it and nothing else. No torch: a process starts in a
second and stays small.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import LifoQueue
from threading import Lock, Thread, Timer
from typing import Any

import numpy as np

from shibolet.audit.clip import AudioChange, Clip, Evidence
from shibolet.audit.evidence import to_line
from shibolet.audit.signals import measure
from shibolet.errors import AudioError, ShiboletError
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.files import hash_json
from shibolet.records.utterance import AudioRef
from shibolet.speech.activity import Sound, sound_of
from shibolet.speech.audio import content_hash

MAX_WORKERS = 14  # several hundred seconds of audio a second each: more than any model takes
START_S = 600.0  # for a process to load its libraries and to take a job; a busy machine or a slow disk is no reason
MAX_STARTS = 3
RETRIES = (2, 4)  # limits of an item's second and third try, alone in a new process, in units of its own limit
LOST = ("decoder_hung", "decoder_crashed")  # failures that say something of the machine and nothing of the content
MIN_SAMPLES = 1600  # a tenth of a second is the least that every listener takes
Load = Callable[[AudioRef], np.ndarray]
Decoded = tuple[np.ndarray, Sound]
_STARTING = Lock()


class WorkerLost(Exception):
    """A process that crashed or took too long; `reason`, one of LOST, is the ledger's rule for what it was given."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Worker:
    """A process that runs functions of modules, one after the other; it starts at the first, and again when lost."""

    def __init__(self) -> None:
        self._process: multiprocessing.Process | None = None
        self._channel: Channel | None = None

    def run(self, function: Callable, *args: Any, timeout_s: float) -> Any:
        """What `function(*args)` returns there; raises what it raises, or WorkerLost.

        The clock starts when the process begins with the function: its start and the way of the arguments do not count.
        """
        self._hand_over((function, args))
        limit = _Limit(self._process, timeout_s)
        try:
            with limit:
                succeeded, result = self._channel.receive()
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
        """Return once a process has begun with the job; ShiboletError when none can be had."""
        for _ in range(MAX_STARTS):
            if self._process is None:
                self._start()
            try:
                with _Limit(self._process, START_S):
                    self._channel.send(job)
                    self._channel.receive()
                return
            except (EOFError, OSError):  # it ended while it was idle, or at its start: nothing that a job did
                self.close()
        raise ShiboletError(
            f"no process that decodes audio starts here: {MAX_STARTS} crashed or took more than {START_S:.0f} s. See "
            "whether the memory is full; with --set audit.num_workers=0 the command decodes by itself"
        )

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        channel = Channel(ours)
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        try:
            with _one_thread(), _deaf_to_interrupts():
                process.start()
        except BaseException:  # there is no process then that `close` could end
            channel.close()
            raise
        finally:
            theirs.close()  # or its end would not be the end of what we read
        self._process, self._channel = process, channel

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._channel.close()
            self._process = self._channel = None


class _Limit:
    """Kills a process when what is done within takes longer: whatever waits for it then reads the end of its pipe.

    Waiting with a timeout would not do: a process that is paused while it is written to, or half-way through its
    answer, blocks the call that moves the bytes.
    """

    def __init__(self, process: multiprocessing.Process, limit_s: float) -> None:
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


class Channel:
    """Objects between two processes; arrays pass beside the pickles, one call of the system each.

    An executor reads its results in steps of 64 KB, for each of which it waits until no other thread runs Python: with
    several hundred megabytes of samples a second, the thread that launches kernels then waits too.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._socket.setblocking(True)

    def send(self, item: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        self._connection.send([len(view) for view in views])
        self._connection.send_bytes(head)
        for view in views:
            self._socket.sendall(view)

    def receive(self) -> Any:
        """The next object; EOFError when the other side has ended."""
        sizes = self._connection.recv()
        head = self._connection.recv_bytes()
        buffers = [np.empty(size, np.uint8) for size in sizes]
        for buffer in buffers:
            filled = 0
            while filled < len(buffer):  # a signal may cut a call short
                got = self._socket.recv_into(buffer[filled:], 0, socket.MSG_WAITALL)
                if not got:
                    raise EOFError
                filled += got
        return pickle.loads(head, buffers=buffers)

    def close(self) -> None:
        self._socket.close()
        self._connection.close()


def _serve(connection: Connection) -> None:
    """What a process does: leave Ctrl-C to its parent, end when that ends, say that a job has come and run it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    channel = Channel(connection)
    while True:
        try:
            function, args = channel.receive()
            channel.send("begun")
        except (EOFError, OSError):  # the parent has ended
            return
        try:
            answer = True, function(*args)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = False, error
        try:
            channel.send(answer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # raised before anything is on its way
            channel.send((False, TypeError(f"{answer[1]!r:.200} cannot be sent: {error}")))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


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


@contextmanager
def worker_threads(num_workers: int | None) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """A `map(function, items)` over `function(worker, item)` that keeps the order and runs little ahead of its reader.

    Each thread owns a process, so one item is with the models while others are decoded; with 0 they decode themselves.
    None is all cores but two, which feed the models. A KeyboardInterrupt does not wait for what is with the models:
    threads and processes are left to the end of this process.
    """
    if num_workers is None:
        num_workers = max(2, min(MAX_WORKERS, (os.cpu_count() or 1) - 2))
    idle: LifoQueue[AnyWorker] = LifoQueue()  # the last first: it is running
    workers = [Worker() for _ in range(num_workers)] or [InThisProcess() for _ in range(2)]
    for worker in workers:
        idle.put(worker)

    def with_worker(function: Callable, item: Any) -> Any:
        worker = idle.get()
        try:
            return function(worker, item)
        finally:
            idle.put(worker)

    pool, waits = ThreadPoolExecutor(len(workers)), True

    def ordered(function: Callable, items: Iterable) -> Iterator:
        ahead: deque[Future] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(with_worker, function, item))
                if len(ahead) > 2 * len(workers):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    try:
        yield ordered
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)
        for worker in workers if waits else ():  # a running thread would take the end of its process for a crash
            worker.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """What a process that is started within finds in its environment when it loads its libraries."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    with _STARTING:
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started within ignores Ctrl-C from its first instruction on, not only once `_serve` is reached."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
