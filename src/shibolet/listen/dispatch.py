"""Chunks are handed to several processes, and their results come back in order. What a process is, it does not know.

A chunk that was in hand when a process was lost is tried again alone. One that loses its process in three tries is
split, where the work says how, until the item at fault stands alone; only that is given up. A process that ended with
its whole machine says nothing of the chunk: such a loss is taken back.
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, runtime_checkable

from shibolet.errors import DataError
from shibolet.listen.processes import WorkerLost

TRIES = 3  # of a chunk that its process was lost over; the second and third alone, in a fresh process
LOST = "listener_crashed"  # the ledger's rule for what was given up


class Work(Protocol):
    """What is to be done with each chunk: instructions that can be pickled, by name and place, and no open model.

    Every process opens models on its own device, and finds models and audio under the same paths.
    """

    at_once: int  # chunks that one process has in hand

    def open(self) -> AbstractContextManager[Callable[[Any], Any]]:
        """Load what it takes; the result of a chunk, which must not depend on the other ones that are in hand."""
        ...


@runtime_checkable
class Kept(Protocol):
    """A work of which results are put on disk as they come, in any order, by the process that hands out."""

    def keep(self, result: Any) -> Any:
        """Put it on disk; what its reader is given in its place."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """A work whose chunks can be split."""

    def split(self, chunk: Any) -> Sequence[Any]:
        """Smaller chunks; one or none where it cannot be smaller."""
        ...

    def join(self, parts: Sequence[tuple[Any, Any]]) -> Any:
        """The result of the whole from its parts, each with its result or WorkerLost."""
        ...


UNSEEN = "missing_file"  # the reason of an `AudioError` that may be the machine's


def require_seen(paths: Iterable[str]) -> None:
    """DataError for a file that is here, and was not found by who was to read it: that is no fault of the file."""
    for path in paths:
        if os.path.exists(path):
            raise DataError(
                f"{path} was not found where it was to be heard, and is there for this process; every node needs the "
                "audio under the same path. Mend that, and run the same command again"
            )


@dataclass(slots=True, eq=False)
class Task:
    number: int  # whose turn it is, or which part
    chunk: Any
    part_of: "_Parts | None" = None
    lost_at: list[str] = field(default_factory=list)  # places of the processes that were lost over it


@dataclass(slots=True)
class _Parts:
    """A task that was split, and the results of its parts as far as they have come."""

    task: Task
    chunks: Sequence[Any]
    results: dict[int, Any] = field(default_factory=dict)


class Run:
    """One `map`: what is still to be handed out, and results that wait for their turn."""

    def __init__(self, work: Work, chunks: Iterable) -> None:
        self.work = work
        self.results: dict[int, Any] = {}
        self.suspects: deque[Task] = deque()  # in hand when a process was lost
        self._chunks = iter(chunks)
        self._waiting: deque[Task] = deque()
        self._num_taken = 0

    @property
    def waits(self) -> bool:
        """Whether a chunk that was taken from the list is in no hand."""
        return bool(self._waiting)

    def take(self) -> Task | None:
        """The next chunk; None where all have been handed out."""
        if not self._waiting and not self._take_one():
            return None
        return self._waiting.popleft()

    def has(self, number: int) -> bool:
        """Whether there is such a chunk at all."""
        return number < self._num_taken or self._take_one()

    def _take_one(self) -> bool:
        for chunk in self._chunks:
            self._waiting.append(Task(self._num_taken, chunk))
            self._num_taken += 1
            return True
        return False

    def succeed(self, task: Task, result: Any) -> None:
        self._deliver(task, self.work.keep(result) if isinstance(self.work, Kept) else result)

    def put_back(self, task: Task) -> None:
        """It was handed to a process that ended before it began with anything."""
        (self.suspects if task.lost_at else self._waiting).append(task)

    def lose(self, task: Task, place: str) -> None:
        """A process at this place was lost while it had the task in hand."""
        task.lost_at.append(place)
        if len(task.lost_at) < TRIES:
            self.suspects.append(task)
            return
        chunks = self.work.split(task.chunk) if isinstance(self.work, Divisible) else ()
        if len(chunks) < 2:
            detail = f"the process that heard it crashed in {TRIES} tries; the next run tries again"
            self._deliver(task, WorkerLost(LOST, detail))
            return
        parts = _Parts(task, chunks)  # each is tried once: the whole has shown that this is no chance
        self.suspects.extend(Task(i, chunk, parts, task.lost_at[1:]) for i, chunk in enumerate(chunks))

    def forgive(self, place: str, in_hand: Iterable[Task]) -> None:
        """All of this place ended: what was lost there was no fault of a chunk."""
        for task in (*self.suspects, *in_hand):
            task.lost_at = [other for other in task.lost_at if other != place]
        self._waiting.extend(task for task in self.suspects if not task.lost_at)
        self.suspects = deque(task for task in self.suspects if task.lost_at)

    def _deliver(self, task: Task, result: Any) -> None:
        if (parts := task.part_of) is None:
            self.results[task.number] = result
            return
        parts.results[task.number] = result
        if len(parts.results) == len(parts.chunks):
            self._deliver(parts.task, self.work.join([(one, parts.results[i]) for i, one in enumerate(parts.chunks)]))


class Peer(ABC):
    """One of the processes, as the one that hands out sees it."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}  # in hand, by a number of this peer's
        self._numbers = count()

    @property
    def in_hand(self) -> tuple[int, int]:
        """What it has to do, in items of chunks that have any, and in chunks."""
        return sum(len(t.chunk) for t in self.tasks.values() if isinstance(t.chunk, Sized)), len(self.tasks)

    def has_room(self, work: Work) -> bool:
        return len(self.tasks) < work.at_once and not any(task.lost_at for task in self.tasks.values())

    def hand(self, task: Task, work: Work) -> None:
        number = next(self._numbers)
        self.tasks[number] = task
        self._send(number, task.chunk, work)

    @abstractmethod
    def _send(self, number: int, chunk: Any, work: Work) -> None:
        """Have it begin; that it has ended comes to light where its answer is waited for."""


class Dispatcher(ABC):
    """An executor of several processes."""

    @property
    @abstractmethod
    def _ready(self) -> Sequence[Peer]:
        """Those that can be given chunks now."""

    @abstractmethod
    def _prepare(self, work: Work) -> None:
        """Before chunks are handed out."""

    @abstractmethod
    def _receive(self, run: Run) -> None:
        """Wait for something to happen, and note in `run` what came and what was lost; raises what the work raised."""

    @abstractmethod
    def _abandon(self) -> None:
        """End all processes with what they have in hand."""

    def map(self, work: Work, chunks: Iterable) -> Iterator:
        run = Run(work, chunks)
        self._prepare(work)
        try:
            for number in count():
                while number not in run.results:
                    if not run.has(number):
                        return
                    self._hand_out(run)
                    self._receive(run)
                self._hand_out(run)
                yield run.results.pop(number)
        finally:
            if any(peer.tasks for peer in self._ready):  # an error, an interrupt, or a reader that has had enough
                self._abandon()

    def _hand_out(self, run: Run) -> None:
        peers = self._ready
        while run.suspects and (idle := [peer for peer in peers if not peer.tasks]):
            idle[0].hand(run.suspects.popleft(), run.work)
        least = min(peers, key=lambda peer: peer.in_hand, default=None) if run.suspects else None
        while free := [peer for peer in peers if peer is not least and peer.has_room(run.work)]:
            num_ahead = len(run.results) + len(run.suspects) + sum(len(peer.tasks) for peer in peers)
            if num_ahead > 2 * len(peers) * run.work.at_once and not run.waits:
                return
            if (task := run.take()) is None:
                return
            min(free, key=lambda peer: peer.in_hand).hand(task, run.work)
