"""Run folders and recipes that went wrong, through commands: a documented exit code, soon, in little memory; never 1.

The folder has no markers of stages, as one of an older version: nothing refuses a file before its reader sees it.
"""

import importlib.util
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutate import mutated_bytes, mutated_json, mutated_jsonl, mutated_parquet

from shibolet.prepare import shards
from shibolet.records.runfolder import RunFolder, Stage
from shibolet.report import audit_page, sections

_spec = importlib.util.spec_from_file_location("a_run", Path(__file__).parents[1] / "report" / "conftest.py")
_a_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_a_run)

CODES = {0, 2, 3, 10, 20, 30, 40, 50, 60, 75}  # of docs/exit-codes.md; 1 is a defect, 130 an interrupt
CPU_S, MEMORY_KB = 10.0, 1_000_000  # beyond what the same command takes on the good input
HANGS_S = 120
MUTATE = {".json": mutated_json, ".jsonl": mutated_jsonl, ".parquet": mutated_parquet, ".yaml": mutated_bytes}


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """A finished round, its shards included."""
    path = tmp_path_factory.mktemp("fuzz") / "run"
    _a_run.write_run(path)
    run = RunFolder(path)
    flac = (path / "clips" / "0.wav").read_bytes()  # what libsndfile reads as well
    row = {"text": "שלום", "origin_id": "x", "sha256": "0", "origin_sha256": "0", "source": "s", "language": "Hebrew"}
    row |= {"duration_s": 1.0, "origin_start_s": 0.0, "origin_end_s": 1.0, "origin_offset_s": 0.0}
    for split in ("train", "dev"):
        rows = [{**row, "id": f"{split}-{i}", "audio": {"bytes": flac, "path": None}} for i in range(3)]
        pq.write_table(pa.Table.from_pylist(rows, schema=shards.SCHEMA), run.prepared / f"{split}-00000.parquet")
    run.review.write_text('{"id": "train-0001", "verdict": "good", "text": "x"}\n')
    audit_page.write_audit_page(path)
    return path


# command -> how often of 100, and its arguments; R is the run folder, O a new place
COMMANDS: dict[str, tuple[int, Sequence[str]]] = {
    "report": (40, ["R"]),
    "gate": (12, ["R/recipe.yaml", "-o", "R"]),
    "compare": (6, ["R/recipe.yaml", "-o", "R"]),
    "plan": (6, ["R/recipe.yaml", "-o", "R"]),
    "rounds": (8, ["R"]),
    "next": (4, ["R", "-o", "O.yaml"]),
    "check": (4, ["R/recipe.yaml", "-o", "R"]),
    "run": (6, ["R/recipe.yaml", "-o", "R", "--dry-run"]),
    "export-data verdicts": (5, ["R", "O", "--format", "verdicts"]),
    "export-data nemo": (5, ["R", "O", "--format", "nemo"]),
    "export-data datasets": (4, ["R", "O", "--format", "datasets"]),
}


def damage(rng: random.Random, run: Path) -> str:
    """Change one or two files of a run folder; which and how."""
    files = sorted(path for path in run.rglob("*") if path.suffix in MUTATE and path.is_file())
    said = []
    for path in rng.sample(files, rng.choice((1, 1, 2))):
        how = rng.random()
        content = path.read_bytes()
        if how < 0.9:
            path.write_bytes(MUTATE[path.suffix](rng, content))
            said.append(f"{path.name} changed")
            continue
        path.unlink()
        if how < 0.94:
            path.mkdir()
        elif how < 0.96:
            path.symlink_to(path)
        elif how < 0.98:
            os.mkfifo(path)
        said.append(f"{path.name} replaced")
    return ", ".join(said)


def prepared(rng: random.Random, whole: Path, place: Path) -> tuple[str, list[str]]:
    """A damaged copy of the folder at a place, and the command to run on it; the audit is marked as done."""
    run = place / "run"
    shutil.copytree(whole, run)
    said = damage(rng, run)
    name = rng.choices(list(COMMANDS), [often for often, _ in COMMANDS.values()])[0]
    if name == "gate":
        for stage in ("audit", "prepare", "train"):
            Stage(RunFolder(run), stage, {}, "done", "").finish()
    return said, arguments(name, place)


def arguments(name: str, place: Path) -> list[str]:
    given = [word.replace("R", str(place / "run"), 1) if word[0] == "R" else word for word in COMMANDS[name][1]]
    return [name.split()[0], *(str(place / word) if word[0] == "O" else word for word in given)]


def hangs(*_: object) -> None:
    raise AssertionError("it hangs")


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.slow("fuzz", seconds=300))])
def test_commands_in_this_process(first: int, whole: Path, tmp_path: Path, run_cli: Callable, monkeypatch):
    """Ten in the ordinary suite, 300 in the slow one."""
    monkeypatch.setattr(audit_page, "MAX_SOUND_BYTES", 0)  # sounds are not what is damaged here
    monkeypatch.setattr(sections, "MAX_WORST", 0)
    signal.signal(signal.SIGALRM, hangs)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failed = []
    for seed in range(10) if first == 0 else range(10, 310):
        place = tmp_path / str(seed)
        said, command = prepared(random.Random(seed), whole, place)
        signal.alarm(HANGS_S)
        started = time.process_time()
        try:
            code, _, errors = run_cli(*command)
        except Exception as error:
            code, errors = 1, f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        if code not in CODES or time.process_time() - started > CPU_S + 5:
            failed.append(
                f"seed {seed}: {command[0]}: {said}: {code}, {time.process_time() - started:.1f} s: {errors[-300:]}"
            )
        shutil.rmtree(place)
    assert not failed, "\n".join(failed)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY_KB


def run_command(command: Sequence[str], place: Path) -> tuple[int, float, int, str]:
    """Exit code, CPU seconds, KB at most, and error output of a real command."""
    with (place / "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "shibolet.cli", *command], stdout=subprocess.DEVNULL, stderr=said,
            stdin=subprocess.DEVNULL, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
        )  # fmt: skip
        deadline = time.monotonic() + HANGS_S
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.02)
        said.seek(0)
        used = ended[2]
        return os.waitstatus_to_exitcode(ended[1]), used.ru_utime + used.ru_stime, used.ru_maxrss, said.read()


@pytest.mark.slow("fuzz", seconds=240)
def test_real_commands(whole: Path, tmp_path: Path):
    """30 of them, against the same command on the folder as it was."""
    good: dict[str, tuple[float, int]] = {}
    failed = []
    for seed in range(1000, 1030):
        said, command = prepared(random.Random(seed), whole, tmp_path / str(seed))
        if (key := " ".join(word for word in command if str(tmp_path) not in word)) not in good:
            place = tmp_path / f"good-{seed}"
            shutil.copytree(whole, place / "run")
            as_good = [word.replace(str(tmp_path / str(seed)), str(place)) for word in command]
            _, *good[key], _ = run_command(as_good, place)
        code, cpu_s, memory_kb, errors = run_command(command, tmp_path / str(seed))
        if code not in CODES or cpu_s > good[key][0] + CPU_S or memory_kb > good[key][1] + MEMORY_KB:
            failed.append(f"seed {seed}: {command}: {said}: {code}, {cpu_s:.1f} s, {memory_kb} KB: {errors[-400:]}")
        shutil.rmtree(tmp_path / str(seed))
    assert not failed, "\n".join(failed)
