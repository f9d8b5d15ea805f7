"""Commands that need no model start at once: one import at the top of a module would cost each of them seconds."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shibolet.records.audited import read_audited, write_audited
from shibolet.records.runfolder import RunFolder
from shibolet.records.shards import SCHEMA

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "pandas", "torchaudio", "tensorboard")


@pytest.fixture(scope="module")
def finished(run_dir: Path, tmp_path_factory) -> Path:
    """The made round with the markers of its audit, three sounds to play, and two prepared utterances."""
    path = Path(shutil.copytree(run_dir, tmp_path_factory.mktemp("light") / "run"))
    audited = shutil.copytree(path / "audit", path.with_name("audit"))
    (path / "gate.json").unlink()
    stage = RunFolder(path).stage("audit", {})
    shutil.copytree(audited, path / "audit", dirs_exist_ok=True)
    table = RunFolder(path).audited_utterances()
    heard = list(read_audited(table))
    write_audited(table, (replace(row, audio=row.audio if place < 3 else None) for place, row in enumerate(heard)))
    stage.finish()
    rows = [
        {field.name: {"string": f"שלום {i}", "double": 2.0}.get(str(field.type), {"bytes": b"", "path": None})
         for field in SCHEMA} for i in range(2)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path / "prepared" / "train-00000.parquet")
    return path


def test_commands_without_a_model_import_no_torch_and_no_transformers(finished: Path, tmp_path: Path):
    recipe, run = str(finished / "recipe.yaml"), str(finished)
    expected = {  # command -> its exit code, and words that say that it did its work
        ("--help",): (0, "Before a round"),
        ("normalize", "--as", "target"): (0, ""),
        ("rounds", run): (0, "Round 2"),
        ("report", run): (0, "report.html"),
        ("gate", recipe, "-o", run): (20, "STOP"),
        ("plan", "hebrew-round2"): (0, "sizes are those of Qwen3-ASR-1.7B"),
        ("plan", recipe, "-o", run): (0, "with their lengths"),
        ("run", recipe, "-o", run, "--dry-run"): (0, "with their lengths"),
        ("check", recipe, "-o", run): (3, "missing"),
    }
    driver = [sys.executable, str(Path(__file__).with_name("light_commands.py"))]
    done = subprocess.run(
        [*driver, json.dumps(list(expected)), *HEAVY], env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        cwd=tmp_path, capture_output=True, text=True, input="",
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for (command, (code, words)), one in zip(expected.items(), found, strict=True):
        assert one["code"] == code and words in one["said"], (command, one, done.stderr)
        assert not one["heavy"], command
