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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import LifoQueue
from threading import Lock, Thread
from typing import Any

import numpy as np

from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.evidence import to_line
from shibolet.audit.signals import measure
from shibolet.errors import AudioError
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.files import hash_json
from shibolet.records.utterance import AudioRef
from shibolet.speech.activity import Sound, sound_of
from shibolet.speech.audio import content_hash

MAX_WORKERS = 14  # several hundred seconds of audio a second each: more than any model takes
MIN_SAMPLES = 1600  # a tenth of a second is the least that every listener takes
Load = Callable[[AudioRef], np.ndarray]
Decoded = tuple[np.ndarray, Sound]
_STARTING = Lock()


class WorkerLost(Exception):
    """A process that crashed or took too long; `reason` is the ledger's rule for what it was given."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Worker:
    """A process that runs functions of modules, one after the other; it starts at the first, and again when lost."""

    def __init__(self) -> None:
        self._process: multiprocessing.Process | None = None
        self._channel: Channel | None = None

    def run(self, function: Callable, *args: Any, timeout_s: float) -> Any:
        """What `function(*args)` returns there; raises what it raises, or WorkerLost."""
        if self._process is None:
            self._start()
        try:
            self._channel.send((function, args))
            if self._channel.wait(timeout_s):
                succeeded, result = self._channel.receive()
                if succeeded:
                    return result
                raise result
            lost = WorkerLost("decoder_hung", f"not decoded after {timeout_s:.0f} s")
        except (EOFError, ConnectionError):
            lost = WorkerLost("decoder_crashed", "the process that decoded it crashed")
        self.close()
        raise lost

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        with _one_thread(), _deaf_to_interrupts():
            self._process.start()
        theirs.close()  # or its end would not be the end of what we read
        self._channel = Channel(ours)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._channel.close()
            self._process = self._channel = None


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

    def wait(self, timeout_s: float) -> bool:
        """Whether something has come in that time, be it the other side's end."""
        return self._connection.poll(timeout_s)

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
    """What a process does: leave Ctrl-C to its parent, end when that ends, and run what comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    channel = Channel(connection)
    while True:
        try:
            function, args = channel.receive()
        except (EOFError, ConnectionError):  # the parent has ended
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


def run_each(worker: AnyWorker, function: Callable, items: Sequence, timeout_s: float) -> list:
    """`function(items)`; when that loses its process, one item after the other, WorkerLost for those that do it."""
    try:
        return worker.run(function, items, timeout_s=timeout_s)
    except WorkerLost as lost:
        if len(items) == 1:
            return [lost]
    return [result for item in items for result in run_each(worker, function, [item], timeout_s)]


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
    """Samples of each clip with what energy says of them, or why there are none; the same array for the same audio."""
    samples_of: dict[AudioRef, Decoded | AudioError] = {}
    return [_decode(clip, load, samples_of) for clip in clips]


def _decode(clip: Clip, load: Load, samples_of: dict[AudioRef, Decoded | AudioError]) -> Decoded | Evidence:
    if clip.audio not in samples_of:
        try:
            samples = load(clip.audio)
            samples_of[clip.audio] = (samples, sound_of(samples))
        except AudioError as error:
            samples_of[clip.audio] = error
    decoded = samples_of[clip.audio]
    if isinstance(decoded, AudioError):
        # Without the place, which is no part of what was heard.
        return Evidence(key=clip.key, failure=decoded.reason, detail=str(decoded.__cause__ or decoded))
    samples, sound = decoded
    if clip.change_audio:
        samples = clip.change_audio(samples, _rng(clip))
        sound = sound_of(samples)
    if len(samples) < MIN_SAMPLES:
        return Evidence(key=clip.key, failure="too_short", detail=f"{sound.duration_s:.2f} s of audio")
    return samples, sound


def weigh(jobs: Sequence[tuple[Clip, Sound, Alignment, Hearing]]) -> list[bytes]:
    """The line of each clip for the store: its evidence as it is, kind "", and under each change of its times."""
    found = []
    for clip, sound, alignment, hearing in jobs:
        row = {"": _evidence(clip, sound, alignment, hearing)}
        for kind, change in clip.change_times.items():
            row[kind] = _evidence(clip, sound, change(alignment, sound.duration_s, _rng(clip)), hearing)
        found.append(to_line(row))
    return found


def _evidence(clip: Clip, sound: Sound, alignment: Alignment, hearing: Hearing) -> Evidence:
    signals = measure(sound, clip.words, clip.verifiable, alignment, hearing)
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in signals.to_json().items()}
    return Evidence(
        key=clip.key,
        hypothesis=hearing.hypothesis,
        starts_s=tuple(round(float(t), 3) for t in alignment.starts_s),
        ends_s=tuple(round(float(t), 3) for t in alignment.ends_s),
        signals=replace(signals, **rounded),
    )


def _rng(clip: Clip) -> np.random.Generator:
    """Chance from the clip's own content."""
    return np.random.default_rng(int(clip.content_id(""), 16))
