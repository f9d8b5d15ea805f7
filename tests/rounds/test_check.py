"""Protects a check from calling a listener missing that is there, and from passing one that cannot be opened."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from object_store import URL

from shibolet.recipe import load_recipe
from shibolet.records import store
from shibolet.records.documents.beforehand import Finding
from shibolet.records.files import write_jsonl
from shibolet.rounds.check import check_recipe
from shibolet.rounds.plan import _unlabelled_s
from shibolet.speech.audio import encode_flac


@pytest.fixture
def found(monkeypatch, tmp_path: Path):
    """Gives the finding for the recogniser of a recipe that only audits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_jsonl(tmp_path / "mine.jsonl", [{"id": "a", "audio": "a.wav", "text": "x"}])
    recipe = {
        "name": "only-audit", "data": {"train": [{"name": "mine", "manifest": "mine.jsonl"}]},
        "audit": {"aligner": "none", "recogniser": "builtin:ctc"},
    }  # fmt: skip
    (tmp_path / "only-audit.yaml").write_text(yaml.safe_dump(recipe))

    def find(recogniser: str) -> Finding:
        recipe = load_recipe("only-audit.yaml", [f"audit.recogniser={recogniser}"])
        findings = check_recipe(recipe, tmp_path / "run").findings
        assert not any("Round 2" in one.found for one in findings)
        [one] = [one for one in findings if one.what == f"recogniser: {recogniser}"]
        return one

    return find


@pytest.fixture
def whisper(tmp_path: Path) -> str:
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "config.json").write_text('{"alignment_heads": [[1, 0]], "suppress_ids": []}')
    (folder / "model.bin").touch()
    return str(folder)


def has_ctranslate2(monkeypatch, installed: bool) -> None:
    monkeypatch.setattr("shibolet.rounds.check.find_spec", lambda name: object() if installed else None)


def test_a_folder_of_ctranslate2_is_there_with_its_package(found, whisper, monkeypatch) -> None:
    has_ctranslate2(monkeypatch, True)
    assert found(whisper).state == "ok"
    has_ctranslate2(monkeypatch, False)
    without = found(whisper)
    assert without.state == "missing" and "pip install 'shibolet[faster-whisper]'" in without.found
    (Path(whisper) / "model.bin").unlink()
    assert found(whisper).state == "missing" and "faster-whisper" not in found(whisper).found
    assert "no config.json" in found(f"{whisper}-gone").found


def test_a_model_that_trains_is_no_whisper(whisper, monkeypatch, found) -> None:
    """What can only be listened with must not pass for a base model."""
    has_ctranslate2(monkeypatch, True)
    changes = [f"models.base={whisper}", f"audit.recogniser={whisper}", "data.train.0.manifest=mine.jsonl"]
    findings = check_recipe(load_recipe("hebrew-small", changes), Path("run")).findings
    [one] = [one for one in findings if one.what.startswith("base, ")]
    assert (one.state, one.found) == ("missing", "no .safetensors there")
    assert any("Round 2 will not be compared" in one.found for one in findings)


@pytest.mark.parametrize("cached", [True, False], ids=["in the cache", "on the Hub"])
def test_a_whisper_of_ctranslate2_on_the_hub_wants_its_package(found, whisper, monkeypatch, cached: bool) -> None:
    files = ["config.json", "model.bin", "tokenizer.json"]
    where = str(Path(whisper) / "config.json") if cached else None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: where)
    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: files)
    has_ctranslate2(monkeypatch, False)
    assert found("org/whisper").state == "missing" and "faster-whisper" in found("org/whisper").found
    has_ctranslate2(monkeypatch, True)
    assert found("org/whisper").state == "ok"
    files.append("model.safetensors")
    (Path(whisper) / "model.safetensors").touch()
    has_ctranslate2(monkeypatch, False)
    assert found("org/whisper").state == "ok", "transformers reads it"


def test_a_file_of_hypotheses_is_read(found, tmp_path: Path) -> None:
    assert found("heard.jsonl").state == found(str(tmp_path / "heard.jsonl")).state == "missing"
    assert "no such file of hypotheses" in found("heard.jsonl").found
    write_jsonl(tmp_path / "heard.jsonl", [{"id": "a", "hypothesis": "x"}])
    assert found("heard.jsonl").state == "ok"
    write_jsonl(tmp_path / "heard.jsonl", [{"id": "a"}])
    assert found("heard.jsonl").state == "missing" and "line 1" in found("heard.jsonl").found


def test_a_recipe_that_waits_for_its_base_is_told_how_to_get_one(found) -> None:
    """hebrew-round3 names no model until `shibolet next` has put the round before in."""
    recipe = load_recipe("hebrew-round3", ["audit.aligner=none", "audit.recogniser=builtin:ctc"])
    findings = {one.what: one for one in check_recipe(recipe, Path("run")).findings}
    assert findings["base"].state == findings["baseline"].state == "missing"
    assert "'shibolet next RUN --from hebrew-round3 -o FILE' writes it" in findings["base"].found
    assert "memory" in findings, "what the usual model takes is told meanwhile"


@pytest.mark.parametrize("installed", [True, False])
def test_a_missing_tracker_is_told_before_a_round_is_refused(monkeypatch, tmp_path: Path, installed: bool) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    find_spec = "shibolet.tracking.weights_and_biases.importlib.util.find_spec"
    monkeypatch.setattr(find_spec, lambda name: object() if installed else None)
    found = {one.what: one for one in check_recipe(load_recipe("hebrew-round2"), tmp_path / "run").findings}
    assert found["W&B"].state == ("ok" if installed else "missing")
    assert installed or "--set tracking.wandb_project=null" in found["W&B"].found
    without = check_recipe(load_recipe("hebrew-round2", ["tracking.wandb_project=null"]), tmp_path / "run")
    assert "W&B" not in [one.what for one in without.findings]


def test_what_takes_longest_is_looked_up_last(monkeypatch, tmp_path: Path) -> None:
    """Nobody waits for torch to read that the token is missing: it is asked after all else has been shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown: list[str] = []
    gpu = SimpleNamespace(name="H100", total_memory=80 * 2**30)
    monkeypatch.setattr("shibolet.rounds.check._gpus", lambda: shown.append("asked") or [gpu])
    checked = check_recipe(load_recipe("hebrew-round2"), tmp_path / "run", lambda one: shown.append(one.what))
    assert shown[-2:] == ["asked", "GPU"] and len(shown) > 10
    assert [one.what for one in checked.findings] == [what for what in shown if what != "asked"]
    assert checked.findings[-1].found.startswith("H100 80 GiB; ")


def test_a_base_that_is_broken_here_leaves_the_machine_open(monkeypatch, tmp_path: Path) -> None:
    """Its sizes are not known; a baseline that is broken changes nothing about them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for role, known in (("base", False), ("baseline", True)):
        found = check_recipe(load_recipe("demo", [f"models.{role}=./gone"]), tmp_path / "run").findings
        assert [one.state for one in found if one.what.startswith(role) and one.what.endswith("/gone")] == ["missing"]
        notes = [one.found for one in found if one.what == "GPU, memory, disk"]
        assert notes == ([] if known else ["known when the base model is there"])


def test_tables_and_folders_of_a_store_are_looked_up_and_counted(object_store, tmp_path: Path, monkeypatch) -> None:
    """Protects from a check that passes what the round does not find, and from a plan that takes it for not there."""
    monkeypatch.setattr(store, "TRIES", 1)
    second = encode_flac(np.zeros(16000, np.float32))
    for name in ("a", "b"):
        object_store.put(f"set/{name}.flac", second)
        object_store.put(f"set/{name}.txt", b"one")
        pq.write_table(pa.Table.from_pylist([{"audio": {"bytes": second}, "text": "one"}]), tmp_path / "x.parquet")
        object_store.put(f"tables/{name}.parquet", (tmp_path / "x.parquet").read_bytes())
    tables, folder = f"parquet: '{URL}/tables/*.parquet'", f"manifest: {URL}/set/"
    recipe = load_recipe("whisper-small-data", [f"data.train=[{{name: t, {tables}}}, {{name: f, {folder}}}]"])

    def told() -> dict[str, str]:
        findings = check_recipe(recipe, tmp_path / "run").findings
        return {one.what: f"{one.state}: {one.found}" for one in findings if one.what.startswith("train:")}

    size = len((tmp_path / "x.parquet").read_bytes())
    assert told() == {
        "train: t": f"ok: 2 files, {2 * size / 2**20:.1f} MiB",
        "train: f": f"ok: 2 rows; {URL}/set/a.flac can be read, {len(second):,} bytes",
    }
    for place in (tables, folder):
        unlabelled = [f"data.unlabelled=[{{name: u, {place}}}]", "models.baseline_trained_on=[]"]
        assert _unlabelled_s(load_recipe("hebrew-round2", unlabelled)) == 2.0
    object_store.denies = ("GET",)
    assert {found[:8] for found in told().values()} == {"missing:"}
