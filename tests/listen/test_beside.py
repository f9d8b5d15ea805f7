"""What processes find out beside a thread that must not wait: order, lost processes, and the end of them."""

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shibolet.listen import beside as module
from shibolet.listen.beside import Beside
from shibolet.listen.decoders import AnyWorker
from shibolet.listen.processes import Child


def squares(items: list[int]) -> list[tuple[int, int]]:
    """With the process that found them; an early item takes longer than a later one."""
    time.sleep(0.02 * (8 - items[0]) if items[0] < 8 else 0)
    return [(item * item, os.getpid()) for item in items]


def crash_in_a_process(items: list[int], parent: int) -> list[int]:
    if 5 in items and os.getpid() != parent:
        os._exit(3)
    return [item * item for item in items]


def by_worker(function: Callable, *args) -> Callable:
    return lambda worker, items: worker.run(function, items, *args, timeout_s=600)


@contextmanager
def ended(one: Beside) -> Iterator[Beside]:
    try:
        yield one
    finally:
        if one._workers is not None:
            one._workers.close()


def test_results_come_in_order_from_processes_that_began_at_once() -> None:
    with ended(Beside(by_worker(squares), 2)) as two:
        waiting = [two.begin(list(range(11))), two.begin([]), two.begin([20])]
        found = [later() for later in waiting]
    assert [[square for square, _ in some] for some in found] == [[i * i for i in range(11)], [], [400]]
    pids = {pid for some in found for _, pid in some}
    assert os.getpid() not in pids and len(pids) == 2


def test_without_processes_it_is_done_in_place() -> None:
    assert Beside(by_worker(squares), 0).begin([9, 8])() == [(81, os.getpid()), (64, os.getpid())]


def test_what_a_process_is_lost_over_is_done_in_place() -> None:
    """A crash or a kill must not end an audit, or change what it finds."""
    with ended(Beside(by_worker(crash_in_a_process, os.getpid()), 1)) as one:
        assert one.begin(list(range(11)))() == [i * i for i in range(11)]
        assert one.begin([7])() == [49], "and those that come later"


def test_where_no_process_starts_everything_is_done_in_place(monkeypatch) -> None:
    """And none is tried for again, which would take as long as the work."""
    tries = []

    class Refused(Child):
        def __init__(self, *args, **settings) -> None:
            tries.append(1)
            raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr("shibolet.listen.decoders.Child", Refused)
    one = Beside(by_worker(squares), 1)
    assert [square for square, _ in one.begin([9, 10, 11, 12, 13])()] == [81, 100, 121, 144, 169]
    num_tries = len(tries)
    assert num_tries and one.begin([9])() == [(81, os.getpid())] and len(tries) == num_tries


def test_an_error_of_the_function_is_raised() -> None:
    """A defect must look like one."""

    def fail(worker: AnyWorker, items: list[int]) -> list:
        raise ZeroDivisionError

    with ended(Beside(fail, 1)) as one, pytest.raises(ZeroDivisionError):
        one.begin([1])()


def test_processes_end_with_who_has_them() -> None:
    """Training must not share the machine with processes of a recogniser that is gone."""
    one = Beside(by_worker(squares), 1)
    [(_, pid)] = one.begin([9])()
    os.kill(pid, 0)
    del one
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_cpu_that_computes_has_no_such_processes(monkeypatch) -> None:
    import torch

    assert module.workers_beside(torch.device("cpu")) == 0
    monkeypatch.setattr(module, "usable_cores", lambda: 32)
    assert module.workers_beside(torch.device("cuda")) == 4
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    assert module.workers_beside(torch.device("cuda")) == 1
