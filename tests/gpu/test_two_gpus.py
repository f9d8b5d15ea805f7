"""Two GPUs over NCCL: 200 steps with the switch in the middle, the same weights on both, stopped and continued.

A process takes longer to import than to train, so there are few of them. `pytest -s` says what is done and when; what
takes longer than `WAIT_S` is ended and says where it was.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import ranks
from train_command import RECIPE, SHIBOLET, end, kill, prepared, ranks_of, rows, save_recipe, train, wait_for

from shibolet.recipe import load_recipe
from shibolet.train import launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
]

ON_CPU, PRECISION = False, "bf16"  # gloo and fp32 try this file where there is no GPU
PHASE_STEPS = 100
WAIT_S = 120.0
STARTED = time.monotonic()


def say(sentence: str) -> None:
    print(f"{time.monotonic() - STARTED:6.1f} s  {sentence}", flush=True)


def recipe_of(phase_steps: int) -> dict:
    """Phases of so many steps, 3 an epoch.

    Rates are a tenth of other tests': an untrained model at high rates magnifies the rounding of bf16.
    """
    phases = [
        {
            **phase, "num_epochs": phase_steps / 3,
            "lr_by_part": {part: lr / 10 for part, lr in phase["lr_by_part"].items()},
        }
        for phase in RECIPE["train"]["phases"]
    ]  # fmt: skip
    changes = {"phases": phases, "precision": PRECISION, "num_workers": 0, "eval_every_steps": phase_steps}
    return {**RECIPE, "seed": 5, "train": {**RECIPE["train"], **changes}}


def assert_same_training(found: list[dict], alone: list[dict]) -> None:
    """Every step once, with the losses of one GPU; bf16 rounds by 0.4%, and packs are others."""
    assert [(row["step"], row["phase"]) for row in found] == [
        (step + 1, "BA"[step // PHASE_STEPS]) for step in range(2 * PHASE_STEPS)
    ]
    assert alone[-1]["loss"] < 0.6 * alone[0]["loss"]
    for a, b in zip(alone, found, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-2), b["step"]
    for a, b in zip(alone[:20], found[:20], strict=True):  # AdamW and clipping would hide a mean instead of a sum
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=2e-2), b["step"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_recipe(tmp_path_factory.mktemp("recipe"), recipe_of(PHASE_STEPS))


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], list[dict]]]:
    """Waits for the steps of the same training on one GPU, which begins here and goes on beside the first test."""
    run = prepared(tmp_path_factory.mktemp("alone") / "run")
    process = train(SHIBOLET, recipe, run)

    @cache
    def steps() -> list[dict]:
        code, errors = end(process, WAIT_S)
        assert code == 0, errors
        say("one GPU: through")
        return rows(run)

    yield steps
    kill(process)


def test_both_ranks_hold_the_same_weights_and_moments_after_each_phase(
    recipe: Path, alone: Callable[[], list[dict]], tmp_path: Path
):
    say("two ranks: started")
    codes = ranks.train(
        2, recipe.parent / "base", prepared(tmp_path / "run") / "prepared", tmp_path / "run" / "train",
        load_recipe(recipe).train, on_cpu=ON_CPU, within_s=WAIT_S,
    )  # fmt: skip
    say("two ranks: through")
    assert codes == [0, 0]
    of_ranks = [ranks.phases(tmp_path / "run" / "train", rank) for rank in (0, 1)]
    backend, devices = ("gloo", ["cpu:0"] * 2) if ON_CPU else ("nccl", ["cuda:0", "cuda:1"])
    for device, phases in zip(devices, of_ranks, strict=True):
        assert [(phase["backend"], phase["device"]) for phase in phases] == [(backend, device)] * 2
        assert all(phase["num_held"] > 50 for phase in phases) and phases[0]["digest"] != phases[1]["digest"]
    for first, second in zip(*of_ranks, strict=True):
        assert first["digest"] == second["digest"]
    assert_same_training(rows(tmp_path / "run"), alone())


def test_a_sigterm_to_one_rank_in_each_phase_stops_both_and_the_run_goes_on(
    recipe: Path, alone: Callable[[], list[dict]], tmp_path: Path
):
    run = prepared(tmp_path / "run")
    fifth = PHASE_STEPS // 5
    for rank, phase, at_step, workers in ((1, "B", fifth, 0), (0, "A", PHASE_STEPS + fifth, 2)):
        before = len(rows(run))
        process = train(SHIBOLET, recipe, run, "--gpus", "2", "--set", f"train.num_workers={workers}")
        try:
            say(f"phase {phase}: started")
            wait_for(lambda before=before: len(rows(run)) > before, process, WAIT_S)
            say(f"phase {phase}: training")
            processes = ranks_of(process)
            assert len(processes) == 2
            wait_for(lambda at_step=at_step: len(rows(run)) >= at_step, process, WAIT_S)
            processes[rank].send_signal(signal.SIGTERM)
            sent = time.monotonic()
            code, errors = end(process, WAIT_S)
        finally:
            kill(process)
        took_s, last = time.monotonic() - sent, rows(run)[-1]
        say(f"phase {phase}: stopped after step {last['step']}, {took_s:.1f} s after the signal to rank {rank}")
        assert code == 75, errors
        assert took_s < launch._GRACE_S  # or the launcher may have killed one of them
        assert not any(psutil.pid_exists(one.pid) for one in processes)
        assert f"stopped by a signal after step {last['step']}, with a checkpoint" in errors
        assert last["phase"] == phase and at_step <= last["step"] < at_step + PHASE_STEPS // 2
        assert (run / "train" / "checkpoints" / f"step-{last['step']:08d}" / "COMPLETE").exists()
        assert (run / "train" / "PREEMPTED").exists() and not (run / "train" / "final").exists()
    process = train(SHIBOLET, recipe, run, "--gpus", "2")
    try:
        say("to the end: started")
        code, errors = end(process, WAIT_S)
    finally:
        kill(process)
    say("to the end: through")
    assert code == 0, errors
    assert f"continuing after step {last['step']}" in errors
    assert not (run / "train" / "PREEMPTED").exists() and (run / "train" / "final" / "config.json").exists()
    assert_same_training(rows(run), alone())
