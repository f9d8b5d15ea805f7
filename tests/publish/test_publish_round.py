"""Publishing a run folder: only what was kept, only what a fresh process can repeat, and never by the way."""

import wave
from pathlib import Path

import numpy as np
import pytest
from audit_documents import alignment_report, gate_verdict, prepared
from training_documents import train_result, training_plan
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.errors import ModelError, Rejected, UploadError
from shibolet.evaluate.hear import batches_of
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.save import save_model
from shibolet.publish.config import PublishConfig
from shibolet.recipe import load_recipe
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.published import Reproduced
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import scoring
from shibolet.rounds.publish import do_publish
from shibolet.rounds.reproduce import reproduce, whole_batches
from shibolet.rounds.shared import Round, open_round

CONFIG = PublishConfig(to="org/name")
TEXTS = ["שלום עולם", "בית ספר", "ילד הלך אל הים"]


@pytest.fixture
def current(tmp_path: Path):
    """A run that was scored on 26 clips of noise: Round 1 is an untrained model, Round 2 the shipped one."""
    rng, rows = np.random.default_rng(3), []
    for i in range(26):
        path = tmp_path / "corpus" / f"{i}.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
            file.writeframes((3000 * rng.standard_normal(int(16000 * rng.uniform(0.6, 1.4)))).astype("<i2").tobytes())
        rows.append({"audio": path.name, "text": TEXTS[i % 3], "id": f"u{i}", "recording": f"r{i // 3}"})
    write_jsonl(tmp_path / "corpus" / "test.jsonl", rows)
    sets = f"[{{name: noise, manifest: {tmp_path / 'corpus' / 'test.jsonl'}}}]"
    settings = [
        "evaluate.batch_utterances=6",
        "evaluate.max_new_tokens_per_s=6",
        f"models.baseline={tmp_path / 'round1'}",
    ]
    recipe = load_recipe("demo", [f"evaluate.sets={sets}", *settings])
    with open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current:
        begun = [current.folder.stage(name, {}) for name in ("gate", "prepare", "train")]
        tokenizer = tiny.train_tokenizer(TEXTS * 5)
        model = LoadedModel(tiny.new_recogniser(tokenizer, 1), tokenizer, Qwen3ASRFeatureExtractor(), tmp_path, "")
        save_model(model, tmp_path / "round1")
        save_model(load_recogniser("builtin:round1"), current.folder.final)
        write_a_run_around(current)
        for stage in begun:
            stage.finish()
        scoring.do_evaluate(current, scoring.candidates_of(current))
        scoring.do_compare(current)
        yield current


def write_a_run_around(current: Round) -> None:
    """The files that a card is written from."""
    folder = current.folder
    gate_verdict("PROCEED").write(folder.gate())
    alignment_report().write(folder.alignment_report())
    prepared().write(folder.prepared / "summary.json")
    training_plan().write(folder.plan)
    train_result().write(folder.train_result)


@pytest.fixture
def repeated(monkeypatch):
    """Does without the fresh process."""
    calls = []

    def say(current, model, label):
        calls.append(model)
        return Reproduced(hypotheses=20, ids={})

    monkeypatch.setattr("shibolet.rounds.reproduce.reproduce", say)
    return calls


def test_a_rejected_round_is_published_only_by_force(current, repeated):
    assert not Comparison.read(current.folder.compare).is_kept
    with pytest.raises(Rejected, match=r"not published: .* --force") as caught:
        do_publish(current, CONFIG, upload=False)
    assert caught.value.exit_code == 40 and not current.folder.publish.exists()
    model = Path(do_publish(current, CONFIG, force=True, upload=False))
    assert "published all the same" in (model / "README.md").read_text()


@pytest.mark.parametrize("layout", ["native", "legacy"])
def test_a_failed_upload_leaves_the_export_and_the_command_that_goes_on(current, repeated, hub, layout, monkeypatch):
    monkeypatch.setattr("shibolet.publish.upload.ATTEMPTS", 1)
    config = PublishConfig(to="org/name", layout=layout)
    hub.cut = 3
    with pytest.raises(UploadError, match=r"To go on: shibolet publish .*run --to org/name") as caught:
        do_publish(current, config, force=True)
    assert f"--layout {layout} --private --force" in str(caught.value) and caught.value.exit_code == 60
    assert load_recogniser(str(current.folder.publish / "model"))
    hub.cut = None
    assert do_publish(current, config, force=True).startswith(f"{hub.url}/org/name/commit/")
    assert len(repeated) == 1  # the export was there
    files = hub.repos["org/name"]["files"]
    assert files.keys() == {path.name for path in (current.folder.publish / "model").iterdir()}
    assert hub.repos["org/name"]["private"] in (True, "private")


def test_the_commit_names_the_round_by_its_title(tmp_path, monkeypatch):
    """Every round's commit once said Round 2."""
    said = []
    monkeypatch.setattr("shibolet.rounds.publish.export_round", lambda *args, **settings: None)
    monkeypatch.setattr(
        "shibolet.publish.upload.upload_folder", lambda folder, to, *, private, message: said.append(message) or "page"
    )
    recipe = load_recipe("hebrew-round3", ["models.base=builtin:round1", "models.baseline=builtin:round1"])
    with open_round(recipe, tmp_path / "run", "publish", lambda sentence: None) as current:
        assert do_publish(current, CONFIG) == "page"
    assert said == ["Round 3 of hebrew-round3"]


def test_no_token_path_or_machine_in_any_file(current, repeated, tmp_path, monkeypatch):
    token = "hf_" + "Z9q" * 11
    monkeypatch.setenv("HF_TOKEN", token)
    model = Path(do_publish(current, CONFIG, force=True, upload=False))
    whole = b"".join(path.read_bytes() for path in model.rglob("*") if path.is_file())
    assert len(whole) > 100_000
    for secret in (token, str(tmp_path), str(Path.home()) + "/", str(Path(__file__).parents[2])):
        assert secret.encode() not in whole


@pytest.mark.slow("publish", seconds=15)
def test_the_export_repeats_the_evaluation_in_a_fresh_process(current):
    done = reproduce(current, current.folder.final, "round2")
    assert done.hypotheses >= 20 and len(done.ids["noise"]) == done.hypotheses
    hypotheses = current.folder.hypotheses("round2", "noise")
    rows = read_jsonl(hypotheses)
    assert sum(bool(row["hypothesis"]) for row in rows) > 10  # there is something to repeat
    wrong = done.ids["noise"][0]
    write_jsonl(hypotheses, [{**row, "hypothesis": "other"} if row["id"] == wrong else row for row in rows])
    with pytest.raises(ModelError, match=f"1 of {done.hypotheses} hypotheses differ, the first is '{wrong}'"):
        reproduce(current, current.folder.final, "round2")


def test_whole_batches_are_those_that_the_evaluation_had():
    rng = np.random.default_rng(0)
    utterances = [
        Utterance(id=str(i), audio=AudioRef(path=""), text="", duration_s=float(rng.uniform(1, 9)), source="s")
        for i in range(103)
    ]

    def batches(members: list[Utterance]) -> list[list[str]]:
        return [[members[i].id for i in places] for places in batches_of(members, 8)]

    for wanted in (1, 5, 20, 90, 500):
        chosen = whole_batches(utterances, 8, wanted)
        assert min(wanted, 103) <= len(chosen) <= min(103, wanted + 8)
        assert all(batch in batches(utterances) for batch in batches(chosen))
