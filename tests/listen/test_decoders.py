"""Processes that decode: what is their time and what is not, and what is lost with one."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from threading import Barrier, Event, Thread, active_count

import numpy as np
import pytest

from shibolet.errors import ProcessLost
from shibolet.listen import decoders as module
from shibolet.listen.decoders import AnyWorker, Decoders, Worker, num_decoders, run_each
from shibolet.listen.processes import BESIDE_BYTES, Channel, WorkerLost


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


FIRST: list[int] = []


def note_and_fail() -> None:
    FIRST.append(os.getpid())
    raise ImportError("which the first job would say too")


def noted(_: object) -> bool:
    return FIRST == [os.getpid()]


def test_each_process_calls_what_it_is_told_before_its_first_job() -> None:
    with closing(Decoders(2)) as decoders:
        decoders.start(note_and_fail)
        met = Barrier(2)  # so that both take one

        def ask(worker: AnyWorker, item: int) -> bool:
            met.wait(600)
            return worker.run(noted, item, timeout_s=600)

        assert list(decoders.map(ask, [1, 2])) == [True, True]


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

    class Unwatched:
        def add(self, limit) -> None:
            limits.append((limit.limit_s, (tmp_path / "started").exists()))
            (tmp_path / "go").touch()

        def remove(self, limit) -> None:
            pass

    monkeypatch.setenv("STARTS_IN", str(tmp_path))
    monkeypatch.setattr(module, "_serve", serve_late)
    monkeypatch.setattr(module, "_WATCH", Unwatched())
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
    monkeypatch.setattr("shibolet.listen.decoders.usable_cores", lambda: 34)
    assert [num_decoders(None, shares) for shares in (1, 4, 32)] == [14, 8, 2]
    assert [num_decoders(6, shares) for shares in (1, 2, 8)] == [6, 3, 1] and num_decoders(0, 4) == 0


def test_all_workers_share_one_call_in_its_order_and_what_ends_a_chunk_goes_first() -> None:
    """A chunk that one worker decodes keeps the models waiting; evidence must not wait for chunks that come later."""
    together, blocked, begun, done = Barrier(2, timeout=60), Event(), Event(), []

    def meet(worker: AnyWorker, item: int) -> int:
        together.wait()
        return item

    def block(worker: AnyWorker, item: int) -> None:
        begun.set()
        assert blocked.wait(60)

    with closing(Decoders(0)) as two:
        assert list(two.map(meet, range(6))) == list(range(6))
        waiting = [two.submit(block, 0), two.submit(block, 1)]
        assert begun.wait(60)
        note = lambda worker, item: done.append(item)  # noqa: E731
        later = [two.submit(note, item) for item in "abcd"] + [two.submit(note, "first", first=True)]
        blocked.set()
        for future in [*waiting, *later]:
            future.result(60)
    assert done.index("first") <= 1, "two threads may begin with two of them at once"


def test_closed_decoders_drop_what_waits_and_begin_anew_when_they_are_asked() -> None:
    """Who waits for a part must not wait for ever, and training must not share the memory with idle processes."""
    decoders = Decoders(1)
    try:
        pid = decoders.submit(pid_of, None).result(60)
        hanging, waiting = decoders.submit(hang, None), decoders.submit(pid_of, None)
        while not hanging.running():
            time.sleep(0.001)
        decoders.close()
        with pytest.raises(CancelledError):
            waiting.result(60)
        with pytest.raises(ProcessLost, match="were closed while they had work"):
            hanging.result(60)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert decoders.submit(pid_of, None).result(60) != pid
    finally:
        decoders.close()


def pid_of(worker: AnyWorker, _: None) -> int:
    return worker.run(os.getpid, timeout_s=600)


def hang(worker: AnyWorker, _: None) -> None:
    run_each(worker, double_or_hang, [2], lambda items: 600.0)


def test_a_process_of_a_decoder_leaves_the_threads_of_torch_alone() -> None:
    """A worker starts while another thread loads torch, which reads its number of threads from the environment once."""
    assert not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & module.ONE_THREAD.keys()


def niceness(_: object) -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all processes are alike")
def test_decoding_leaves_the_cores_to_the_thread_that_launches_kernels() -> None:
    worker = Worker()
    try:
        assert worker.run(niceness, None, timeout_s=600) > niceness(None)
    finally:
        worker.close()


class Killed:
    """A process, as its limit sees it."""

    def __init__(self) -> None:
        self.kill_called = Event()

    def kill(self) -> None:
        self.kill_called.set()


def test_one_thread_ends_what_takes_too_long_and_nothing_else() -> None:
    """A short limit must not wait for a longer one that began before it, and what ended in time must live."""
    slow, late, quick = Killed(), Killed(), Killed()
    with module._Limit(slow, 600.0):
        num_threads = active_count()
        in_time = module._Limit(quick, 0.3)
        with in_time:
            pass
        limit = module._Limit(late, 0.4)
        with limit:
            assert late.kill_called.wait(60)
        assert limit.passed and active_count() == num_threads
    assert not (in_time.passed or quick.kill_called.is_set() or slow.kill_called.is_set())


@pytest.mark.parametrize("size", [0, 1, BESIDE_BYTES // 4 - 1, BESIDE_BYTES // 4, 100_000])
def test_arrays_come_as_they_were_sent_whatever_their_size(size: int) -> None:
    """Small ones pass within the pickle and large ones beside it."""
    ours, theirs = map(Channel, multiprocessing.Pipe())
    samples = np.arange(size, dtype=np.float32)
    sender = Thread(target=ours.send, args=({"a": [samples, samples], "b": np.arange(3), "c": "x"},))
    sender.start()
    found = theirs.receive()
    sender.join()
    first, second = found["a"]
    assert first is second and first.dtype == np.float32 and np.array_equal(first, samples) and first.flags.writeable
    assert found["b"].tolist() == [0, 1, 2] and found["c"] == "x"
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive()
    theirs.close()
