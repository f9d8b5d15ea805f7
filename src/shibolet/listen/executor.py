"""Who hears: this process, or one process for each GPU. A chunk is the unit of work wherever it is heard.

What is computed together is decided by the list and by fixed lengths, never by what arrives first. So a chunk gives the
same bytes in this process, on any of several GPUs and in any job of an array, which hears every n-th chunk of the same
list. Processes share no memory: a chunk names audio by its place wherever the work can decode that by itself.
"""

import gc
import logging
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import Any, Protocol

from shibolet.errors import ProcessLost
from shibolet.listen.decoders import Decoders
from shibolet.listen.processes import (
    MAX_STARTS,
    Channel,
    Child,
    Outcome,
    WorkerLost,
    attempt,
    leave_signals_to_parent,
    send_outcome,
)
from shibolet.records.ahead import Ahead

TRIES = 3  # of a chunk that its process was lost over; the second and third alone, in a fresh process
LOST = "listener_crashed"  # the ledger's rule for what is in a chunk that was given up
_LOG = logging.getLogger(__name__)


class Work(Protocol):
    """What is to be done with each chunk: instructions that can be pickled, by name and place, and no open model.

    Every process opens models on its own device, and finds models, audio and evidence under the same paths: one disk.
    """

    at_once: int  # chunks that one process has in hand

    def open(self) -> AbstractContextManager[Callable[[Any], Any]]:
        """Load what it takes; the result of a chunk, which must not depend on the other ones that are in hand."""
        ...


class Executor(Protocol):
    """Who does the work. A cluster would be a third one."""

    num_processes: int

    def begin(self, work: Work) -> None:
        """Open a work in the background; the next one finds loaded what both need, or fails as this one did."""
        ...

    def decoders(self, num_workers: int) -> Decoders:
        """Workers of this process, the same ones until it is closed."""
        ...

    def map(self, work: Work, chunks: Iterable) -> Iterator:
        """The result of each chunk in order, WorkerLost in the place of one that was given up.

        It runs little ahead of its reader. Raises what the work raises.
        """
        ...

    def close(self) -> None:
        """Let go of the processes and what they have loaded; the next `map` starts new ones."""
        ...


class _KeepsDecoders:
    """Workers that decode are there from one work to the next."""

    _decoders: Decoders | None = None

    def decoders(self, num_workers: int) -> Decoders:
        if self._decoders is None or self._decoders.num_workers != num_workers:
            self._close_decoders()
            self._decoders = Decoders(num_workers)
        return self._decoders

    def _close_decoders(self) -> None:
        if self._decoders is not None:
            self._decoders.close()


class Here(_KeepsDecoders):
    """This process."""

    num_processes = 1

    def __init__(self, decoders: Decoders | None = None) -> None:
        self._decoders = decoders
        self._opening: Ahead[None] | None = None

    def begin(self, work: Work) -> None:
        self._opening = Ahead(partial(_open_and_close, work))

    def map(self, work: Work, chunks: Iterable) -> Iterator:
        with work.open() as do:
            yield from in_threads(do, chunks, work.at_once)

    def close(self) -> None:
        self._close_decoders()
        if self._opening is not None and sys.exc_info()[1] is None:  # after an error nobody needs what it loads
            self._opening.wait()
            self._opening = None


def _open_and_close(work: Work) -> None:
    with suppress(Exception), work.open():  # who needs what it opens has the same error
        pass


def in_threads(function: Callable, items: Iterable, num_threads: int) -> Iterator:
    """`function` of each item in order, running little ahead of the reader; with one thread, in this one.

    A KeyboardInterrupt does not wait for what the threads have in hand: they are left to the end of this process.
    """
    if num_threads == 1:
        yield from map(function, items)
        return
    pool, waits = ThreadPoolExecutor(num_threads), True
    ahead: deque[Future] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)


@dataclass(slots=True)
class _Task:
    number: int
    chunk: Any
    num_lost: int = 0  # processes


@dataclass(slots=True)
class _Run:
    """One `map`: what is still to be handed out, and results that wait for their turn."""

    work: Work
    chunks: Iterator[tuple[int, Any]]
    again: deque[_Task] = field(default_factory=deque)  # handed to a process that ended before it began
    suspects: deque[_Task] = field(default_factory=deque)  # in hand when a process was lost
    results: dict[int, Any] = field(default_factory=dict)

    def take(self) -> _Task | None:
        """The next chunk; None where all have been handed out."""
        if self.again:
            return self.again.popleft()
        number, chunk = next(self.chunks, (None, None))
        return None if number is None else _Task(number, chunk)


class Processes(_KeepsDecoders):
    """One process for each of `environments`, which say what it sees, such as one GPU; they start at their first work.

    A process keeps what it has loaded from one `map` to the next, as far as that takes it too.
    """

    def __init__(
        self,
        environments: Sequence[dict[str, str]],
        num_threads: int | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        """`num_threads` of torch on the CPU in each; None: torch's choice. `decoders`: of this process."""
        self._decoders = decoders
        self.num_processes = len(environments)
        self._peers = [_Peer(environment, num_threads) for environment in environments]

    def begin(self, work: Work) -> None:
        self._make_room()
        for peer in self._peers:
            peer.tell(work)

    def _make_room(self) -> None:
        """Free what training has left in this process, before processes start that need the memory."""
        if not any(peer.has_started for peer in self._peers):
            _free_memory()

    def map(self, work: Work, chunks: Iterable) -> Iterator:
        run = _Run(work, enumerate(chunks))
        self._make_room()
        try:
            for number in count():
                self._hand_out(run)
                while number not in run.results:
                    busy = {peer.connection: peer for peer in self._peers if peer.tasks}
                    if not busy:
                        return
                    for connection in wait(list(busy)):
                        busy[connection].receive(run)
                    self._hand_out(run)
                yield run.results.pop(number)
        finally:
            if any(peer.tasks for peer in self._peers):  # an error, an interrupt, or a reader that has had enough
                self._close_peers()

    def _hand_out(self, run: _Run) -> None:
        while run.suspects and (idle := [peer for peer in self._peers if not peer.tasks]):
            idle[0].hand(run.suspects.popleft(), run.work)
        while free := [peer for peer in self._peers if peer.has_room(run.work)]:
            num_ahead = len(run.results) + len(run.suspects) + sum(len(peer.tasks) for peer in self._peers)
            if num_ahead > 2 * self.num_processes * run.work.at_once or (task := run.take()) is None:
                return
            min(free, key=lambda peer: peer.in_hand).hand(task, run.work)

    def close(self) -> None:
        self._close_decoders()
        self._close_peers()

    def _close_peers(self) -> None:
        for peer in self._peers:
            peer.close()


class _Peer:
    """One of the processes, as the one that hands out sees it."""

    def __init__(self, environment: dict[str, str], num_threads: int | None) -> None:
        self.tasks: dict[int, _Task] = {}  # in hand
        self._environment, self._num_threads = environment, num_threads
        self._child: Child | None = None
        self._work: Work | None = None  # that it was told last
        self._num_opening = 0  # works that it was told and has not yet loaded
        self._num_starts = 0  # in a row that came to nothing

    @property
    def has_started(self) -> bool:
        return self._child is not None

    @property
    def connection(self) -> Connection:
        return self._child.channel.connection

    @property
    def in_hand(self) -> tuple[int, int]:
        """What it has to do, in items of chunks that have any, and in chunks."""
        return sum(len(t.chunk) for t in self.tasks.values() if isinstance(t.chunk, Sized)), len(self.tasks)

    def has_room(self, work: Work) -> bool:
        return len(self.tasks) < work.at_once and not any(task.num_lost for task in self.tasks.values())

    def tell(self, work: Work) -> None:
        """Have it open the work, in a process that starts now if there is none."""
        if self._child is None:
            self._child = Child(_serve, self._num_threads, environment=self._environment, has_children=True)
        if self._work is not work:
            self._work, self._num_opening = work, self._num_opening + 1
            self._send((None, work))

    def hand(self, task: _Task, work: Work) -> None:
        self.tell(work)
        self.tasks[task.number] = task
        self._send((task.number, task.chunk))

    def _send(self, message: tuple) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: `receive` finds out
            self._child.channel.send(message)

    def receive(self, run: _Run) -> None:
        """Take one message, or its end; raises what the work raised, and ProcessLost when no process starts."""
        try:
            number, succeeded, result = self._child.channel.receive()
        except (EOFError, OSError):
            self._count_lost(run)
            return
        if not succeeded:
            raise result
        if number is None:
            self._num_opening, self._num_starts = self._num_opening - 1, 0
        else:
            del self.tasks[number]
            run.results[number] = result

    def _count_lost(self, run: _Run) -> None:
        tasks, had_begun = list(self.tasks.values()), not self._num_opening
        self.close()
        if not had_begun:  # nothing that a chunk did
            self._num_starts += 1
            if self._num_starts == MAX_STARTS:
                raise ProcessLost(
                    f"no process that listens starts here: {MAX_STARTS} crashed while they loaded their models. See "
                    "whether the memory is full; with CUDA_VISIBLE_DEVICES=0 one GPU is used, without other processes"
                )
        for task in tasks:
            task.num_lost += had_begun
            if task.num_lost == TRIES:
                run.results[task.number] = WorkerLost(
                    LOST, f"the process that heard it crashed in {TRIES} tries; the next run tries again"
                )
            else:
                (run.suspects if task.num_lost else run.again).append(task)
        if had_begun:
            _LOG.warning("a process was lost; what it had in hand (%d chunks) is tried again", len(tasks))

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = self._work = None
        self._num_opening = 0
        self.tasks = {}


def _serve(connection: Connection, num_threads: int | None) -> None:
    """What a process does: open each work that it is told, say so, and answer chunks in whichever order they end."""
    leave_signals_to_parent()
    # Locks that libraries make, such as tqdm's, are then known to nobody else: a killed process leaves none behind.
    multiprocessing.set_start_method("fork", force=True)
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    if num_threads:
        import torch

        torch.set_num_threads(num_threads)
    channel, sending, opened = Channel(connection), Lock(), ExitStack()
    pool, opening = None, None

    def send(outcome: Outcome, number: int | None) -> None:
        with sending, suppress(OSError):  # the parent has ended
            send_outcome(channel, outcome, number)

    def begin(work: Work) -> Callable:
        opened.close()  # after the next work has come: it keeps the models that both need
        _free_memory()
        succeeded, do = attempt(opened.enter_context, work.open())
        send((succeeded, None if succeeded else do), None)
        return do

    def answer(opening: Future, number: int, chunk: Any) -> None:
        send(attempt(opening.result(), chunk), number)

    with suppress(EOFError, OSError):
        while True:  # reading goes on while models load: the parent has other processes to feed
            number, given = channel.receive()
            if number is not None:
                pool.submit(answer, opening, number, given)
                continue
            if pool is not None:
                pool.shutdown()
            opening = None  # the models of before
            pool = ThreadPoolExecutor(given.at_once)
            opening = pool.submit(begin, given)


def _free_memory() -> None:
    gc.collect()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def local_executor(num_threads: int | None = None, decoders: Decoders | None = None) -> Executor:
    """All GPUs that this process sees, a process each; with one or none, this process. It goes on with `decoders`."""
    import torch

    if (num_gpus := torch.cuda.device_count()) < 2:
        return Here(decoders)
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name] or range(num_gpus)
    return Processes([{"CUDA_VISIBLE_DEVICES": str(name)} for name in list(seen)[:num_gpus]], num_threads, decoders)
