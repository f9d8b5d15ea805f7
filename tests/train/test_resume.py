"""`kill -9` anywhere, then the same command: the same losses, weights and bytes as a run that nobody stopped."""

import json
import multiprocessing
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import killed
import pytest
from tiny_run import outcome

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["shibolet.demo.tiny", "shibolet.train.stage", "torch.utils.tensorboard"])  # seconds each

# in phase B; B's last step; A; within the files of a checkpoint; before its rename; before its marker; before final/
KILLS = [
    ("step", 1), ("step", 3), ("step", 2), ("file", 2), ("write_json", 2), ("replace", 1), ("write_bytes", 1),
    ("sync_dir", 1), ("sync_weights", 1), ("write_final", 1),
]  # fmt: skip

PLACES = {
    "step": 8,
    "file": 14,
    "sync_weights": 5,
    "write_json": 10,
    "replace": 5,
    "write_bytes": 5,
    "sync_dir": 5,
}  # calls in a run


def train(base: Path, prepared: Path, out: Path, at: tuple[str, int] | None = None, kill: int = signal.SIGKILL) -> int:
    """Exit code of a training in a process of its own."""
    process = FORK.Process(target=killed.train, args=(base, prepared, out, at, int(kill)))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the training hangs"
    return process.exitcode


@pytest.fixture(scope="module")
def whole(base_dir: Path, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | list]:
    out = tmp_path_factory.mktemp("whole")
    assert train(base_dir, prepared_dir, out) == 0
    found = outcome(out)
    assert [row["step"] for row in found["metrics"]] == list(range(1, 9))
    assert [json.loads(line)["step"] for line in found["dev.jsonl"].splitlines()] == [0, 3, 4, 6, 8]
    assert "final/model.safetensors" in found and "checkpoints/step-00000008/frozen.safetensors" in found
    return found


def check_killed(base: Path, prepared: Path, out: Path, kills: list[tuple[str, int]], whole: dict) -> int:
    """Kill one process after the other in one folder, let the last one finish; how many kills struck."""
    struck = sum(train(base, prepared, out, at) == -signal.SIGKILL for at in kills)
    assert train(base, prepared, out) == 0
    check_same(out, whole)
    return struck


def check_same(out: Path, whole: dict) -> None:
    found = outcome(out)
    assert found["metrics"] == whole["metrics"]
    assert set(found) == set(whole)
    assert not [name for name in whole if found[name] != whole[name]]


@pytest.mark.parametrize("kills", [KILLS[1::3], pytest.param(KILLS, marks=pytest.mark.slow("resume", seconds=20))])
def test_killed_in_both_phases_and_within_checkpoints(base_dir, prepared_dir, tmp_path: Path, whole, kills):
    assert check_killed(base_dir, prepared_dir, tmp_path, kills, whole) == len(kills)


@pytest.mark.slow("resume", seconds=30)
def test_killed_at_25_random_points(base_dir, prepared_dir, tmp_path: Path, whole):
    """One kill after the other until a training gets through; then another training, two at a time."""

    def struck(seed: int, wanted: int) -> int:
        rng, kills, folders = random.Random(seed), 0, 0
        while kills < wanted:
            place = rng.choice(list(PLACES))
            at = place, rng.randint(1, PLACES[place] // 2)  # further on by what the ones before got done
            out = tmp_path / f"{seed}-{folders}"
            if (code := train(base_dir, prepared_dir, out, at)) == -signal.SIGKILL:
                kills += 1
                continue
            assert code == 0
            check_same(out, whole)
            folders += 1
        return kills + check_killed(base_dir, prepared_dir, out, [], whole)

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(struck, (0, 1), (12, 13))) == 25


@pytest.mark.slow("resume", seconds=100)
@pytest.mark.parametrize("block", range(4))
def test_killed_at_100_random_points(base_dir, prepared_dir, tmp_path: Path, whole, block: int):
    """25 a block, each from the start, so that every point lies where it does in a whole run."""
    rng = random.Random(block)
    struck = 0
    for number in range(25):
        place = rng.choice(list(PLACES))
        struck += check_killed(
            base_dir, prepared_dir, tmp_path / str(number), [(place, rng.randint(1, PLACES[place]))], whole
        )
    assert struck == 25


INTERRUPT = pytest.param(signal.SIGINT, marks=pytest.mark.slow("resume", seconds=6))


@pytest.mark.parametrize("number", [signal.SIGTERM, INTERRUPT])
def test_a_signal_ends_at_the_step_with_a_checkpoint(base_dir, prepared_dir, tmp_path: Path, whole, number):
    assert train(base_dir, prepared_dir, tmp_path, ("step", 3), number) == killed.PREEMPTED
    rows = outcome(tmp_path)["metrics"]
    # the signal came after step 3 was agreed on, so step 4 is the last
    assert len(rows) == 4 and (tmp_path / "checkpoints" / "step-00000004" / "COMPLETE").exists()
    assert train(base_dir, prepared_dir, tmp_path) == 0
    assert outcome(tmp_path)["metrics"] == whole["metrics"]
    assert outcome(tmp_path)["final/model.safetensors"] == whole["final/model.safetensors"]


def test_a_broken_newest_checkpoint_costs_steps_and_nothing_else(base_dir, prepared_dir, tmp_path: Path, whole):
    assert train(base_dir, prepared_dir, tmp_path, ("step", 7)) == -signal.SIGKILL
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    content = bytearray((newest / "moments.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "moments.safetensors").write_bytes(content)
    assert check_killed(base_dir, prepared_dir, tmp_path, [], whole) == 0
