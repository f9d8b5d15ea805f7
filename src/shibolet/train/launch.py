"""Ranks as processes of this machine: started together, told together to stop, ended together when one dies.

Ranks that wait for their work load libraries, and hold no GPU before they are told to prepare it. `torchrun` and
`accelerate launch` do the same from outside. On several nodes each has a launcher of its own; their ranks find each
other at an address of the main one (`nodes`).
"""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, forkserver, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

from shibolet.errors import Preempted, RankLost, ShiboletError
from shibolet.listen.processes import deaf_to, within
from shibolet.model.outline import family_modules
from shibolet.records.cores import usable_cores
from shibolet.records.files import disk_errors

LOG = logging.getLogger(__name__)

Send = Callable[[Any], None]
_GRACE_S = 10.0  # for the other ranks to report, once one has failed
_PREEMPTED_GRACE_S = 180.0  # to commit a checkpoint and close trackers, once one reports a stop that all agreed on


@dataclass(frozen=True, slots=True)
class Place:
    """This machine among those that train together."""

    node: int = 0  # the main one is 0
    num_nodes: int = 1
    host: str = "127.0.0.1"  # of the main one ...
    port: int = 0  # ... where ranks find each other; 0: any that is free, on one node


ONE_PLACE = Place()


class Ranks:
    """Processes of this machine that become ranks: they start now, and load libraries before there is work for them.

    `get_ready`, which must be importable, is called in each as it starts; what it raises is left to the work to raise.
    """

    def __init__(self, num_ranks: int, *, get_ready: Callable[[], None] | None = None) -> None:
        context = get_context("spawn")
        self.num_ranks = num_ranks
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_run_rank, args=(theirs, rank, num_ranks, get_ready))
            with within({}):  # and nothing that others are given
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def are_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        """End them; those that were never given work do so by themselves, as soon as they are ready."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()

    def prepare(self, function: Callable[[int], None]) -> None:
        """Call `function`, which must be importable, in each with its number here, once it is ready.

        What it raises is left to the work to raise.
        """
        for rank, pipe in enumerate(self._pipes):
            with suppress(ConnectionError):  # it has died, which `run` will find out
                pipe.send(partial(function, rank))

    def run(
        self, work: Callable[[Any, Send], None], job: Any, *, on_cpu: bool, on_message: Callable[[Any], None],
        place: Place = ONE_PLACE,
    ) -> None:  # fmt: skip
        """Run `work(job, send)`, which must be importable, in all of them until all have ended; once.

        What a rank sends goes to `on_message`. SIGTERM and SIGINT are passed on as SIGTERM, a second one kills. Raises
        what the first rank to fail raised, and Preempted when the ranks stopped because they were told to.
        """
        stop = _Forwarder(self._processes)
        try:
            environments = _environment(place, self.num_ranks, on_cpu)
            for pipe, environment in zip(self._pipes, environments, strict=True):
                with suppress(ConnectionError):  # it has died, and is asked for its exit code below
                    pipe.send((environment, work, job))
            failure = _listen(self._processes, self._pipes, on_message)
        finally:
            _kill(self._processes)
            stop.restore()
        if stop.received and not isinstance(failure, ShiboletError):
            failure = Preempted("stopped by a signal; the same command continues from the last checkpoint")
        if failure is not None:
            raise failure


def _listen(ranks: list, pipes: list[Connection], on_message: Callable[[Any], None]) -> Exception | None:
    """Take messages until every rank has ended, or for a while after one failed; what it failed of."""
    failure, grace_s, deadline = None, _GRACE_S, None
    open_pipes = dict(zip(pipes, ranks, strict=True))
    while open_pipes:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        for pipe in connection.wait(list(open_pipes), left_s):
            try:
                message = pipe.recv()
            except (EOFError, ConnectionResetError):  # the second where it has not read its work
                rank = open_pipes.pop(pipe)
                rank.join()
                # Of the one that was killed the others know only that it does not answer.
                is_cause = rank.exitcode == -signal.SIGKILL and not isinstance(failure, ShiboletError)
                if rank.exitcode and (failure is None or is_cause):
                    failure = _death(ranks.index(rank), rank.exitcode)
            else:
                if not isinstance(message, Exception):
                    on_message(message)
                elif failure is None:
                    failure = message
                    grace_s = _PREEMPTED_GRACE_S if isinstance(message, Preempted) else _GRACE_S
        if failure is not None and deadline is None:
            deadline = time.monotonic() + grace_s
        if deadline is not None and time.monotonic() >= deadline:
            break
    return failure


class _Forwarder:
    """Passes signals on to the ranks."""

    def __init__(self, ranks: list) -> None:
        self.received = False
        self._ranks, self._before = ranks, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: object) -> None:
        if self.received:
            _kill(self._ranks)
            return
        self.received = True
        LOG.warning("%s: the ranks stop after this step, with a checkpoint", signal.Signals(number).name)
        for rank in self._ranks:
            if rank.is_alive():
                rank.terminate()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _kill(ranks: list) -> None:
    for number, rank in enumerate(ranks):
        if rank.is_alive():
            LOG.warning("rank %d has not ended by itself and is killed", number)
            rank.kill()
        rank.join()


def _death(rank: int, exit_code: int) -> Exception:
    """What a rank died of that said nothing: a signal to stop does so outside the training loop."""
    if exit_code == RankLost.exit_code:  # `nodes` ended it, and said so
        return RankLost("another node was lost; the same commands go on from the last checkpoint")
    if exit_code > 0:
        return RuntimeError(f"rank {rank} ended with exit code {exit_code}")
    name = signal.Signals(-exit_code).name
    if -exit_code in (signal.SIGTERM, signal.SIGINT):
        return Preempted(f"rank {rank} was stopped by {name}; the same command continues from the last checkpoint")
    why = ", which the system sends where memory runs out" * (name == "SIGKILL")
    return RankLost(
        f"rank {rank} was ended by {name}{why}; the others were stopped, and the same command goes on from the last "
        "checkpoint"
    )


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _environment(place: Place, num_ranks: int, on_cpu: bool) -> list[dict[str, str]]:
    """Of each rank of this machine, as `torchrun` would have it."""
    common = {
        "WORLD_SIZE": str(place.num_nodes * num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": place.host, "MASTER_PORT": str(place.port or _free_port()),
        **({"ACCELERATE_USE_CPU": "true"} if on_cpu else {}),
    }  # fmt: skip
    first = place.node * num_ranks
    return [{**common, "RANK": str(first + local), "LOCAL_RANK": str(local)} for local in range(num_ranks)]


def _run_rank(pipe: Connection, rank: int, num_ranks: int, get_ready: Callable[[], None] | None) -> None:
    os.setsid()  # a Ctrl-C reaches the launcher alone, which passes it on once
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside the training loop it ends a rank as SIGTERM does
    threading.Thread(target=stop_without_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // num_ranks)))
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if get_ready is not None:
        with suppress(Exception):
            get_ready()
    try:
        while callable(given := pipe.recv()):
            with suppress(Exception):
                given()
    except (EOFError, ConnectionResetError):  # there was no work
        return
    environment, work, job = given
    os.environ |= environment
    try:
        with disk_errors():
            work(job, pipe.send)
    except ShiboletError as error:
        pipe.send(error)
        _end(error.exit_code)
    except Exception:
        pipe.send(RuntimeError(f"rank {rank} failed:\n{traceback.format_exc()}"))
        _end(1)
    _end(0)


def _end(exit_code: int) -> None:
    """End this process as Python does, but for taking its modules apart.

    A thread of torch that comes back to Python meanwhile would abort the process (pytorch issue 38228), which looks
    like the loss of a rank.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def begin_to_load_workers() -> ForkServerContext:
    """Have the process that a reader's workers are copies of start, and load libraries while this one does."""
    context = get_context("forkserver")  # this process has threads and a CUDA context, or will
    context.set_forkserver_preload(["shibolet.train.reader", *family_modules()])  # each would take seconds to load them
    with deaf_to(signal.SIGINT, signal.SIGTERM):  # to all processes of a terminal or a job: the step still needs packs
        forkserver.ensure_running()
    return context


def stop_without_parent() -> None:
    """End at the next step, with a checkpoint, when the launcher was killed."""
    connection.wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
