"""Processes of this machine that take one job after another: how they start, how objects pass, how they end. No torch.

What is lost with a process that crashes is for those that started it to say.
"""

import atexit
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import Any

import numpy as np

BESIDE_BYTES = 16_384  # an array from this size on is worth a call of its own
MAX_STARTS = 3  # of a process, one after the other, that ended before it had begun with anything
Outcome = tuple[bool, Any]  # whether a call succeeded, and what it returned or raised
_STARTING = Lock()
_GIVES_WAY = 5  # niceness: a third of the share of a thread that wants the same core


class WorkerLost(Exception):
    """A process that crashed or took too long; `reason` is the ledger's rule for what it was given."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Channel:
    """Objects between two processes; large arrays pass beside the pickles, one call of the system each.

    The pools of the standard library read their results in steps of 64 KB, for each of which they wait until no other
    thread runs Python: with several hundred megabytes of samples a second, the thread that launches kernels then waits.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._socket.setblocking(True)

    def send(self, item: Any) -> None:
        views: list[memoryview] = []

        def stays_within(buffer: pickle.PickleBuffer) -> bool:
            if (view := buffer.raw()).nbytes < BESIDE_BYTES:
                return True
            views.append(view)
            return False

        head = pickle.dumps(item, protocol=5, buffer_callback=stays_within)
        self.connection.send_bytes(pickle.dumps(([len(view) for view in views], head)))
        for view in views:
            self._socket.sendall(view)

    def receive(self) -> Any:
        """The next object; EOFError when the other side has ended."""
        sizes, head = pickle.loads(self.connection.recv_bytes())
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
        self.connection.close()


class Child:
    """A process that runs `serve(connection, *args)`; it ends when it is closed and with its parent."""

    def __init__(self, serve: Callable, *args: Any, environment: Mapping[str, str], has_children: bool = False) -> None:
        """What `environment` names is set before the process loads its libraries."""
        ours, theirs = multiprocessing.Pipe()
        self.channel = Channel(ours)
        make = multiprocessing.get_context("spawn").Process
        self.process = make(target=serve, args=(theirs, *args), daemon=not has_children)
        try:
            with within(environment), deaf_to(signal.SIGINT):
                self.process.start()
        except BaseException:  # there is no process then that `close` could end
            self.channel.close()
            raise
        finally:
            theirs.close()  # or its end would not be the end of what we read
        if has_children:  # then it is no daemon, and the end of this process would wait for it
            atexit.register(self.close)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.channel.close()
        atexit.unregister(self.close)


def leave_signals_to_parent() -> None:
    """What a child does first: Ctrl-C is for its parent, and it ends when that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def give_way() -> None:
    """Have this thread, and those that it starts, leave cores to others on Linux: to the one that launches kernels."""
    if sys.platform == "linux":
        os.nice(_GIVES_WAY)  # there it is of a thread


def attempt(function: Callable, *args: Any) -> Outcome:
    """What a call comes to; an error has its traceback as a note."""
    try:
        return True, function(*args)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return False, error


def sendable(outcome: Outcome) -> Outcome:
    """The same; an error that cannot be sent becomes one that says so."""
    succeeded, result = outcome
    try:
        if not succeeded:
            pickle.loads(pickle.dumps(result))  # some errors can be pickled and not read again
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return False, _not_sent(result, error)
    return outcome


def send_outcome(channel: Channel, outcome: Outcome, *head: Any) -> None:
    """Send (*head, succeeded, result); what cannot be sent becomes an error that says so."""
    succeeded, result = sendable(outcome)
    try:
        channel.send((*head, succeeded, result))
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # raised before anything is on its way
        channel.send((*head, False, _not_sent(result, error)))


def _not_sent(result: Any, error: Exception) -> TypeError:
    return TypeError(f"{result!r:.200} cannot be sent: {error}")


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def within(environment: Mapping[str, str]) -> Iterator[None]:
    """What a process that is started within finds in its environment."""
    with _STARTING:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def deaf_to(*signals: signal.Signals) -> Iterator[None]:
    """What is started within gets none of these signals, from its first instruction on and for good."""
    resource_tracker.ensure_running()  # whose own start within would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
