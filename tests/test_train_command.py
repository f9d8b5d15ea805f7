"""`shibolet train` as a user starts it: several processes, torchrun, stopped, continued, taken back to a phase."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "train"))
from tiny_run import outcome
from train_command import SHIBOLET, TORCHRUN, end, prepared, ranks_of, rows, save_recipe, train, wait_for

from shibolet.records.runfolder import RunFolder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_recipe(tmp_path_factory.mktemp("command"))


@pytest.mark.slow("train", seconds=65)
def test_two_processes_torchrun_signals_and_phases(recipe: Path, tmp_path: Path):
    one, two = prepared(tmp_path / "one"), prepared(tmp_path / "two")
    assert end(train(SHIBOLET, recipe, one))[0] == 0
    result = json.loads((one / "train" / "result.json").read_text())

    launched = train(SHIBOLET, recipe, two, "--gpus", "2")
    wait_for(lambda: len(rows(two)) >= 2, launched)
    os.kill(launched.pid, signal.SIGTERM)
    code, errors = end(launched)
    assert code == 75, errors
    assert "stopped by a signal" in (two / "train" / "PREEMPTED").read_text()
    assert 2 <= len(rows(two)) < 18

    code, errors = end(train(TORCHRUN, recipe, two))
    assert code == 0, errors
    assert not (two / "train" / "PREEMPTED").exists()
    for a, b in zip(rows(one), rows(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    assert json.loads((two / "train" / "result.json").read_text())["steps"] == result["steps"] == 18
    assert end(train(TORCHRUN, recipe, two))[0] == 0  # nothing to do, and the followers go home

    for phase, chosen, why in (("B", 9, "the end of phase B, as asked"), ("A", result["chosen_step"], "dev WER")):
        code, errors = end(train(SHIBOLET, recipe, one, "--only-through", phase))
        assert code == 0, errors
        found = json.loads((one / "train" / "result.json").read_text())
        assert (found["chosen_step"], found["chosen_by"], found["through"]) == (chosen, why, phase)
        assert RunFolder(one).finished("train") and len(rows(one)) == 18


@pytest.mark.slow("train", seconds=20)
def test_a_signal_to_all_processes_ends_with_a_checkpoint_and_75(recipe: Path, tmp_path: Path):
    """As Ctrl-C and Slurm send it: the processes that decode died of it, with packs that the step still needed."""
    run = prepared(tmp_path / "run")
    command = train(SHIBOLET, recipe, run, "--set", "train.num_workers=1", "--set", "train.phases.0.num_epochs=50")
    wait_for(lambda: len(rows(run)) >= 2, command)
    os.killpg(command.pid, signal.SIGTERM)
    code, errors = end(command)
    assert code == 75 and "Traceback" not in errors, errors
    assert (run / "train" / "checkpoints" / f"step-{len(rows(run)):08d}" / "COMPLETE").exists()


@pytest.mark.slow("train", seconds=40)
def test_a_rate_of_a_that_changed_does_not_train_b_again(recipe: Path, tmp_path: Path):
    """And a step that is there can be gone on from, which the result then says."""
    run, whole = prepared(tmp_path / "run"), prepared(tmp_path / "whole")
    lower = ("--set", "train.phases.1.lr_by_part.head=1e-5")
    assert end(train(SHIBOLET, recipe, run))[0] == 0
    before = (run / "train" / "metrics.jsonl").read_text().splitlines()
    code, errors = end(train(SHIBOLET, recipe, run, *lower))
    assert code == 0 and "steps 1 to 9 are kept, with the end of phase B" in errors, errors
    lines = (run / "train" / "metrics.jsonl").read_text().splitlines()
    assert lines[:9] == before[:9] and len(lines) == 18, "times and all: these steps were not taken again"
    assert end(train(SHIBOLET, recipe, whole, *lower))[0] == 0
    assert outcome(run / "train") == outcome(whole / "train")

    code, errors = end(train(SHIBOLET, recipe, run, "--from-step", "10"))
    assert code == 2 and "there are 9 (the end of B), 15 (in A), 18 (the end of A)" in errors
    longer = (*lower, "--set", "train.phases.1.num_epochs=4", "--from-step", "18")
    code, errors = end(train(SHIBOLET, recipe, run, *longer))
    assert code == 0 and "goes on from step 18" in errors, errors
    result = json.loads((run / "train" / "result.json").read_text())
    assert result["steps"] == 21 and result["earlier"] == [
        {"first_step": 10, "last_step": 18, "settings": {"train.phases.1.num_epochs": "3.0"}}
    ]
    assert [row["step"] for row in rows(run)] == list(range(1, 22))


@pytest.mark.slow("train", seconds=60)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_and_the_same_command_goes_on(recipe: Path, tmp_path: Path, killed: int):
    """As the system does when memory runs out; the other one would wait for an hour."""
    run, options = prepared(tmp_path / "run"), ("--gpus", "2", "--set", "train.checkpoint_every_steps=2")
    launched = train(SHIBOLET, recipe, run, *options)
    wait_for(lambda: len(rows(run)) >= 4, launched)
    ranks_of(launched)[killed].kill()
    killed_at = time.monotonic()
    code, errors = end(launched)
    assert code == 76 and time.monotonic() - killed_at < 30
    assert errors.splitlines()[-1].startswith(f"shibolet: rank {killed} was ended by SIGKILL"), errors
    assert "Traceback" not in errors
    code, errors = end(train(SHIBOLET, recipe, run, *options))
    assert code == 0 and "continuing after step" in errors
    assert [row["step"] for row in rows(run)] == list(range(1, 19))


@pytest.mark.slow("train", seconds=12)
def test_a_defect_in_one_rank_ends_both_and_is_named(recipe: Path, tmp_path: Path):
    run = prepared(tmp_path / "run", duration_s=1.0)
    code, errors = end(train(SHIBOLET, recipe, run, "--gpus", "2"))
    assert code == 3 and "the table says 1.00 s but its audio has" in errors
