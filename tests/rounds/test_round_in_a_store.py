"""A whole small round with data and run folder in a store: protects from another result there, and from loss.

Each command is a process of its own that knows nothing of the store but its address; the data lie nowhere else.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from object_store import BUCKET, URL, ObjectStore

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.errors import EXIT_REJECT, Preempted
from shibolet.records.files import read_jsonl, write_jsonl

# A mirror follows at once here: in a tiny training half a minute is longer than all of it.
COMMAND = "from shibolet.rounds import mirroring; mirroring.EVERY_S = 0.2; from shibolet.cli import program; program()"
DONE = ("audit", "gate", "prepare", "train", "evaluate/round1/clean")
PATH_OF_AUDIO = "audit/utterances.parquet"  # names it: the only file that depends on where the data are


def recipe_of(data: str, heard: Path) -> dict:
    """The smallest round that trains; nobody listens, so it takes half a minute."""
    return {
        "name": "tiny", "language": "Hebrew", "num_threads": 1,
        "models": {"base": "builtin:round1", "baseline": "builtin:round1"},
        "data": {"train": [{"name": "synthetic", "manifest": f"{data}/train/manifest.jsonl"}]},
        "audit": {
            "aligner": None, "recogniser": str(heard), "selftest": {"num_clips": 10}, "num_workers": 0,
            "chunk_utterances": 4,
        },
        "gate": {"stop_above_pct": 100, "accept": ["INVALID"]},
        "prepare": {"dev_frac": 0.2},
        "train": {
            "phases": [{"name": "B", "num_epochs": 6, "lr_by_part": {"projector": 5e-4}}], "lora": None,
            "utterances_per_step": 8, "precision": "fp32", "eval_every_steps": 2, "checkpoint_every_steps": 2,
        },
        "evaluate": {
            "max_new_tokens_per_s": 15.0, "non_speech": None,
            "sets": [{"name": "clean", "manifest": f"{data}/test_clean/manifest.jsonl"}],
        },
        "compare": {"bootstrap_samples": 100, "keep_below_points": 100.0, "loop_cost": 0.0},
    }  # fmt: skip


class Machine:
    """A machine with an empty disk, a recipe, and the model that hears."""

    def __init__(self, folder: Path, data: str, heard: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        recipe = yaml.safe_dump(recipe_of(data, heard), sort_keys=False)
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        self.run = folder / "run"
        self.environment = {**os.environ, **environment, "XDG_CACHE_HOME": str(folder / "cache")}
        self._folder = folder

    def start(self, *options: str) -> subprocess.Popen:
        words = ["run", str(self._folder / "recipe.yaml"), "-o", str(self.run), *options]
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words], env=self.environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, *options: str) -> str:
        """What the round says until it ends, with a model that so small a test set cannot show to be better."""
        process = self.start(*options)
        _, said = process.communicate(timeout=300)
        assert process.returncode == EXIT_REJECT, said
        return said


def outputs(run: Path) -> dict[str, str]:
    """Hashes of all that the stages of a round made."""
    found = {}
    for path in (run / ".stages").rglob("*.json"):
        marker = json.loads(path.read_text())
        assert marker["state"] == "done"
        found |= marker["outputs"] if path.name != "start.json" else {}
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    size = CorpusConfig(num_train=24, num_long=1, num_test=3, recording_utterances=2)
    build_corpus(folder / "corpus", 3, size)
    rows = read_jsonl(folder / "corpus" / "train" / "manifest.jsonl")
    write_jsonl(folder / "heard.jsonl", [{"id": row["id"], "hypothesis": row["text"]} for row in rows])
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> dict[str, str]:
    """What the round makes of data on the disk."""
    machine = Machine(tmp_path_factory.mktemp("here") / "a", str(corpus / "corpus"), corpus / "heard.jsonl", {})
    machine.finish()
    made = outputs(machine.run)
    assert len(made) > 15 and made.pop(PATH_OF_AUDIO)
    return made


@pytest.fixture
def busy_store(corpus) -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        for path in (corpus / "corpus").rglob("*"):
            if path.is_file():
                store.put(path.relative_to(corpus).as_posix(), path.read_bytes())
        yield store


@pytest.mark.slow("store", seconds=80)
def test_a_slow_store_that_refuses_every_tenth_request_gives_the_same_round(busy_store, corpus, undisturbed, tmp_path):
    busy_store.refuse_every, busy_store.wait_s = 10, 0.1
    first = Machine(tmp_path / "first", f"{URL}/corpus", corpus / "heard.jsonl", busy_store.environment)
    first.finish("--mirror", f"{URL}/runs/tiny")
    assert busy_store.refused > 10
    made = outputs(first.run)
    assert made.pop(PATH_OF_AUDIO) and made == undisturbed
    # Another machine has all of it, and does nothing again.
    second = Machine(tmp_path / "second", f"{URL}/corpus", corpus / "heard.jsonl", busy_store.environment)
    said = second.finish("--mirror", f"{URL}/runs/tiny")
    assert "mirror: fetched" in said and all(f"{stage}: done before" in said for stage in DONE)
    made = outputs(second.run)
    assert made.pop(PATH_OF_AUDIO) and made == undisturbed


@pytest.mark.slow("store", seconds=130)
def test_a_round_goes_on_from_the_store_on_an_empty_disk(busy_store, corpus, undisturbed, tmp_path):
    """Machines are taken away after the gate, twice in the training, once of these with a signal, and after it."""

    def in_store() -> str:
        return busy_store.get("runs/tiny/index.json").decode() if "runs/tiny/index.json" in busy_store.names() else ""

    moments = [
        (".stages/gate.json", signal.SIGKILL),
        ("train/checkpoints/step-00000004/COMPLETE", signal.SIGKILL),
        ("train/checkpoints/step-00000008/COMPLETE", signal.SIGTERM),
        ("evaluate/round1/clean/scores.json", signal.SIGKILL),
    ]
    for number, (awaited, ending) in enumerate(moments):
        machine = Machine(tmp_path / f"{number}", f"{URL}/corpus", corpus / "heard.jsonl", busy_store.environment)
        process = machine.start("--mirror", f"{URL}/runs/tiny")
        while process.poll() is None and awaited not in in_store():
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(ending)
        said = process.communicate()[1]
        assert process.returncode == (Preempted.exit_code if ending == signal.SIGTERM else -signal.SIGKILL), said
        assert number < 2 or "continuing after step" in said, said  # the checkpoint came from the store
        shutil.rmtree(machine.run.parent)
    last = Machine(tmp_path / "last", f"{URL}/corpus", corpus / "heard.jsonl", busy_store.environment)
    said = last.finish("--mirror", f"{URL}/runs/tiny")
    assert all(f"{stage}: done before" in said for stage in DONE), said
    made = outputs(last.run)
    assert made.pop(PATH_OF_AUDIO) and made == undisturbed
    assert BUCKET not in {path.name for path in last.run.rglob("*")}


@pytest.mark.slow("store", seconds=60)
def test_tasks_on_machines_without_a_disk_in_common_make_the_same_round(
    busy_store, corpus, undisturbed, tmp_path, run_cli
):
    """The commands that `launch --skypilot --mirror` writes, each on a machine that has nothing but the recipe."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(f"{URL}/corpus", corpus / "heard.jsonl")), encoding="utf-8")
    options = ["--gpu", "A100", "--hear", "2", "--gpus", "1", "--to", str(tmp_path / "out"), "-o", "runs/tiny"]
    code, _, said = run_cli("launch", str(recipe), "--skypilot", *options, "--mirror", f"{URL}/runs/tiny")
    assert code == 0, said
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "shibolet"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -c "{COMMAND}" "$@"\n')
    program.chmod(0o755)
    _, *tasks = yaml.safe_load_all((tmp_path / "out" / "round.yaml").read_text())
    for task in tasks:
        for rank in range(task["num_nodes"]):
            machine = tmp_path / f"{task['name']}{rank}"
            (machine / "recipe").mkdir(parents=True)
            shutil.copy(recipe, machine / "recipe")
            environment = {
                **os.environ, **busy_store.environment, "HOME": str(machine), "XDG_CACHE_HOME": str(machine / "cache"),
                "PATH": f"{program.parent}:{os.environ['PATH']}", "SKYPILOT_NODE_RANK": str(rank),
                "SKYPILOT_NUM_NODES": str(task["num_nodes"]), "SKYPILOT_NUM_GPUS_PER_NODE": "1",
                "SKYPILOT_NODE_IPS": "127.0.0.1",
            }  # fmt: skip
            done = subprocess.run(
                ["bash", "-c", task["run"]], cwd=machine, env=environment, capture_output=True, text=True, timeout=300
            )
            wanted = EXIT_REJECT if task["name"] == "evaluate" else 0
            assert done.returncode == wanted, done.stderr
            if task["name"] == "evaluate":
                assert all(f"{stage}: done before" in done.stderr for stage in DONE[:4]), done.stderr
    made = outputs(machine / "runs" / "tiny")
    assert made.pop(PATH_OF_AUDIO) and made == undisturbed
    heard = {path.name for path in (tmp_path / "prepare0" / "runs" / "tiny" / "audit" / "heard").rglob("*.jsonl")}
    shared = {name.rsplit("/", 1)[1] for name in busy_store.names() if name.startswith("runs/tiny/heard/")}
    assert len(shared) >= 2 and heard == shared
