"""Fetching beforehand: protects from a GPU that waits, one failure that hides the rest, and needing a network later."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from local_hub import LocalHub

from shibolet.errors import DataError
from shibolet.model.folders import resolve
from shibolet.recipe import load_recipe
from shibolet.records.documents.beforehand import Fetched
from shibolet.rounds.fetch import fetch_recipe

RECIPE = [
    "models.base=org/base", "models.baseline=org/round1", "audit.aligner=org/aligner", "audit.recogniser=builtin:ctc",
    "data.train.0={name: mine, manifest: mine.jsonl}", "evaluate.sets=[{name: test, hub: org/test, split: test}]",
]  # fmt: skip


class Response:
    status_code, headers, request = 403, {}, None


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What is asked of the Hub, which has everything."""
    names: list[str] = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: names.append(name) or here())
    monkeypatch.setattr("shibolet.speech.hub.load_dataset", lambda name, *_, **__: names.append(name) or Rows())
    monkeypatch.setattr("shibolet.speech.hub.hf_hub_download", lambda name, file, **_: names.append(f"{name}/{file}"))
    return names


class Rows:
    cache_files, num_rows = (), 0


def here() -> str:
    return str(resolve("builtin:round1"))


def test_models_and_data_of_the_hub_are_fetched_and_local_ones_are_not(asked):
    found = fetch_recipe(load_recipe("demo", RECIPE))
    assert asked == ["org/base", "org/round1", "org/aligner", "org/test", "org/test/README.md"]
    fetched = ("org/base", "org/round1", "org/aligner", "org/test test")
    assert found == Fetched(fetched=fetched, local=("builtin:ctc", "mine"), missing={})


@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_of_hypotheses_is_on_this_machine_or_missing(asked, monkeypatch, tmp_path: Path, is_there: bool):
    """Its name is no model's: the Hub must not be asked for it."""
    monkeypatch.chdir(tmp_path)
    if is_there:
        (tmp_path / "heard.jsonl").write_text('{"id": "a", "hypothesis": "b"}\n')
    found = fetch_recipe(load_recipe("demo", [*RECIPE, "audit.recogniser=heard.jsonl"]))
    assert ("heard.jsonl" in found.local) == is_there and "heard.jsonl" not in asked
    assert list(found.missing) == ([] if is_there else ["heard.jsonl"])
    assert is_there or "no such file of hypotheses" in found.missing["heard.jsonl"]


def test_a_whisper_of_ctranslate2_has_no_safetensors_and_is_whole(asked, monkeypatch, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"alignment_heads": []}')
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path) if name == "org/whisper" else here()
    )
    recipe = load_recipe("demo", [*RECIPE, "audit.recogniser=org/whisper"])
    assert "no .safetensors weights" in fetch_recipe(recipe).missing["org/whisper"]
    (tmp_path / "model.bin").touch()
    assert "org/whisper" in fetch_recipe(recipe).fetched


def test_the_network_is_waited_for_and_a_closed_door_is_not(asked, monkeypatch):
    waits, tries = [], []

    def download(name, **_):
        tries.append(name)
        if name == "org/round1":
            raise GatedRepoError("403", response=Response())
        if tries.count(name) < 3:
            raise LocalEntryNotFoundError("the Hub cannot be reached")
        return here()

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = fetch_recipe(load_recipe("demo", RECIPE), wait=waits.append)
    assert tries == ["org/base"] * 3 + ["org/round1"] + ["org/aligner"] * 3 and waits == [5, 10, 5, 10]
    assert list(found.missing) == ["org/round1"] and "org/test test" in found.fetched
    assert "ask for access at https://huggingface.co/org/round1" in found.missing["org/round1"]


def test_a_closed_network_is_said_at_once(asked, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="unset it"):
        fetch_recipe(load_recipe("demo", RECIPE))
    assert not asked


@pytest.mark.slow("publish", seconds=25)
def test_what_was_fetched_is_found_without_a_network(tmp_path: Path):
    """The real client against a Hub on this machine: cut off, gated, whole, then offline."""
    hub = LocalHub(tmp_path / "cas")
    files = {path.name: path.read_bytes() for path in Path(here()).iterdir()}
    for name in ("base", "round1", "aligner"):
        hub.repos[f"org/{name}"] = {"private": False, "files": dict(files)}
    hub.gated.add("org/round1")
    hub.repos["org/base"]["files"]["model.safetensors"] = b"version https://git-lfs.github.com/spec/v1\n"
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "shibolet.cli"]
    changes = [part for change in [*RECIPE[:-1], "evaluate.sets=[]"] for part in ("--set", change)]

    def shibolet(*args: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *args], env=env | more, capture_output=True, text=True, cwd=tmp_path)

    first = shibolet("fetch", "demo", *changes)
    assert first.returncode == 3, first.stderr
    assert "https://huggingface.co/org/round1" in "".join(first.stdout.split()) and "not whole" in first.stdout
    hub.gated.clear()
    hub.repos["org/base"]["files"] = dict(files)
    hub.close()

    again = LocalHub(tmp_path / "cas")
    again.repos = hub.repos
    env["HF_ENDPOINT"] = again.url
    second = shibolet("fetch", "demo", *changes, "--json")
    assert second.returncode == 0, second.stdout + second.stderr
    assert not [request for request in again.requests if "org/aligner/resolve" in request and "GET" in request]
    again.close()
    offline = shibolet("convert", "org/base", "legacy", "--layout", "legacy", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
