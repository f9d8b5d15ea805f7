"""Processes that decode, measure and compare for those that listen, one thread each; they start ahead and are kept.

A decoder that crashes or never returns takes its process with it and nothing else. No torch: a process starts in a
second and stays small.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from math import inf
from multiprocessing import Process
from multiprocessing.connection import Connection
from queue import Empty, PriorityQueue
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any

from shibolet.errors import ProcessLost
from shibolet.listen.processes import (
    MAX_STARTS,
    Channel,
    Child,
    WorkerLost,
    attempt,
    give_way,
    leave_signals_to_parent,
    send_outcome,
)
from shibolet.records.cores import usable_cores

MAX_WORKERS = 14  # several hundred seconds of audio a second each: more than any model takes
START_S = 600.0  # for a process to load its libraries and to take a job; a busy machine or a slow disk is no reason
RETRIES = (2, 4)  # limits of an item's second and third try, alone in a new process, in units of its own limit
# For numpy's library. That of torch must not be named here: what a process is started with stands in the environment of
# this one for a moment, in which another thread may be loading torch.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


class Worker:
    """A process that runs functions of modules, one after the other; it starts at the first, and again when lost."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._is_over = False

    def start(self) -> None:
        """Begin to start the process, before the first job needs it."""
        if self._child is None:
            self._child = Child(_serve, environment=ONE_THREAD)

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
            if self._is_over:
                raise ProcessLost("the processes that decode audio were closed while they had work")
            self.start()
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

    def retire(self) -> None:
        """End the process, whatever it is doing, and start no other; for another thread than the one that runs jobs."""
        self._is_over = True
        if (child := self._child) is not None:
            child.process.kill()

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
        self.process, self.limit_s = process, limit_s
        self.end_s = 0.0  # of the clock of `monotonic`

    def __enter__(self) -> None:
        self.end_s = monotonic() + self.limit_s
        _WATCH.add(self)

    def __exit__(self, *_: object) -> None:
        _WATCH.remove(self)  # from here on `passed` does not change


class _Watch:
    """One thread for all limits: a job has two of them."""

    def __init__(self) -> None:
        self._limits: set[_Limit] = set()
        self._looks_s = inf  # when it looks again
        self._changed = Condition()
        self._thread = Thread()

    def add(self, limit: _Limit) -> None:
        with self._changed:
            self._limits.add(limit)
            if not self._thread.is_alive():
                self._thread = Thread(target=self._run, daemon=True)  # it must not hold up the end of this process
                self._thread.start()
            elif limit.end_s < self._looks_s:
                self._changed.notify()

    def remove(self, limit: _Limit) -> None:
        with self._changed:
            self._limits.discard(limit)

    def _run(self) -> None:
        with self._changed:
            while True:
                now_s = monotonic()
                for limit in [limit for limit in self._limits if limit.end_s <= now_s]:
                    limit.passed = True
                    limit.process.kill()
                    self._limits.remove(limit)
                self._looks_s = min((limit.end_s for limit in self._limits), default=inf)
                self._changed.wait(None if self._looks_s == inf else self._looks_s - now_s)


_WATCH = _Watch()


def _serve(connection: Connection) -> None:
    """What a process does: say that a job has come, run it and answer, until its parent ends."""
    leave_signals_to_parent()
    give_way()
    channel = Channel(connection)
    with suppress(EOFError, OSError):
        while True:
            function, args = channel.receive()
            channel.send("begun")
            send_outcome(channel, attempt(function, *args))


class InThisProcess:
    """Runs the same functions in place, for tests and small jobs."""

    def start(self) -> None:
        pass

    def run(self, function: Callable, *args: Any, timeout_s: float) -> Any:
        return function(*args)

    def retire(self) -> None:
        pass

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
    """Workers that share what they are given, in its order; another process that is sent them has its own."""

    def __init__(self, num_workers: int) -> None:
        """0: two threads decode in this process."""
        self.num_workers = num_workers
        self._tasks: PriorityQueue = PriorityQueue()  # of these workers
        self._numbers = count()
        self._workers: list[AnyWorker] = []
        self._threads: list[Thread] = []
        self._changing, self._submitting = Lock(), Lock()

    def __reduce__(self) -> tuple:
        return _of_this_process, (self.num_workers,)

    def start(self, first: Callable[[], Any] | None = None) -> None:
        """Have the processes load their libraries now and call `first`, each in the background; once.

        Not where this process decodes: its models load their own then.
        """
        with self._changing:
            self._start(first if self.num_workers else None)

    def _start(self, first: Callable[[], Any] | None = None) -> None:
        if self._threads:
            return
        self._tasks = PriorityQueue()
        self._workers = [Worker() for _ in range(self.num_workers)] or [InThisProcess() for _ in range(2)]
        # Daemons: what they decode must not hold up the end of this process.
        self._threads = [Thread(target=_work, args=(self._tasks, one, first), daemon=True) for one in self._workers]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[AnyWorker, Any], Any], item: Any, *, first: bool = False) -> Future:
        """`function(worker, item)` by the next worker that is free; `first`: before all that has waited longer."""
        future: Future = Future()
        with self._changing:
            self._start()
            self._tasks.put((not first, next(self._numbers), future, function, item))
        return future

    def map(self, function: Callable[[AnyWorker, Any], Any], items: Iterable, *, first: bool = False) -> Iterator:
        """The same of each item, in order; one is in work while others are, and all before those of a later call."""
        futures: list[Future] = []
        try:
            with self._submitting:
                futures += (self.submit(function, item, first=first) for item in items)
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """End the processes, whatever they are doing, and drop what waits for them; a later job starts new ones."""
        with self._changing:
            if not self._threads:
                return
            threads, self._threads = self._threads, []
            for worker in self._workers:
                worker.retire()
            with suppress(Empty):
                while True:
                    self._tasks.get_nowait()[2].cancel()
            for _ in threads:
                self._tasks.put((False, next(self._numbers), None, None, None))
            for thread in threads if self.num_workers else ():
                thread.join()


def _work(tasks: PriorityQueue, worker: AnyWorker, first: Callable[[], Any] | None) -> None:
    """What a worker's thread does, until it is told that there is nothing more."""
    with suppress(Exception):  # the first job says why no process starts, or what cannot be imported
        worker.start()
        if first is not None:
            worker.run(first, timeout_s=START_S)
    while True:
        *_, future, function, item = tasks.get()
        if future is None:
            return worker.close()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(worker, item))
            except BaseException as error:
                future.set_exception(error)
        del future, item  # large, and the next task may be long in coming


_HERE: dict[int, Decoders] = {}


def _of_this_process(num_workers: int) -> Decoders:
    return _HERE.setdefault(num_workers, Decoders(num_workers))


class Share:
    """Decoders of a process that it is sent to: its share of that machine's cores, or of a number that is given."""

    def __init__(self, num_workers: int | None) -> None:
        self._num_workers = num_workers

    def __reduce__(self) -> tuple:
        return _own_share, (self._num_workers,)


_num_shares = 1  # processes that have decoders on this machine


def share_cores(num_shares: int) -> None:
    """This process is one of so many on its machine."""
    global _num_shares
    _num_shares = num_shares


def _own_share(num_workers: int | None) -> Decoders:
    return _of_this_process(num_decoders(num_workers, _num_shares))


def num_decoders(num_workers: int | None, num_shares: int = 1) -> int:
    """Workers in each of `num_shares` processes; None is all cores but two, which feed the models."""
    if num_workers is None:
        return max(2, min(MAX_WORKERS, (usable_cores() - 2) // num_shares))
    return num_workers and max(1, num_workers // num_shares)
