"""Data in a store of objects: protects from lost rows, and from blaming a clip for what the store does."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import URL

from shibolet.errors import DataError, RecipeError, StoreError
from shibolet.recipe import load_recipe, write_recipe
from shibolet.records import objects, store
from shibolet.records.manifest import manifest_hash, read_manifest, write_manifest
from shibolet.records.store import NoObject
from shibolet.records.utterance import AudioRef
from shibolet.speech import folders
from shibolet.speech.audio import content_hash, encode_flac, load, stream
from shibolet.speech.manifests import count_rows, open_manifest
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource, UnlabelledSource

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


def table(*rows: dict) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def rows_of(utterances) -> list[tuple]:
    return [(u.id, u.text, u.duration_s, u.audio.row) for u in utterances]


def test_tables_there_are_those_here(object_store, tmp_path):
    """Of a cell that names a file, the path starts at its table; and a URL is one in a table of this machine too."""
    cells = [
        [{"audio": {"bytes": SECOND}, "text": "one"}, {"audio": {"bytes": b"no sound"}, "text": "bad"}],
        [{"audio": {"path": "clips/a.flac"}, "text": "two"}, {"audio": {"path": f"{URL}/far/b.flac"}, "text": "three"}],
    ]
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.flac").write_bytes(SECOND)
    for name in ("tables/clips/a.flac", "far/b.flac"):
        object_store.put(name, SECOND)
    for i, rows in enumerate(cells):
        (tmp_path / f"{i}.parquet").write_bytes(table(*rows))
        object_store.put(f"tables/{i}.parquet", table(*rows))
    object_store.put("tables/notes.txt", b"no table")
    object_store.put("tables/sub/9.parquet", b"not of the pattern")
    sources = [DataSource(name="x", parquet=f"{place}/*.parquet") for place in (tmp_path, f"{URL}/tables")]
    (here, here_left), (there, there_left) = (read_source(source, tmp_path) for source in sources)
    assert rows_of(here) == rows_of(there) and len(there) == 3
    assert [u.audio.path for u in there] == [
        f"{URL}/tables/0.parquet", f"{URL}/tables/clips/a.flac", f"{URL}/far/b.flac"
    ]  # fmt: skip
    assert [(one.id, one.rule) for one in here_left] == [(one.id, one.rule) for one in there_left] != []
    assert manifest_hash(here) == manifest_hash(there)
    for one, other in zip(here, there, strict=True):
        assert content_hash(one.audio) == content_hash(other.audio) and np.array_equal(
            load(one.audio), load(other.audio)
        )


def test_of_tables_there_no_more_are_fetched_than_are_read(object_store, tmp_path):
    """Protects from a terabyte on the way for ten utterances of its first table."""
    for i in range(3):
        object_store.put(f"tables/{i}.parquet", table({"audio": {"bytes": SECOND}, "text": "one"}))
    source = DataSource(name="x", parquet=f"{URL}/tables/*.parquet", max_utterances=1)
    utterances, _ = read_source(source, tmp_path)
    assert len(utterances) == 1 and len(list((tmp_path / "cache").rglob("*.parquet"))) == 1


def test_a_table_there_that_is_none_is_named_by_its_url(object_store, tmp_path):
    object_store.put("tables/0.parquet", b"not a table")
    for name, sentence in (
        ("tables/*.parquet", f"table {URL}/tables/0.parquet cannot be read"),
        ("tables/*.arrow", f"no file matches {URL}/tables/\\*.arrow"),
    ):
        with pytest.raises(DataError, match=sentence):
            read_source(DataSource(name="x", parquet=f"{URL}/{name}"), tmp_path)
    with pytest.raises(NoObject, match="no such object, folder or bucket"):
        read_source(DataSource(name="x", parquet="s3://nobody/*.parquet"), tmp_path)


FILES = {
    "a.flac": SECOND, "a.txt": b"one", "b.flac": SECOND, "z.flac": SECOND, "z.txt": b"last", "B/c.FLAC": SECOND,
    "B/c.txt": b"two", "B/alone.txt": b"no audio", "B/x/d.flac": SECOND, "B/x/d.txt": b"\xff\xff", "B-/e.flac": SECOND,
    "B-/e.txt": b"three", ".hidden/f.flac": SECOND, "B/.g.flac": SECOND, "metadata.csv": b"a,b", "B/h.flac": SECOND,
    "B/h.txt": b"", "שיחה #1+[2].flac": SECOND, "שיחה #1+[2].txt": b"odd name",
}  # fmt: skip


@pytest.mark.parametrize("kind", [DataSource, UnlabelledSource])
def test_a_folder_there_has_the_rows_of_one_here(object_store, tmp_path, kind):
    """In the same order too, which the digest has."""
    for name, content in FILES.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
        object_store.put(f"set/{name}", content)
    object_store.put("set/empty/", b"")  # as consoles mark a folder
    (here, here_left), (there, there_left) = (
        read_source(kind(name="x", manifest=place), tmp_path) for place in (tmp_path / "set", f"{URL}/set/")
    )
    assert rows_of(here) == rows_of(there) and manifest_hash(here) == manifest_hash(there) and len(here) >= 4
    assert there[0].audio.path == f"{URL}/set/a.flac"
    told = [[(one.id, one.rule, one.detail) for one in left] for left in (here_left, there_left)]
    assert told[0] == told[1] and (kind is UnlabelledSource or len(told[0]) == 4)
    source = kind(name="x", manifest=f"{URL}/set")
    assert objects.exists(source.manifest) and open_manifest(source).num_rows == len(here) + len(here_left)


def test_of_a_folder_there_texts_are_fetched_as_they_are_read(object_store, monkeypatch):
    """Protects from half a million requests where somebody asks for the first rows and the number of all."""
    monkeypatch.setattr(folders, "TEXTS_AT_ONCE", 2)
    for i in range(6):
        object_store.put(f"set/{i}.flac", SECOND)
        object_store.put(f"set/{i}.txt", b"text")
    manifest = open_manifest(source_of(f"{URL}/set/"))
    before = object_store.requests["GET"]
    assert next(manifest.rows) == ("0.flac", {"audio": "0.flac", "text": "text"}) and manifest.num_rows == 6
    assert object_store.requests["GET"] == before + 2


def test_what_is_no_folder_and_no_place_is_one_sentence(object_store, tmp_path):
    for name in ("empty", "empty/"):
        with pytest.raises(NoObject, match=f"{URL}/{name} cannot be read: the store has no such object, folder"):
            read_source(source_of(f"{URL}/{name}"), tmp_path)
    object_store.put("odd/a/../b.flac", SECOND)
    with pytest.raises(StoreError, match=rf"{URL}/odd/a/../b.flac is no path"):
        read_source(source_of(f"{URL}/odd"), tmp_path)
    for place in ("http://host/set.jsonl", "S3://speech/set.jsonl"):
        for key in ("manifest", "parquet"):
            with pytest.raises(RecipeError, match=f"{key}: .*'{place}' cannot be read: .* begins with s3:// or gs://"):
                load_recipe("whisper-small-data", [f"data.train=[{{name: x, {key}: '{place}'}}]"])
