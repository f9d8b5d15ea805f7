"""`shibolet train` as a user starts it: a recipe of the tiny model, a run folder as prepare leaves it, the process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil
import yaml
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


def save_recipe(folder: Path, recipe: dict = RECIPE) -> Path:
    """The recipe as a file, with a base model beside it."""
    base = str(save_base(folder / "base"))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**recipe, "models": {"base": base, "baseline": base}}))
    return path


def prepared(path: Path, **changes) -> Path:
    """A run folder as prepare leaves it: 22 utterances to train on and 3 of dev."""
    stage = RunFolder(path).stage("prepare", {})
    rows = [row | changes for row in make_rows(25, seed=1)]
    write_shard(path / "prepared" / "train-00000.parquet", rows[:22])
    write_shard(path / "prepared" / "dev-00000.parquet", rows[22:])
    stage.finish()
    return path


def train(command: list[str], recipe: Path, run: Path, *options: str) -> subprocess.Popen:
    """The command in a process group of its own."""
    return subprocess.Popen(
        [*command, str(recipe), "-o", str(run), *options], stderr=subprocess.PIPE, text=True, process_group=0,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip


def end(process: subprocess.Popen, within_s: float = 180.0) -> tuple[int, str]:
    """Exit code and error output; what takes longer is killed, and says where it was."""
    try:
        _, errors = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        _give_up(process, within_s)
    return process.returncode, errors


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, within_s: float = 180.0) -> None:
    """Until the condition holds, which it has to before the process ends; killed as by `end` when it takes longer."""
    deadline = time.monotonic() + within_s
    while not condition():
        try:
            _, errors = process.communicate(timeout=0.01)  # reads on: a full pipe would stop the process
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                _give_up(process, within_s)
        else:
            raise AssertionError(f"ended with {process.returncode} too early:\n{errors}")


def _give_up(process: subprocess.Popen, within_s: float) -> NoReturn:
    kill(process)
    _, errors = process.communicate(timeout=10)
    raise AssertionError(f"nothing in {within_s:.0f} s:\n{errors}")


def kill(process: subprocess.Popen) -> None:
    """End it with all that it started; faulthandler writes the stacks of each first, one after the other."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid)
    family = [family, *family.children(recursive=True)]
    for number, wait_s in ((signal.SIGABRT, 2.0), (signal.SIGKILL, 5.0)):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
            psutil.wait_procs([member], wait_s)


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The ranks that `--gpus` has started, rank 0 first; not the tracker that multiprocessing keeps beside them."""
    children = [c for c in psutil.Process(process.pid).children() if c.status() != psutil.STATUS_ZOMBIE]
    return sorted(
        (child for child in children if any("spawn_main" in word for word in child.cmdline())),
        key=lambda child: child.create_time(),
    )


def rows(run: Path) -> list[dict]:
    """The steps so far; a line that is being written has no end yet."""
    path = run / "train" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
