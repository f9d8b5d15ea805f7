"""Who hears: this process, or one process for each GPU. A chunk is the unit of work wherever it is heard.

What is computed together is decided by the list and by fixed lengths, never by what arrives first. So a chunk gives the
same bytes in this process, on any of several GPUs, on any node of a cluster and in any job of an array, which hears
every n-th chunk of the same list. Processes share no memory: a chunk names audio by its place wherever the work can
decode that by itself.
"""

import gc
import logging
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import Any, Protocol

from shibolet.errors import ProcessLost
from shibolet.listen.decoders import Decoders, num_decoders
from shibolet.listen.dispatch import Dispatcher, Kept, Peer, Run, Work
from shibolet.listen.processes import (
    MAX_STARTS,
    Channel,
    Child,
    Outcome,
    attempt,
    leave_signals_to_parent,
    send_outcome,
)
from shibolet.model.gpus import num_gpus
from shibolet.records.ahead import Ahead

HERE = "this machine"  # where every process of `Processes` is
_LOG = logging.getLogger(__name__)


class Executor(Protocol):
    """Who does the work: this process, several of this machine, or those of a cluster (`on_ray`)."""

    num_processes: int
    has_gpus: bool | None  # of those that hear; None: what this process has
    is_elsewhere: bool  # whether those that hear are on other machines: then these read all audio, and not this one

    def begin(self, work: Work) -> None:
        """Open a work in the background; the next one finds loaded what both need, or fails as this one did."""
        ...

    def decoders(self, num_workers: int) -> Decoders:
        """Workers of this process, the same ones until it is closed."""
        ...

    def share(self, num_workers: int | None) -> Decoders:
        """Workers for a work: of each process its own, a share of what a machine has; None: all that it has."""
        ...

    def map(self, work: Work, chunks: Iterable) -> Iterator:
        """The result of each chunk in order, WorkerLost in the place of one that was given up.

        It runs little ahead of its reader. Raises what the work raises.
        """
        ...

    def close(self) -> None:
        """Let go of the processes and what they have loaded; the next `map` starts new ones."""
        ...


class KeepsDecoders:
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


class Here(KeepsDecoders):
    """This process."""

    num_processes, has_gpus, is_elsewhere = 1, None, False

    def __init__(self, decoders: Decoders | None = None) -> None:
        self._decoders = decoders
        self._opening: Ahead[None] | None = None

    def begin(self, work: Work) -> None:
        self._opening = Ahead(partial(_open_and_close, work))

    def share(self, num_workers: int | None) -> Decoders:
        return self.decoders(num_decoders(num_workers))

    def map(self, work: Work, chunks: Iterable) -> Iterator:
        with work.open() as do:
            done = (lambda chunk: work.keep(do(chunk))) if isinstance(work, Kept) else do
            yield from in_threads(done, chunks, work.at_once)

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


class Processes(KeepsDecoders, Dispatcher):
    """One process for each of `environments`, which say what it sees, such as one GPU; they start at their first work.

    A process keeps what it has loaded from one `map` to the next, as far as that takes it too.
    """

    is_elsewhere = False

    def __init__(
        self,
        environments: Sequence[dict[str, str]],
        num_threads: int | None = None,
        decoders: Decoders | None = None,
        has_gpus: bool | None = None,
    ) -> None:
        """`num_threads` of torch on the CPU in each; None: torch's choice. `decoders`: of this process."""
        self._decoders, self.has_gpus = decoders, has_gpus
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

    @property
    def _ready(self) -> "Sequence[_Peer]":
        return self._peers

    def _prepare(self, work: Work) -> None:
        self._make_room()

    def _receive(self, run: Run) -> None:
        busy = {peer.connection: peer for peer in self._peers if peer.tasks}
        for connection in wait(list(busy)):
            busy[connection].receive(run)

    def share(self, num_workers: int | None) -> Decoders:
        return Decoders(num_decoders(num_workers, self.num_processes))

    def close(self) -> None:
        self._close_decoders()
        self._abandon()

    def kill(self) -> None:
        """Have those that hear end, which takes a second where a GPU is let go of; `close` waits for it."""
        for peer in self._peers:
            peer.kill()

    def _abandon(self) -> None:
        self.kill()  # all of them, before one is waited for
        for peer in self._peers:
            peer.close()


class _Peer(Peer):
    """A process of this machine."""

    def __init__(self, environment: dict[str, str], num_threads: int | None) -> None:
        super().__init__()
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

    def tell(self, work: Work) -> None:
        """Have it open the work, in a process that starts now if there is none."""
        if self._child is None:
            self._child = Child(_serve, self._num_threads, environment=self._environment, has_children=True)
        if self._work is not work:
            self._work, self._num_opening = work, self._num_opening + 1
            self._post((None, work))

    def _send(self, number: int, chunk: Any, work: Work) -> None:
        self.tell(work)
        self._post((number, chunk))

    def _post(self, message: tuple) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: `receive` finds out
            self._child.channel.send(message)

    def receive(self, run: Run) -> None:
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
            run.succeed(self.tasks.pop(number), result)

    def _count_lost(self, run: Run) -> None:
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
            if had_begun:
                run.lose(task, HERE)
            else:
                run.put_back(task)
        if had_begun:
            _LOG.warning("a process was lost; what it had in hand (%d chunks) is tried again", len(tasks))

    def kill(self) -> None:
        if self._child is not None:
            self._child.process.kill()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = self._work = None
        self._num_opening = 0
        self.tasks = {}


class Opened:
    """The work that a process has open; the next one keeps the models that both need."""

    def __init__(self) -> None:
        self._opened = ExitStack()

    def begin(self, work: Work) -> Outcome:
        """Close the one before, which has come to its end, and open this; what does its chunks, or an error."""
        self._opened.close()  # after the next work has come: it keeps the models that both need
        _free_memory()
        return attempt(self._opened.enter_context, work.open())


def _serve(connection: Connection, num_threads: int | None) -> None:
    """What a process does: open each work that it is told, say so, and answer chunks in whichever order they end."""
    leave_signals_to_parent()
    # Locks that libraries make, such as tqdm's, are then known to nobody else: a killed process leaves none behind.
    multiprocessing.set_start_method("fork", force=True)
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    if num_threads:
        import torch

        torch.set_num_threads(num_threads)
    channel, sending, opened = Channel(connection), Lock(), Opened()
    pool, opening = None, None

    def send(outcome: Outcome, number: int | None) -> None:
        with sending, suppress(OSError):  # the parent has ended
            send_outcome(channel, outcome, number)

    def begin(work: Work) -> Callable:
        succeeded, do = opened.begin(work)
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
        import torch  # to its end, where another thread has begun

        torch.cuda.empty_cache()


def local_executor(num_threads: int | None = None, decoders: Decoders | None = None) -> Executor:
    """All GPUs that this process sees, a process each; with one or none, this process. It goes on with `decoders`."""
    if (num := num_gpus()) < 2:
        return Here(decoders)
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name] or range(num)
    environments = [{"CUDA_VISIBLE_DEVICES": str(name)} for name in list(seen)[:num]]
    return Processes(environments, num_threads, decoders, has_gpus=True)
