"""`shibolet train` as a user starts it: several processes, torchrun, stopped, continued, taken back to a phase."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "train"))
from tiny_run import PHASE_A, PHASE_B, make_rows, save_base, write_shard

from shibolet.records.runfolder import RunFolder

RECIPE = {
    "name": "tiny",
    "num_threads": 1,
    "data": {"train": [{"name": "noise", "manifest": "none.jsonl"}]},
    "audit": {"aligner": "builtin:aligner", "recogniser": "builtin:ctc"},
    "train": {
        "phases": [
            {"name": "B", "num_epochs": 3, "lr_by_part": PHASE_B, "warmup_steps": 2},
            {"name": "A", "num_epochs": 3, "lr_by_part": PHASE_A},
        ],
        "lora": {"part": "decoder.layers[0:2]", "rank": 4, "alpha": 8, "dropout": 0.0},
        "utterances_per_step": 8,
        "pack_tokens": 256,
        "precision": "fp32",
        "eval_every_steps": 100,
        "checkpoint_every_steps": 100,
    },
    "evaluate": {"max_new_tokens_per_s": 3.0},
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "shibolet.cli", "train"]
SHIBOLET = [sys.executable, "-m", "shibolet.cli", "train"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    base = str(save_base(folder / "base"))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "models": {"base": base, "round1": base}}))
    return path


def prepared(path: Path, **changes) -> Path:
    """A run folder as prepare leaves it."""
    stage = RunFolder(path).stage("prepare", {})
    rows = [row | changes for row in make_rows(25, seed=1)]
    write_shard(path / "prepared" / "train-00000.parquet", rows[:22])
    write_shard(path / "prepared" / "dev-00000.parquet", rows[22:])
    stage.finish()
    return path


def train(command: list[str], recipe: Path, run: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen([*command, str(recipe), "-o", str(run), *options], stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, errors = process.communicate(timeout=180)
    return process.returncode, errors


def rows(run: Path) -> list[dict]:
    path = run / "train" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_two_processes_torchrun_signals_and_phases(recipe: Path, tmp_path: Path):
    one, two = prepared(tmp_path / "one"), prepared(tmp_path / "two")
    assert end(train(SHIBOLET, recipe, one))[0] == 0
    result = json.loads((one / "train" / "result.json").read_text())

    launched = train(SHIBOLET, recipe, two, "--gpus", "2")
    while len(rows(two)) < 2 and launched.poll() is None:
        time.sleep(0.05)
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


@pytest.mark.slow
def test_a_defect_in_one_rank_ends_both_and_is_named(recipe: Path, tmp_path: Path):
    run = prepared(tmp_path / "run", duration_s=1.0)
    code, errors = end(train(SHIBOLET, recipe, run, "--gpus", "2"))
    assert code == 3 and "the table says 1.00 s but its audio has" in errors
