"""Results of the Whisper benchmarks: one file never mixes what was made with different settings."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from shibolet.records.files import write_jsonl


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield __import__("whisper_jobs")
    for name in ("whisper_jobs", "whisper_settings"):
        sys.modules.pop(name)


def asked(out: Path) -> Namespace:
    return Namespace(out=out / "out", models=out / "models", data=out / "data", report=True)


def test_results_are_of_the_jobs_and_of_their_settings(jobs, tmp_path, capsys):
    manifest = tmp_path / "train.jsonl"
    row = {"id": "a", "text": "yes", "audio": str(tmp_path / "a.wav"), "speaker": "s"}
    write_jsonl(manifest, [row])
    args, there = asked(tmp_path), asked(tmp_path / "elsewhere")
    job = jobs.Job(
        key="an4/recipe/0/0", run_dir=tmp_path, recipe="whisper-small-data",
        changes=(f"models.base={args.models}/tiny.en", "seed=0", "num_threads=1"), data=jobs.data_of(manifest),
    )  # fmt: skip
    whole = replace(job, key="an4/recipe/0/0/whole")
    lines = [{"key": one.key, "settings": jobs.settings_of(args, one)} for one in (job, whole)]
    for place in (args, there):
        place.out.mkdir(parents=True)
        write_jsonl(place.out / "results.jsonl", json.loads(json.dumps(lines)))
    assert list(jobs.run_jobs(args, None, [job])) == [job.key], "not those of --whole beside it"
    moved = replace(job, changes=(f"models.base={there.models}/tiny.en", "seed=0", "num_threads=8"))
    assert list(jobs.run_jobs(there, None, [moved])) == [job.key], "the same on another machine"

    write_jsonl(manifest, [row | {"audio": "b.wav"}])
    assert jobs.data_of(manifest) == job.data
    write_jsonl(manifest, [row | {"text": "no"}])
    other_data = jobs.data_of(manifest)
    for other, sentence in (
        (
            replace(job, recipe="demo"),
            "made with recipe whisper-small-data, and this command has recipe demo: name",
        ),
        (replace(job, data=other_data), f"made with data {job.data}, and this command has data {other_data}"),
        (replace(job, changes=(*job.changes, "train.lora=null")), "made with no such, and this command has train.lora"),
        (replace(job, changes=(f"models.base={args.models}/base", "seed=0")), "has models.base=MODELS/base: name"),
    ):
        with pytest.raises(SystemExit, match=f"'{job.key}' was .*{sentence}"):
            jobs.run_jobs(args, None, [other])
    assert capsys.readouterr().err == ""
    write_jsonl(args.out / "results.jsonl", [{"key": job.key}])
    assert jobs.run_jobs(args, None, [job]) and "1 results do not say their settings" in capsys.readouterr().err
