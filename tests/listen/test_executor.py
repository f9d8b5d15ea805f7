"""Who hears: the same results in the same order whoever it is, and nothing is lost with a process or hangs on it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shibolet.errors import AudioError, DataError, ShiboletError
from shibolet.listen import dispatch
from shibolet.listen.executor import Here, Processes, local_executor
from shibolet.listen.lazy import Lazy, LazyListener, Loading, load_now
from shibolet.listen.processes import WorkerLost
from shibolet.recipe import load_recipe
from shibolet.rounds.shared import open_round


@dataclass(frozen=True)
class Do:
    """A work of one function."""

    function: Callable
    at_once: int = 2

    @contextmanager
    def open(self) -> Iterator[Callable]:
        yield self.function


@contextmanager
def processes(num: int) -> Iterator[Processes]:
    with closing(Processes([{"SEES": str(i)} for i in range(num)])) as opened:
        yield opened


def square_and_place(number: int) -> tuple[int, str]:
    time.sleep(0.02 * (number % 3))  # so that they do not end in their order
    return number * number, os.environ.get("SEES", "here")


def square_by(executor: Processes, number: int) -> int:
    [(squared, _)] = executor.map(Do(square_and_place), [number])
    return squared


def test_results_are_those_of_one_process_and_every_process_works() -> None:
    """What comes back first must not come first, and no GPU may stand idle."""
    one = list(Here().map(Do(square_and_place), range(40)))
    assert one == [(i * i, "here") for i in range(40)]
    for num in (2, 3):
        with processes(num) as several:
            found = list(several.map(Do(square_and_place), range(40)))
        assert [result for result, _ in found] == [result for result, _ in one]
        assert {place for _, place in found} == {str(i) for i in range(num)}


def place_of(chunk: str) -> str:
    return os.environ["SEES"]


def test_a_process_with_a_long_chunk_in_hand_gets_no_more_while_others_have_less() -> None:
    """Chunks that are counted, not measured, would leave one GPU with nearly all of the work."""
    with processes(2) as executor:
        first, *others = executor.map(Do(place_of, at_once=5), ["x" * 8, *"yyyy"])
    assert first not in others


def test_a_list_that_is_read_lazily_is_read_little_ahead() -> None:
    """Chunks of samples are large: a list of a thousand must not wait in memory."""
    taken: list[int] = []
    chunks = (taken.append(i) or i for i in range(1000))
    with processes(2) as two:
        results = two.map(Do(square_and_place), chunks)
        for _ in range(10):
            next(results)
        assert 10 < len(taken) <= 10 + 2 * 2 * 2 + 2
        results.close()
        assert square_by(two, 7) == 49, "what was given up must not come out of the next"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may reach this thread later than others


def die_once_over_5(folder: Path, number: int) -> int:
    if number == 5 and not (folder / "died").exists():
        (folder / "died").touch()
        die()
    return number


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """What it had in hand is done by another or by a fresh one."""
    with processes(2) as two:
        assert list(two.map(Do(partial(die_once_over_5, tmp_path), at_once=4), range(20))) == list(range(20))
    assert (tmp_path / "died").exists()


def die_over_5(folder: Path, number: int) -> int:
    if number == 5:
        (folder / f"died-{os.getpid()}").touch()
        die()
    return number


def test_a_chunk_that_kills_its_process_every_time_is_lost_alone(tmp_path: Path) -> None:
    """Neighbours that were in hand must not be given up with it, and it is not tried for ever."""
    with processes(2) as two:
        found = list(two.map(Do(partial(die_over_5, tmp_path), at_once=4), range(20)))
    lost = found.pop(5)
    assert found == [i for i in range(20) if i != 5]
    assert isinstance(lost, WorkerLost) and lost.reason == dispatch.LOST
    assert str(lost) == "the process that heard it crashed in 3 tries; the next run tries again"
    assert len(list(tmp_path.glob("died-*"))) == dispatch.TRIES


def test_a_process_that_was_killed_while_it_was_idle_is_replaced() -> None:
    with processes(1) as one:
        assert square_by(one, 3) == 9
        os.kill(one._peers[0]._child.process.pid, signal.SIGKILL)
        assert square_by(one, 4) == 16


def test_those_that_hear_are_ended_and_those_that_decode_stay() -> None:
    """A training needs the GPUs, and what it trains on is decoded first; who hears next finds new ones."""
    with processes(1) as one:
        worker = one.decoders(1)
        before = [*worker.map(pid_in, [0])]
        assert square_by(one, 3) == 9
        process = one._peers[0]._child.process
        one.kill()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        assert [*worker.map(pid_in, [0])] == before
        assert square_by(one, 4) == 16


def pid_in(worker, item: int) -> int:
    return worker.run(os.getpid, timeout_s=60)


@dataclass(frozen=True)
class NeverOpens:
    at_once = 1

    @contextmanager
    def open(self) -> Iterator[Callable]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield abs


def test_a_machine_on_which_no_model_loads_ends_the_run() -> None:
    """A hundred thousand chunks must not be given up one by one, and none of them is to blame."""
    with processes(1) as one, pytest.raises(ShiboletError, match="no process that listens starts here: 3 crashed"):
        list(one.map(NeverOpens(), range(5)))


class Unreadable(Exception):
    """Can be pickled, and not read again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(number: int) -> int:
    if number == 3:
        raise DataError("manifest.jsonl, line 3: no text; add one")
    if number == 4:
        raise AudioError("a.wav: empty", reason="empty_audio", detail="empty")
    if number == 5:
        raise Unreadable(1, 2)
    return 1 // number


def test_an_error_in_a_process_is_the_same_error_here() -> None:
    """A user reads the sentence that was written for them, and a defect of ours has its traceback."""
    with processes(2) as two:
        with pytest.raises(DataError) as data:
            list(two.map(Do(fail), [1, 3]))
        assert str(data.value) == "manifest.jsonl, line 3: no text; add one"
        with pytest.raises(AudioError) as audio:
            list(two.map(Do(fail), [4]))
        assert (audio.value.reason, audio.value.detail) == ("empty_audio", "empty")
        with pytest.raises(TypeError, match=r"Unreadable.*cannot be sent"):
            list(two.map(Do(fail), [5]))
        with pytest.raises(ZeroDivisionError) as defect:
            list(two.map(Do(fail), [0]))
        assert "in fail" in defect.value.__notes__[0]


def wait_for_ever(number: int) -> int:
    signal.pause()
    return number


def test_an_interrupt_ends_the_processes() -> None:
    """Ctrl-C must not leave models in the memory of the GPUs."""
    with processes(2) as two:
        children = []

        def chunks() -> Iterator[int]:
            yield from range(3)
            children.extend(peer._child.process for peer in two._peers)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(two.map(Do(wait_for_ever), chunks()))
        assert len(children) == 2 and not any(peer.tasks for peer in two._peers)
        for child in children:
            with pytest.raises((ValueError, ProcessLookupError)):
                os.kill(child.pid, 0)


LEFT_OPEN = """
import sys
from test_executor import Do, Processes, tell_and_wait
if __name__ == "__main__":
    for pid in Processes([{}, {}]).map(Do(tell_and_wait, at_once=1), [0, 0] + [60] * int(sys.argv[1])):
        print(pid, flush=True)
"""


def tell_and_wait(seconds: int) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.parametrize("is_killed", [False, True])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, is_killed: bool) -> None:
    """Whether it ends by itself, with processes that nobody closed, or is killed while they work."""
    script = tmp_path / "left_open.py"
    script.write_text(LEFT_OPEN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), "2" if is_killed else "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        children = {int(parent.stdout.readline()) for _ in range(2)}
        if is_killed:
            parent.kill()
        assert parent.wait(60) == (-signal.SIGKILL if is_killed else 0)
        assert parent.stdout.read() == ""  # its end: every process that could write there has ended
    assert parent.pid not in children


def open_model(folder: Path, name: str) -> str:
    (folder / f"{name}-{len(list(folder.iterdir()))}").touch()
    return name


@dataclass(frozen=True)
class Ask:
    """Answers with the names of its models."""

    models: tuple[Lazy[str], ...]
    at_once: int = 1

    @contextmanager
    def open(self) -> Iterator[Callable]:
        yield lambda number: [model.get() for model in self.models]


def test_a_process_keeps_the_models_that_the_next_work_needs_too(tmp_path: Path) -> None:
    """A set after a set with one model must not load it for each, and another model takes the place of the first."""
    one, two = (Lazy(partial(open_model, tmp_path, name)) for name in ("one", "two"))
    with processes(1) as process:
        for models, names in (((one,), ["one"]), ((one, two), ["one", "two"]), ((two,), ["two"]), ((one,), ["one"])):
            assert list(process.map(Ask(models), [0])) == [names]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one-0", "one-2", "two-1"]


def test_models_are_loaded_before_the_first_chunk_is_there_and_kept_for_it(tmp_path: Path) -> None:
    """A GPU must not wait for its process to start and to load while this process still reads the data."""
    one = Lazy(partial(open_model, tmp_path, "one"))
    with processes(2) as two:
        two.begin(Loading((one,)))
        await_files(tmp_path, 2)
        assert list(two.map(Ask((one,)), range(4))) == [["one"]] * 4
    here = Lazy(partial(open_model, tmp_path, "here"))
    Here().begin(Loading((here,)))
    await_files(tmp_path, 3)
    assert list(Here().map(Ask((here,)), [0])) == [["here"]]
    assert len(list(tmp_path.iterdir())) == 3


def touch(folder: Path) -> None:
    (folder / f"decoder-{os.getpid()}").touch()


def test_decoders_of_a_work_call_first_what_it_says(tmp_path: Path) -> None:
    with processes(1) as process:
        process.begin(Loading((), process.share(3), partial(touch, tmp_path)))
        await_files(tmp_path, 3)
        assert list(process.map(Ask(()), [0])) == [[]]


def await_files(folder: Path, num: int) -> None:
    until = time.monotonic() + 60
    while len(list(folder.iterdir())) < num:
        assert time.monotonic() < until, "nothing is loaded"
        time.sleep(0.01)


def refuse(folder: Path) -> None:
    raise DataError(f"no model in {folder}")


def test_what_cannot_be_loaded_beforehand_is_told_by_the_work_that_needs_it(tmp_path: Path) -> None:
    """And by nobody where no work comes: what was heard before needs no model."""
    broken = Lazy(partial(refuse, tmp_path))
    for executor in (Here(), Processes([{}])):
        with closing(executor):
            executor.begin(Loading((broken,)))
            with pytest.raises(DataError, match="no model in"):
                list(executor.map(Ask((broken,)), [0]))
            executor.begin(Loading((broken,)))


class Warmed:
    """Notes when it is made ready."""

    def __init__(self) -> None:
        self.num_warm = 0

    def warm(self) -> None:
        self.num_warm += 1


def test_a_model_is_made_ready_once_and_one_without_a_way_is_left_alone() -> None:
    opened = Warmed()
    model = Lazy(lambda: opened)
    load_now(model, None, Lazy(object), LazyListener("other", object))
    load_now(model)
    assert opened.num_warm == 1


def hear_noise(listener: LazyListener, seed: int) -> float:
    noise = np.random.default_rng(seed).standard_normal(16000).astype(np.float32)
    return listener.hear([noise], [["שלום"]])[0].text_score


def test_a_process_opens_models_on_its_own_device(tmp_path: Path, monkeypatch) -> None:
    """Whoever hands out may have a GPU where the process that hears has none, or the other way round."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with open_round(load_recipe("demo", []), tmp_path / "run", "run", lambda sentence: None) as current:
        listener = current.recogniser("builtin:ctc")
    monkeypatch.undo()
    with processes(1) as one:
        assert list(one.map(Do(partial(hear_noise, listener)), [0])) == [hear_noise(listener, 0)]


def test_one_gpu_or_none_is_this_process_and_several_are_seen_by_one_process_each(monkeypatch) -> None:
    """A process that sees other GPUs than its own takes some of their memory."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for num, kind in ((0, Here), (1, Here), (3, Processes)):
        monkeypatch.setattr("torch.cuda.device_count", lambda num=num: num)
        assert type(local_executor()) is kind
    seen = lambda: [peer._environment["CUDA_VISIBLE_DEVICES"] for peer in local_executor()._peers]  # noqa: E731
    assert seen() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-a,7")
    assert seen() == ["5", "GPU-a", "7"]
