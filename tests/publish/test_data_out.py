"""Data for other programs: protects from audio that is another one's, rows that are lost, and paths that are ours."""

import gzip
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from shibolet.errors import DataError
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.stage import run_prepare
from shibolet.publish.data import export_data
from shibolet.records.documents.labelled import Author, Labelled, Threshold
from shibolet.records.machine_texts import MachineText
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import encode_flac

_spec = importlib.util.spec_from_file_location("a_run", Path(__file__).parents[1] / "report" / "conftest.py")
a_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(a_run)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """What prepare keeps of 40 clips, in several shards; clip i is a tone whose pitch grows with i."""
    root, utterances = tmp_path_factory.mktemp("data"), []
    for i in range(40):
        path = root / f"{i}.flac"
        path.write_bytes(encode_flac(tone(i)))
        utterances.append(
            Utterance(
                id=f"a/{i}", audio=AudioRef(path=str(path)), text=f"שלום {i}", duration_s=1.0 + i / 100, source="mine",
                speaker=f"s{i // 4}", language="Hebrew",
            )
        )  # fmt: skip
    config = PrepareConfig(dev_frac=0.2, unheard="keep", shard_utterances=10)
    run = RunFolder(root / "run")
    run_prepare(utterances, {}, config=config, language="Hebrew", seed=0, out_dir=run.prepared)
    return run


def tone(i: int) -> np.ndarray:
    num_samples = round(16000 * (1.0 + i / 100))
    return (0.3 * np.sin(np.arange(num_samples) * (0.02 + 0.005 * i))).astype(np.float32)


def check_audio(samples: np.ndarray, text: str) -> None:
    expected = tone(int(text.split()[1]))
    assert len(samples) == len(expected) and np.abs(samples - expected).max() < 1e-3


def test_a_datasets_folder_loads_as_it_stands(run, tmp_path):
    counts = export_data(run, tmp_path / "out", "datasets")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == counts and sum(counts.values()) == 40
    assert len(list((tmp_path / "out" / "data").glob("train-*-of-*.parquet"))) > 1
    rows = loaded["dev"].cast_column("audio", datasets.Audio(decode=False)).to_list()
    assert rows and all(row["audio"]["bytes"][:4] == b"fLaC" for row in rows)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| train | {counts['train']} |" in card and "language: he" in card


def test_lhotse_manifests_name_each_clip_with_its_samples(run, tmp_path):
    counts, out = export_data(run, tmp_path / "out", "lhotse"), tmp_path / "out"
    for split, count in counts.items():
        recordings, supervisions = (
            [json.loads(line) for line in gzip.open(out / f"{split}_{kind}.jsonl.gz", "rt", encoding="utf-8")]
            for kind in ("recordings", "supervisions")
        )
        assert len(recordings) == len(supervisions) == count > 0
        for recording, supervision in zip(recordings, supervisions, strict=True):
            samples, rate_hz = sf.read(out / recording["sources"][0]["source"], dtype="float32")
            assert recording["id"] == supervision["recording_id"] and rate_hz == recording["sampling_rate"] == 16000
            assert recording["num_samples"] == len(samples)
            assert recording["duration"] == supervision["duration"] == len(samples) / 16000
            check_audio(samples, supervision["text"])


def test_nemo_manifests_are_relative_to_themselves(run, tmp_path):
    counts, out = export_data(run, tmp_path / "out", "nemo"), tmp_path / "out"
    for split, count in counts.items():
        lines = [json.loads(line) for line in (out / f"{split}_manifest.jsonl").read_text().splitlines()]
        assert len(lines) == count > 0 and {line["lang"] for line in lines} == {"he"}
        for line in lines:
            samples, _ = sf.read(out / line["audio_filepath"], dtype="float32")
            assert line["duration"] == len(samples) / 16000
            check_audio(samples, line["text"])


def test_who_wrote_a_text_leaves_with_it_and_a_model_is_named_without_its_path(tmp_path):
    """Else a text by a machine is a person's to all who get the data, and its errors are learned as truth."""
    run, utterances = RunFolder(tmp_path / "run"), []
    for i in range(30):
        (path := tmp_path / f"{i}.flac").write_bytes(encode_flac(tone(i)))
        utterances.append(
            Utterance(
                id=f"a{i}", audio=AudioRef(path=str(path)), text=f"שלום {i}", duration_s=1.0 + i / 100, source="mine",
                speaker=f"s{i}", domain="phone" if i == 4 else None,
            )
        )  # fmt: skip
    kinds = {"a3": "labelled", "a4": "corrected", "a5": "taken_back"}
    texts = [
        (one, MachineText(id=one.id, kind=kinds[one.id], text=one.text, written="", heard="", disagreement=0.0))
        for one in utterances[3:6]
    ]
    config = PrepareConfig(dev_frac=0.1, unheard="keep")
    run_prepare(utterances, {}, config=config, language="Hebrew", seed=0, out_dir=run.prepared, machine_texts=texts)
    limit = Threshold(limit=None, clips=0, steps=())
    author = Author(domain="phone", clips=9, writer_wer_pct=9, listener_wer_pct=1, chance=0.01, by="listener")
    Labelled(
        writer=str(tmp_path / "round2" / "train" / "final"), listener="org/model", max_wer=0.2, max_false_accept_pct=5,
        agreement=limit, given=None, habits=(), sources={}, flagged=None, sentence="", notes=(), authors=(author,),
    ).write(run.labelled / "label.json")  # fmt: skip
    expected = {"a3": ("labelled", "round2"), "a4": ("corrected", "org/model"), "a5": ("data", None)}
    export_data(run, tmp_path / "nemo", "nemo")
    lines = [json.loads(line) for line in (tmp_path / "nemo" / "train_manifest.jsonl").read_text().splitlines()]
    found = {line["id"]: (line["text_by"], line.get("text_model")) for line in lines}
    assert {id: found[id] for id in expected} == expected and found["a1"] == ("data", None)
    export_data(run, tmp_path / "lhotse", "lhotse")
    custom = {
        row["id"]: row["custom"] for row in map(json.loads, gzip.open(tmp_path / "lhotse/train_supervisions.jsonl.gz"))
    }
    assert {id: (custom[id]["text_by"], custom[id].get("text_model")) for id in expected} == expected
    export_data(run, tmp_path / "datasets", "datasets")
    card = (tmp_path / "datasets" / "README.md").read_text(encoding="utf-8")
    assert "wrote the text, round2 or org/model: 1 utterances (0.000 h) corrected, 1 utterances (0.000 h) label" in card
    assert str(tmp_path) not in card


def test_verdicts_of_every_pass_without_paths_of_ours(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    rng = np.random.default_rng(1)
    a_run.write_audit(run, rng, bad_frac=0.2), a_run.write_audit(run, rng, bad_frac=0.1, prepared=True)
    counts = export_data(run, tmp_path / "out", "verdicts")
    table = pq.read_table(tmp_path / "out" / "verdicts.parquet")
    assert counts == {"sample": 561, "kept": 561} and table.num_rows == 1122
    assert {"is_low_quality", "coverage", "confidence", "suspect", "hypothesis", "pass"} <= set(table.column_names)
    assert {row["audio"]["path"] for row in table.to_pylist() if row["audio"]} == {f"{i}.wav" for i in range(8)}
    original = pq.read_table(run.audited_utterances()).column("coverage").to_pylist()
    assert table.column("coverage").to_pylist()[:561] == original


def test_nothing_is_written_over_and_nothing_half(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists; name a new folder"):
        export_data(run, tmp_path / "out", "nemo")
    with pytest.raises(DataError, match="nothing was audited"):
        export_data(replace(run), tmp_path / "other", "verdicts")
    assert not (tmp_path / "other").exists()
