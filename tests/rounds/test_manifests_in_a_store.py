"""Commands that take a manifest by its path take it by its URL: protects from `s3:/bucket` that is not there."""

import json
from pathlib import Path

import numpy as np
import pytest
from object_store import URL

from shibolet.errors import DataError
from shibolet.rounds.verify.subject import FEWEST, read_clips
from shibolet.speech.audio import encode_flac
from shibolet.speech.read import read_source

OPTIONS = {
    "evaluate": ("--model", "builtin:round1", "--language", "Hebrew"),
    "combine": (
        "--language",
        "Hebrew",
        "--system",
        "a=a.jsonl",
        "--system",
        "b=b.jsonl",
        "--system",
        "c=c.jsonl",
        "--out",
        "vote.jsonl",
    ),
}


@pytest.fixture
def manifest(object_store, tmp_path: Path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"u{i}", "audio": f"clips/{i}.flac", "text": "שלום עולם"} for i in range(FEWEST)]
    for i in range(FEWEST):
        object_store.put(f"set/clips/{i}.flac", encode_flac(np.full(16000 + i, 0.1, np.float32)))
    for name in ("a", "b", "c"):
        lines = (json.dumps({"id": row["id"], "hypothesis": "שלום"}) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return object_store.put("set/m.jsonl", "\n".join(map(json.dumps, rows)).encode())


def test_systems_vote_on_it(manifest, run_cli, tmp_path: Path):
    code, _, err = run_cli("combine", "--manifest", manifest, *OPTIONS["combine"], "--transcripts", "won.jsonl")
    assert code == 0, err
    won = [json.loads(line) for line in (tmp_path / "won.jsonl").read_text().splitlines()]
    assert [(row["audio"]["path"], row["text"]) for row in won] == [
        (f"{URL}/set/clips/{i}.flac", "שלום") for i in range(FEWEST)
    ]


def test_a_model_is_scored_on_it(manifest, run_cli, monkeypatch):
    def see(source, *how):
        utterances, _ = read_source(source, *how)
        raise DataError(f"{source.name} has {len(utterances)} from {utterances[0].audio.path} on")

    monkeypatch.setattr("shibolet.speech.read.read_source", see)
    code, _, err = run_cli("evaluate", "--manifest", manifest, *OPTIONS["evaluate"])
    assert code == 3 and f"m has {FEWEST} from {URL}/set/clips/0.flac on" in " ".join(err.split())


def test_a_model_is_verified_on_it(manifest):
    clips = read_clips(manifest, "Hebrew", FEWEST)
    assert {clip.utterance.audio.path for clip in clips} == {f"{URL}/set/clips/{i}.flac" for i in range(FEWEST)}
    with pytest.raises(DataError, match="the store has no such object, folder or bucket"):
        read_clips(f"{manifest}.gone", "Hebrew")


@pytest.mark.parametrize("command", OPTIONS)
def test_a_manifest_that_is_not_there_is_one_sentence(manifest, run_cli, command):
    for place, found, sentence in (
        (f"{manifest}.gone", 3, f"{manifest}.gone cannot be read: the store has no such object, folder or bucket"),
        ("ftp://host/m.jsonl", 2, "'ftp://host/m.jsonl' cannot be read: name a path of this machine, or a URL"),
    ):
        code, out, err = run_cli(command, "--manifest", place, *OPTIONS[command])
        assert (code, out) == (found, "") and sentence in " ".join(err.split()), err
