"""Processes that decode: what is their time and what is not, and what is lost with one."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from shibolet.listen import decoders as module
from shibolet.listen.decoders import AnyWorker, Decoders, Worker, num_decoders, run_each
from shibolet.listen.processes import WorkerLost


def test_a_worker_raises_what_its_function_raises() -> None:
    """A defect of ours has to look like one, and not like bad audio."""
    worker = Worker()
    try:
        with pytest.raises(ZeroDivisionError):
            worker.run(divmod, 1, 0, timeout_s=600)
        with pytest.raises(WorkerLost, match="crashed"):
            worker.run(os._exit, 3, timeout_s=600)
        assert worker.run(divmod, 7, 2, timeout_s=600) == (3, 1)
    finally:
        worker.close()


def test_a_process_that_cannot_be_started_is_told_by_its_own_error(monkeypatch) -> None:
    """What closes the worker afterwards must not hide the reason behind an error of its own."""

    def refuse(self) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", refuse)
    worker = Worker()
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    try:
        with pytest.raises(BlockingIOError, match="temporarily"):
            worker.run(divmod, 7, 2, timeout_s=600)
    finally:
        worker.close()
    assert open_files is None or len(os.listdir("/proc/self/fd")) == open_files
    monkeypatch.undo()
    try:
        assert worker.run(divmod, 7, 2, timeout_s=600) == (3, 1), "a later try starts one"
    finally:
        worker.close()


def double_or_hang(items: Sequence[int]) -> list[int]:
    if 2 in items:
        signal.pause()
    return [2 * item for item in items]


def test_what_is_lost_together_is_tried_alone_with_more_time_each_time() -> None:
    """Neighbours of a clip that hangs must not be lost with it."""
    worker, limits = Worker(), []

    class Noted:
        def run(self, function, items, *, timeout_s):
            limits.append((list(items), timeout_s))
            return worker.run(function, items, timeout_s=timeout_s)

    try:
        found = run_each(Noted(), double_or_hang, [1, 2, 3], lambda items: 0.25 if 2 in items else 600.0)
    finally:
        worker.close()
    assert found[::2] == [2, 6] and isinstance(found[1], WorkerLost) and found[1].reason == "decoder_hung"
    assert str(found[1]) == "not decoded within 1 s in 3 tries; the next audit tries again"
    assert limits == [([1, 2, 3], 0.25), ([1], 1200.0), ([2], 0.5), ([2], 1.0), ([3], 1200.0)]


def serve_late(connection) -> None:
    """A process that starts as slowly as the test wants."""
    folder = Path(os.environ["STARTS_IN"])
    while not (folder / "go").exists():
        time.sleep(0.01)
    (folder / "started").touch()
    module._serve(connection)


def test_the_start_of_a_process_is_not_the_time_of_its_job(tmp_path: Path, monkeypatch) -> None:
    """On a busy machine a process takes many seconds to load its libraries."""
    limits = []

    class NoTimer:
        def __init__(self, limit_s, kill) -> None:
            self.limit_s, self.daemon = limit_s, False

        def start(self) -> None:
            limits.append((self.limit_s, (tmp_path / "started").exists()))
            (tmp_path / "go").touch()

        def cancel(self) -> None:
            pass

        join = cancel

    monkeypatch.setenv("STARTS_IN", str(tmp_path))
    monkeypatch.setattr(module, "_serve", serve_late)
    monkeypatch.setattr(module, "Timer", NoTimer)
    worker = Worker()
    try:
        assert worker.run(divmod, 7, 2, timeout_s=0.001) == (3, 1)
    finally:
        worker.close()
    assert limits == [(module.START_S, False), (0.001, True)]


def test_an_interrupt_does_not_wait_for_what_is_with_the_models() -> None:
    running, left, ended = Event(), Event(), Event()

    def busy(worker: AnyWorker, item: int) -> None:
        running.set()
        if left.wait(30):
            ended.set()

    def until_interrupted() -> Iterator[int]:
        yield 0
        assert running.wait(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), closing(Decoders(0)) as decoders:
        list(decoders.map(busy, until_interrupted()))
    left.set()
    assert ended.wait(30), "the interrupt waited until the listening was over"


def test_processes_that_hear_share_the_cores(monkeypatch) -> None:
    """Eight GPUs must not start eight times as many decoders as one; whoever decodes itself goes on so."""
    monkeypatch.setattr("os.cpu_count", lambda: 34)
    assert [num_decoders(None, shares) for shares in (1, 4, 32)] == [14, 8, 2]
    assert [num_decoders(6, shares) for shares in (1, 2, 8)] == [6, 3, 1] and num_decoders(0, 4) == 0
