"""`shibolet audit` by a recipe that has no model to train: what it takes, what it says, and what it leaves alone."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from ears import Ears

from shibolet.errors import DataError
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load

COMMANDS = ("run", "prepare", "train", "evaluate", "plan")


def heard(lines: dict[str, str]) -> list[dict]:
    """What a system that makes no mistakes wrote of files, by the ids that they have."""
    hearings = Ears().hear([load(AudioRef(path=path)) for path in lines.values()], [["-"]] * len(lines))
    return [{"id": id, "hypothesis": hearing.hypothesis} for id, hearing in zip(lines, hearings, strict=True)]


@pytest.fixture(scope="module")
def hypotheses(corpus) -> list[dict]:
    return heard({u.id: u.audio.path for u in corpus})


@pytest.fixture
def shibolet(run_cli, monkeypatch, tmp_path: Path, corpus, hypotheses):
    """Runs a command in a folder with `only-audit.yaml`, a manifest of the corpus and a file of hypotheses of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"id": u.id, "audio": u.audio.path, "text": u.text, "recording": u.recording} for u in corpus]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    write_jsonl(tmp_path / "hypotheses.jsonl", hypotheses)
    recipe = {
        "name": "only-audit",
        "data": {"train": [{"name": "mine", "manifest": "mine.jsonl"}]},
        "audit": {
            "recogniser": "./hypotheses.jsonl", "aligner": "none", "num_workers": 0, "selftest": {"num_clips": 60},
            "sample": {"sample_frac": 1.0, "shares": {}}, "domain_rules": [{"domain": "all"}],
        },
    }  # fmt: skip
    (tmp_path / "only-audit.yaml").write_text(yaml.safe_dump(recipe))
    return run_cli


@pytest.mark.parametrize("command", COMMANDS)
def test_what_trains_or_evaluates_ends_with_2_and_names_the_sections(shibolet, tmp_path: Path, command: str) -> None:
    """Not with a traceback, nor once the data are heard."""
    code, out, err = shibolet(command, "only-audit.yaml")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"no section 'train', so it is not used for '{command}'" in err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_the_recipe_and_has_no_plan(shibolet, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    for command in ("audit", "gate"):
        code, out, _ = shibolet(command, "only-audit.yaml", "--dry-run")
        assert code == 0 and yaml.safe_load(out)["name"] == "only-audit" and yaml.safe_load(out)["train"] is None
    code, out, _ = shibolet("audit", "only-audit.yaml", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["plan"] is None and json.loads(out)["recipe"]["audit"]["aligner"] is None
    assert sorted(tmp_path.iterdir()) == before


def test_a_check_asks_for_nothing_that_an_audit_does_not_need(shibolet) -> None:
    """A file of hypotheses is there when it is there: it is no saved model."""
    code, out, _ = shibolet("check", "only-audit.yaml", "--json")
    state = {row["what"].partition(":")[0]: row["state"] for row in json.loads(out)["findings"]}
    assert state["GPU, memory, disk"] == "note" and state["train"] == "ok" and state["recogniser"] == "ok"
    assert code == 0


def test_a_check_names_a_file_of_hypotheses_that_is_not_there(shibolet) -> None:
    code, out, _ = shibolet("check", "only-audit.yaml", "--set", "audit.recogniser=./gone.jsonl", "--json")
    found = json.loads(out)["findings"]
    assert code == 3 and any(row["state"] == "missing" and "gone.jsonl" in row["what"] for row in found)


def test_an_audit_from_a_file_ends_with_its_verdict_and_a_page(shibolet, tmp_path: Path) -> None:
    code, out, _ = shibolet("audit", "only-audit.yaml")
    assert code == 0 and "PROCEED" in out and "text side only" in " ".join(out.split())
    run = tmp_path / "runs" / "only-audit"
    rows = pq.read_table(run / "audit" / "utterances.parquet", columns=["id", "is_low_quality"]).to_pylist()
    assert {f"u{i:03d}" for i in range(10)} <= {row["id"] for row in rows if row["is_low_quality"]}
    assert (run / "audit" / "audit.html").is_file()
    code, out, _ = shibolet("gate", "only-audit.yaml", "--json")
    assert code == 0 and json.loads(out)["judged_by"] == "text side only"
    assert shibolet("report", "runs/only-audit")[0] == 0
    assert "Text side only" in (run / "report.html").read_text(encoding="utf-8")


def test_exported_copies_that_were_heard_make_the_audit_whole(shibolet, tmp_path: Path, hypotheses) -> None:
    code, out, _ = shibolet("audit", "only-audit.yaml", "--export-copies", "copies")
    assert code == 0 and out.startswith("360 copies, 0.") and "hypotheses.jsonl" in out
    assert not (tmp_path / "runs" / "only-audit" / "audit" / "alignment_report.json").exists(), "nothing is judged yet"
    copies = read_jsonl(tmp_path / "copies" / "manifest.jsonl")
    lines = heard({row["id"]: str(tmp_path / "copies" / row["audio"]) for row in copies})
    write_jsonl(tmp_path / "hypotheses.jsonl", [*hypotheses, *lines])
    code, out, _ = shibolet("audit", "only-audit.yaml", "--json")
    assert code == 0 and json.loads(out)["judged_by"] == "text and audio"
    code, _, err = shibolet("audit", "only-audit.yaml", "--export-copies", "copies")
    assert code == 3 and "manifest.jsonl is there already; name an empty folder" in err


@pytest.mark.parametrize("beside", [["--json"], ["--extend"], ["--shard", "1/2"], ["--review", "r.jsonl"]])
def test_export_copies_goes_with_no_other_option(shibolet, tmp_path: Path, beside: list[str]) -> None:
    """An option that does nothing would be taken for done."""
    code, out, err = shibolet("audit", "only-audit.yaml", "--export-copies", "copies", *beside)
    assert (code, out) == (2, "") and "--" in err and not (tmp_path / "copies").exists()


def test_calibrate_takes_manifests_in_a_store(object_store, shibolet, tmp_path: Path, corpus, monkeypatch) -> None:
    """And each manifest that it cannot take is one sentence, before anything is heard."""
    url = object_store.put("clean/set.jsonl", (tmp_path / "mine.jsonl").read_bytes())
    seen = []

    def see(utterances, others, *, name: str, **_) -> None:
        seen.append((name, [(u.id, u.audio.path) for u in utterances], len(others)))
        raise DataError("seen")

    monkeypatch.setattr("shibolet.audit.calibrate.run_calibrate", see)
    code, _, err = shibolet("calibrate", "only-audit.yaml", "--clean", url, "--foreign", url)
    assert code == 3 and "seen" in err
    assert seen == [("clean/set", [(u.id, u.audio.path) for u in corpus], len(corpus))]
    for place, found, sentence in (
        ("https://host/set.jsonl", 2, "'https://host/set.jsonl' cannot be read: name a path of this machine, or a URL"),
        (f"{url}.gone", 3, f"{url}.gone cannot be read: the store has no such object, folder or bucket"),
    ):
        code, out, err = shibolet("calibrate", "only-audit.yaml", "--clean", place)
        assert (code, out) == (found, "") and sentence in " ".join(err.split())
    assert len(seen) == 1
