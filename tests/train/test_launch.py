"""Ranks live and die together: protects from a rank that waits for a dead one, and from a stop that nobody hears."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from shibolet.errors import DataError, Preempted
from shibolet.train.launch import launch


def greet(job: str, send) -> None:
    send(f"{job} {os.environ['RANK']}/{os.environ['WORLD_SIZE']} {os.environ['PYTORCH_CUDA_ALLOC_CONF']}")


def fail_alone(job, send) -> None:
    """Rank 1 fails; the others would wait for it for good."""
    if os.environ["RANK"] == "1":
        raise job
    time.sleep(60)


def die_alone(number: int, send) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), number)
    time.sleep(60)


def until_told(job, send) -> None:
    """What a training does with a signal, without the training."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    send(os.getpid())
    assert told.wait(60)
    send("checkpoint")
    raise Preempted("stopped")


def start(work, job=None, on_message=print, num_ranks: int = 2) -> None:
    launch(work, job, num_ranks=num_ranks, on_cpu=True, on_message=on_message)


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
    with pytest.raises(RuntimeError, match="rank 1 ended with SIGKILL, out of memory perhaps"):
        start(die_alone, signal.SIGKILL)


@pytest.mark.parametrize("to", ["launcher", "one rank"])
def test_a_signal_stops_all_with_a_checkpoint(to: str):
    heard = []

    def on_message(message) -> None:
        heard.append(message)
        pids = [pid for pid in heard if isinstance(pid, int)]
        if len(pids) == 2 and len(heard) == 2:
            for pid in [os.getpid()] if to == "launcher" else pids:  # a training tells the other ranks itself
                os.kill(pid, signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        start(until_told, None, on_message)
    assert heard[2:] == ["checkpoint"] * 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_ranks_stop_when_the_launcher_is_killed(tmp_path):
    """Its ranks are in sessions of their own, so nobody else would tell them."""
    script = tmp_path / "launcher.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        from test_launch import start, until_told
        if __name__ == "__main__":
            start(until_told, None, lambda message: print(message, flush=True))
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
