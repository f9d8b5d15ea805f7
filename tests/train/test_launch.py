"""Ranks live and die together: protects from a rank that waits for a dead one, and from a stop that nobody hears."""

import atexit
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from shibolet.errors import DataError, DiskError, Preempted, RankLost
from shibolet.train.launch import Place, Ranks


def wait_for(done) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def greet(job: str, send) -> None:
    send(f"{job} {os.environ['RANK']}/{os.environ['WORLD_SIZE']} {os.environ['PYTORCH_CUDA_ALLOC_CONF']}")


def place_of(job, send) -> None:
    send([os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")])


def test_ranks_of_a_node_know_their_place_among_all():
    heard = []
    place = Place(node=1, num_nodes=3, host="10.0.0.5", port=29500)
    Ranks(2).run(place_of, None, on_cpu=True, on_message=heard.append, place=place)
    assert sorted(heard) == [["2", "0", "6", "2", "29500"], ["3", "1", "6", "2", "29500"]]


def lose_another_node(job, send) -> None:
    os._exit(RankLost.exit_code)  # as the heartbeat does, wherever the rank waits


def test_the_loss_of_another_node_is_a_sentence_and_no_traceback():
    with pytest.raises(RankLost, match="another node was lost; the same commands go on from the last checkpoint"):
        start(lose_another_node)


def fail_alone(job, send) -> None:
    """Rank 1 fails; the others would wait for it for good."""
    if os.environ["RANK"] == "1":
        raise job
    time.sleep(60)


def die_alone(number: int, send) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), number)
    time.sleep(60)


def until_told(folder: Path, send) -> None:
    """What a training does with a signal, without the training: who gets it tells the others, here by a file."""
    told = folder / "told"
    signal.signal(signal.SIGTERM, lambda *_: told.touch())
    send(os.getpid())
    deadline = time.monotonic() + 60
    while not told.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    send("checkpoint")
    raise Preempted("stopped")


def stop_one_slowly(seconds: float, send) -> None:
    """Rank 0 has a checkpoint to commit."""
    if os.environ["RANK"] == "0":
        time.sleep(seconds)
        send("checkpoint")
    raise Preempted("stopped")


def start(work, job=None, on_message=print, num_ranks: int = 2) -> None:
    Ranks(num_ranks).run(work, job, on_cpu=True, on_message=on_message)


def test_every_rank_runs_and_reports():
    heard = []
    start(greet, "hello", heard.append, num_ranks=3)
    assert sorted(heard) == [f"hello {rank}/3 expandable_segments:True" for rank in range(3)]


def test_the_first_failure_is_the_one_that_is_raised(monkeypatch):
    monkeypatch.setattr("shibolet.train.launch._GRACE_S", 0.2)
    with pytest.raises(DataError, match="cannot be read"):
        start(fail_alone, DataError("'x' cannot be read"))
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 failed:.*ZeroDivisionError: a defect"):
        start(fail_alone, ZeroDivisionError("a defect"))
    with pytest.raises(DiskError, match="x could not be written: no room; make room and run the same command again"):
        start(fail_alone, OSError(errno.ENOSPC, "no room", "x"))


def die_after_the_other(folder: Path, send) -> None:
    """Rank 1 is killed, and the failure of rank 0, which waits for its answer, is heard of first."""
    there, told = folder / "there", folder / "told"
    if os.environ["RANK"] == "0":
        wait_for(there.exists)  # a slow start is not what is tried
        told.touch()
        raise ConnectionError("connection closed by peer")
    there.touch()
    wait_for(told.exists)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_rank_that_is_killed_is_a_sentence_with_an_exit_code_and_never_the_silence_of_the_others(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("shibolet.train.launch._GRACE_S", 2.0)
    with pytest.raises(RankLost, match=r"rank 1 was ended by SIGKILL, which .* the same command goes on") as lost:
        start(die_after_the_other, tmp_path)
    assert lost.value.exit_code == 76
    monkeypatch.setattr("shibolet.train.launch._GRACE_S", 0.2)
    for number in (signal.SIGKILL, signal.SIGSEGV):
        with pytest.raises(RankLost, match=rf"rank 1 was ended by {number.name}\b.*; the others were stopped"):
            start(die_alone, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_is_stopped_outside_its_loop_is_a_stop(monkeypatch, caplog, number: signal.Signals):
    """While it loads, say; the others wait for it in vain."""
    monkeypatch.setattr("shibolet.train.launch._GRACE_S", 0.2)
    with pytest.raises(Preempted, match=f"rank 1 was stopped by {number.name}; the same command continues"):
        start(die_alone, number)
    assert "rank 0 has not ended by itself and is killed" in caplog.messages  # on a busy machine rank 1 may be late too


def test_a_rank_that_stops_as_agreed_has_time_for_its_checkpoint(monkeypatch, caplog):
    monkeypatch.setattr("shibolet.train.launch._GRACE_S", 0.1)
    heard = []
    with pytest.raises(Preempted, match="stopped"):
        start(stop_one_slowly, 1.0, heard.append)
    assert heard == ["checkpoint"] and not caplog.messages
    monkeypatch.setattr("shibolet.train.launch._PREEMPTED_GRACE_S", 0.1)
    with pytest.raises(Preempted, match="stopped"):
        start(stop_one_slowly, 60.0)
    assert "rank 0 has not ended by itself and is killed" in caplog.messages  # on a busy machine rank 1 may be late too


@pytest.mark.parametrize("to", ["launcher", "one rank"])
def test_a_signal_stops_all_with_a_checkpoint(to: str, tmp_path: Path):
    heard = []

    def on_message(message) -> None:
        heard.append(message)
        pids = [pid for pid in heard if isinstance(pid, int)]
        if len(pids) == 2 and len(heard) == 2:
            os.kill(os.getpid() if to == "launcher" else pids[0], signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        start(until_told, tmp_path, on_message)
    assert heard[2:] == ["checkpoint"] * 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_ranks_stop_when_the_launcher_is_killed(tmp_path: Path):
    """Its ranks are in sessions of their own, so nobody else would tell them."""
    script = tmp_path / "launcher.py"
    script.write_text(
        textwrap.dedent(f"""
        import pathlib, sys
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        from test_launch import start, until_told
        if __name__ == "__main__":
            start(until_told, pathlib.Path({str(tmp_path)!r}), lambda message: print(message, flush=True))
        """)
    )
    launcher = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    pids = [int(launcher.stdout.readline()) for _ in range(2)]
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def note_the_time(folder: Path) -> None:
    (folder / f"ready-{os.getpid()}").touch()


def tell_of_readiness(folder: Path, send) -> None:
    send((folder / f"ready-{os.getpid()}").exists())


def test_ranks_get_ready_before_there_is_work_and_then_do_it(tmp_path: Path):
    ranks, heard = Ranks(2, get_ready=partial(note_the_time, tmp_path)), []
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    ranks.run(tell_of_readiness, tmp_path, on_cpu=True, on_message=heard.append)
    assert heard == [True, True]


def note_the_number(folder: Path, rank: int) -> None:
    (folder / f"{os.getpid()}-{rank}").touch()
    raise RuntimeError("it is tried, and left to the work")


def tell_of_numbers(folder: Path, send) -> None:
    send((folder / f"{os.getpid()}-{os.environ['LOCAL_RANK']}").exists())


def test_ranks_prepare_each_by_its_number_before_there_is_work(tmp_path: Path):
    ranks, heard = Ranks(2), []
    ranks.prepare(partial(note_the_number, tmp_path))
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    ranks.prepare(partial(note_the_number, tmp_path))  # again is no harm
    ranks.run(tell_of_numbers, tmp_path, on_cpu=True, on_message=heard.append)
    assert heard == [True, True]


def test_ranks_without_work_leave_no_process(tmp_path: Path):
    ranks = Ranks(2, get_ready=partial(note_the_time, tmp_path))
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    pids = [int(path.name.removeprefix("ready-")) for path in tmp_path.iterdir()]
    ranks.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_rank_that_died_before_there_was_work_is_told_of(tmp_path: Path):
    ranks = Ranks(2, get_ready=partial(os._exit, 3))
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        ranks.run(greet, "hello", on_cpu=True, on_message=print)


def leave_work_behind(folder: Path, send) -> None:
    """What a library leaves to the end of Python, a thread that still writes, and one that comes back too late."""
    atexit.register((folder / f"closed-{os.environ['RANK']}").touch)
    threading.Thread(target=lambda: (time.sleep(0.3), (folder / f"written-{os.environ['RANK']}").touch())).start()
    threading.Thread(target=lambda: [time.sleep(0.001) for _ in iter(int, 1)], daemon=True).start()


def test_a_rank_that_ends_has_written_and_closed_everything(tmp_path: Path):
    start(leave_work_behind, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed-0", "closed-1", "written-0", "written-1"]
