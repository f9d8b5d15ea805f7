"""Data in a store of objects: protects from lost rows, and from blaming a clip for what the store does."""

import json

import numpy as np
import pytest
from object_store import URL

from shibolet.errors import StoreError
from shibolet.recipe import load_recipe, write_recipe
from shibolet.records import objects, store
from shibolet.records.manifest import manifest_hash, read_manifest, write_manifest
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import content_hash, encode_flac, load, stream
from shibolet.speech.manifests import count_rows
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource

SECOND = encode_flac(np.sin(np.arange(16000) / 10).astype(np.float32) / 2)


def lines(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def source_of(place: object, **keys) -> DataSource:
    return DataSource(name="speech", manifest=place, **keys)


def test_rows_of_a_manifest_there_are_those_of_one_here(object_store, tmp_path):
    """The same data have the same digest wherever they lie: a moved corpus is not heard again."""
    (tmp_path / "clips").mkdir()
    for name in ("a.flac", "b.flac"):
        (tmp_path / "clips" / name).write_bytes(SECOND)
        object_store.put(f"set/clips/{name}", SECOND)
    rows = lines(
        {"audio": "clips/a.flac", "text": "one"}, {"audio": "clips/b.flac", "text": "two", "start_s": 0.5, "end_s": 1.0}
    )
    (tmp_path / "m.jsonl").write_bytes(rows)
    found = [
        read_source(source_of(place), tmp_path)
        for place in (str(tmp_path / "m.jsonl"), object_store.put("set/m.jsonl", rows))
    ]
    (here, _), (there, ledger) = found
    assert [u.audio.path for u in there] == [f"{URL}/set/clips/a.flac", f"{URL}/set/clips/b.flac"] and not ledger
    assert [(u.id, u.text, u.duration_s, u.audio.start_s) for u in here] == [
        (u.id, u.text, u.duration_s, u.audio.start_s) for u in there
    ]
    for whole in (False, True):
        assert manifest_hash(here, whole=whole) == manifest_hash(there, whole=whole)
    for one, other in zip(here, there, strict=True):
        assert content_hash(one.audio) == content_hash(other.audio)
        assert np.array_equal(load(one.audio), load(other.audio))
    assert sum(map(len, stream(there[0].audio.path))) == 16000
    assert object_store.requests["GET"] == 3  # the manifest and two recordings, each once


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set/here.jsonl", lines({"audio": f"{URL}/set/clips/a.flac", "text": "one"})),
        ("other/up.jsonl", lines({"audio": "../set/clips/a.flac", "text": "one"})),
        ("set/nemo.jsonl", lines({"audio_filepath": "clips/a.flac", "text": "one", "duration": 1.0})),
        ("set/table.csv", b"audio,text\nclips/a.flac,one\n"),
        ("set/train.tsv", b"path\tsentence\na.flac\tone\n"),
    ],
)
def test_paths_in_a_manifest_there_start_where_it_is(object_store, tmp_path, name, content):
    object_store.put("set/clips/a.flac", SECOND)
    [only], _ = read_source(source_of(object_store.put(name, content)), tmp_path)
    assert only.audio.path == f"{URL}/set/clips/a.flac" and only.text == "one"


def test_lhotse_finds_the_recordings_beside_the_supervisions(object_store, tmp_path):
    object_store.put("set/a.flac", SECOND)
    recording = {
        "id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.flac"}], "sampling_rate": 16000,
        "num_samples": 16000, "duration": 1.0,
    }  # fmt: skip
    supervision = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": "one"}
    first = object_store.put("set/x_recordings_y.jsonl", lines(recording))
    second = object_store.put("set/x_supervisions_y.jsonl", lines(supervision))
    for place in (first, second):
        [only], _ = read_source(source_of(place), tmp_path)
        assert only.audio.path == f"{URL}/set/a.flac"


def test_audio_that_is_not_there_is_the_rows_fault_and_a_refusal_is_not(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "TRIES", 1)
    object_store.put("set/a.flac", SECOND)
    place = object_store.put(
        "set/m.jsonl", lines({"audio": "a.flac", "text": "one"}, {"audio": "none.flac", "text": "two"})
    )
    utterances, [line] = read_source(source_of(place), tmp_path)
    assert len(utterances) == 1 and (line.rule, line.id) == ("missing_file", "none.flac")
    objects.fetch_ahead([f"{URL}/set/none.flac", "/no/file/here"])
    objects._KNOWN.pop(f"{URL}/set/a.flac")
    object_store.denies = ("HEAD",)
    with pytest.raises(StoreError, match=f"{URL}/set/(a|none).flac cannot be read: Forbidden"):
        read_source(source_of(place), tmp_path)
    with pytest.raises(StoreError, match="Forbidden"):
        load(AudioRef(path=f"{URL}/set/a.flac"))


def test_urls_stay_in_files_and_recipes(object_store, tmp_path):
    object_store.put("set/a.flac", SECOND)
    place = object_store.put("set/m.jsonl", lines({"audio": "a.flac", "text": "one"}))
    source = source_of(place)
    assert source.model_dump(mode="json")["manifest"] == place and count_rows(source) == 1
    utterances, _ = read_source(source, tmp_path)
    write_manifest(tmp_path / "own.jsonl", utterances)
    assert read_manifest(tmp_path / "own.jsonl") == utterances
    recipe = load_recipe("whisper-small-data", [f"data.train.0.manifest={place}"])
    write_recipe(recipe, tmp_path / "run" / "recipe.yaml")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.train[0].manifest == place
    ref = utterances[0].audio
    assert ref.from_folder(tmp_path) == ref == ref.in_folder(tmp_path)


def test_tables_and_folders_there_are_refused_with_the_way_on(object_store, tmp_path):
    with pytest.raises(ValueError, match="of tables only those of this machine are read"):
        DataSource(name="x", parquet=f"{URL}/*.parquet")
    object_store.put("set/a.flac", SECOND)
    with pytest.raises(StoreError, match=f"{URL}/set is a folder of the store; name an object in it"):
        read_source(source_of(f"{URL}/set"), tmp_path)
