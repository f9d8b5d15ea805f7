"""Rows with timestamps and previous texts in a round: protects from markup in texts, and from times of other audio."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from audit_documents import audited, gate_verdict
from spoken import raw_times, record
from whisper_models import save_whisper

from shibolet.recipe import load_recipe
from shibolet.records.audited import write_audited
from shibolet.records.documents.plan import Plan
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.rounds import scoring, stages
from shibolet.rounds.fit import misfits
from shibolet.rounds.shared import open_round
from shibolet.speech.whisper_slices import parse_slice

TRAINED = {"cross_attention": 1e-3, "decoder.layers": 1e-3, "decoder.norm": 1e-3}
SECONDS = re.compile(r"<\|[\d.]+\|>")


def written(folder: Path, phrases: list[list[int]]) -> dict[str, list]:
    """A manifest with a segment for each phrase; the true times of the words of each row."""
    rng, rows, times_of = np.random.default_rng(0), [], {}
    for number, lengths in enumerate(phrases):
        samples, words, times = record(lengths, rng, (1.2, 1.6))
        sf.write(folder / f"{number}.wav", samples, 16_000)
        at, text = 0, ""
        for length in lengths:
            start_s, end_s = times[at][0], times[at + length - 1][1]
            text += f"<|{start_s:.2f}|> {' '.join(words[at : at + length])}<|{end_s:.2f}|>"
            at += length
        before = {"has_prev": True, "prev_transcript": f"<|0.00|> לפני {number}<|1.00|>"} if number % 2 else {}
        row = {"id": f"u{number}", "audio": f"{number}.wav", "text": text, "speaker": f"s{number // 2}"}
        rows.append({**row, **before, "recording": f"r{number}"})
        times_of[f"u{number}"] = times
    write_jsonl(folder / "data.jsonl", rows)
    return times_of


def heard(utterances, times_of: dict[str, list]) -> list:
    """The rows of an audit that knows the true times."""
    rng, found = np.random.default_rng(1), []
    for one in utterances:
        words = tuple(one.text.split())
        starts_s, ends_s = raw_times(times_of[one.id], rng, outlier_frac=0)
        row = {"source": one.source, "text": one.text, "coverage": 1.0, "hypothesis": one.text, "words": words}
        found.append(audited(one.id, **row, starts_s=tuple(starts_s), ends_s=tuple(ends_s)))
    return found


@pytest.mark.slow("train", seconds=15)
def test_a_round_of_such_rows(tmp_path: Path):
    times_of = written(tmp_path, [*[[3, 2]] * 10, [6] * 7])
    base = save_whisper(tmp_path / "base")
    phases = [{"name": "B", "num_epochs": 2, "lr_by_part": TRAINED}]
    changes = [
        f"models={{base: {base}, baseline: {base}}}",
        f"data.train=[{{name: crowd, manifest: {tmp_path}/data.jsonl, timestamps: true}}]",
        f"evaluate.sets=[{{name: new, manifest: {tmp_path}/data.jsonl, timestamps: false, max_utterances: 2}}]",
        f"train={{phases: {phases}, lora: null, untie_head: false, precision: fp32, utterances_per_step: 4}}",
        "prepare.unheard=keep", "prepare.dev_frac=0.2", "num_threads=1",
        "audit.num_workers=0", "audit.sample.sample_frac=1.0", "evaluate.audit_sets=false",
    ]  # fmt: skip
    recipe = load_recipe("demo", changes)
    assert list(misfits(recipe)) == []
    with open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current:
        folder = current.folder
        gate_verdict("PROCEED").write(folder.gate())
        write_audited(folder.audited_utterances(), heard(current.data.utterances, times_of))
        folder.seal("audit", {"data": current.data.digest})
        folder.seal("gate")
        stages.do_prepare(current)
        stages.do_train(current)
        scores = scoring.do_evaluate(current, scoring.candidates_of(current))
        said = [one.text for one in current.data.utterances]
    tables = [row for path in sorted(folder.prepared.glob("*-0*.parquet")) for row in pq.read_table(path).to_pylist()]
    pieces = [row for row in tables if row["origin_id"] == "u10"]
    whole = [row for row in tables if row["origin_id"] != "u10"]
    assert len(whole) == 10 and len(pieces) > 1 and [row["timed_text"] for row in pieces] == [None] * len(pieces)
    for row in whole:
        number, segments = int(row["id"][1:]), parse_slice(row["timed_text"]).segments
        assert row["previous"] == (f"לפני {number}" if number % 2 else None)
        assert " ".join(one.text for one in segments) == row["text"] and row["origin_start_s"] > 0.1
        true_s = np.array([times_of[row["id"]][word][end] for word, end in ((0, 0), (2, 1), (3, 0), (4, 1))])
        found_s = np.array([at for one in segments for at in (one.start_s, one.end_s)])
        assert np.abs(found_s + row["origin_start_s"] - true_s).max() < 0.11
    assert not any(SECONDS.search(text) for text in [*said, *(row["text"] for row in tables)])
    metrics = read_jsonl(folder.train / "metrics.jsonl")
    assert max(row["tokens"] for row in metrics) > min(row["tokens"] for row in metrics if row["utterances"] == 4)
    longest = Plan.read(folder.plan).training_set
    epochs = [[row for row in metrics if epoch < row["epoch"] <= epoch + 1] for epoch in (0, 1)]
    assert len(epochs[0]) == len(epochs[1]) and {sum(row["targets"] for row in part) for part in epochs}
    assert all(sum(row["tokens"] for row in part) < longest.tokens for part in epochs)  # which counts what is longest
    assert set(scores) == {"round1", "round2"}
    files = (
        path for path in folder.path.rglob("*.json*") if path.name != "manifest.jsonl" and "data" not in path.parts
    )
    leaks = [str(path) for path in files if "final" not in path.parts and SECONDS.search(path.read_text("utf-8"))]
    assert leaks == []


def test_a_qwen_says_that_it_writes_no_timestamps():
    changes = ["data.train.0.timestamps=true"]
    (error,) = misfits(load_recipe("demo", changes))
    assert re.search(r"timestamps of 'synthetic': models\.base '.*' is a Qwen3-ASR, which writes no timest", str(error))
    (error,) = misfits(load_recipe("demo", ["train.timestamps_frac=0.5"]))
    assert str(error).startswith("train.timestamps_frac: models.base")
    assert list(misfits(load_recipe("demo", ["train.previous_text_frac=0.5"]))) == []
