"""A round and its mirror: protects from a good end without a copy in the store, and from a store that ends a round."""

import time

import pytest
from object_store import URL

from shibolet.errors import DiskError, RecipeError, StoreError, UploadError
from shibolet.recipe import load_recipe
from shibolet.records import store
from shibolet.records.mirror import STATE
from shibolet.rounds import mirroring
from shibolet.rounds.check import check_recipe
from shibolet.rounds.mirroring import mirrored
from shibolet.rounds.shared import open_round

PLACE = f"{URL}/runs/mine"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def names(object_store) -> str:
    """The index of the mirror as text."""
    return object_store.get("runs/mine/index.json").decode() if "runs/mine/index.json" in object_store.names() else ""


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)


def test_a_stage_is_in_the_store_while_the_next_one_works(object_store, folder):
    with mirrored(folder, PLACE, print) as send:
        (folder / "gate.json").write_text("{}")
        send()
        wait_for(lambda: "gate.json" in names(object_store))
        (folder / "last").write_text("")
    assert "last" in names(object_store)


def test_what_other_processes_write_is_sent_from_time_to_time(object_store, folder, monkeypatch):
    """A checkpoint is written by any process of a training, and no stage ends for hours."""
    monkeypatch.setattr(mirroring, "EVERY_S", 0.05)
    with mirrored(folder, PLACE, print):
        (folder / "checkpoint").write_text("")
        wait_for(lambda: "checkpoint" in names(object_store))


def test_a_store_that_fails_does_not_end_the_round_and_is_told_at_its_end(object_store, folder, monkeypatch):
    monkeypatch.setattr(store, "TRIES", 1)
    told = []
    with pytest.raises(
        UploadError, match=r"is whole on this machine, but not in s3://speech/runs/mine: .*Access Denied"
    ):
        with mirrored(folder, PLACE, told.append) as send:
            (folder / "gate.json").write_text("{}")
            object_store.denies = ("PUT",)
            send()
            wait_for(lambda: len(told) == 2)
    assert "The round goes on, and the mirror is tried again" in told[1]
    object_store.denies = ()
    with mirrored(folder, None, told.append):  # the folder knows its mirror
        pass
    assert "gate.json" in names(object_store)


def test_an_error_of_the_round_is_the_one_that_counts(object_store, folder):
    told = []
    with pytest.raises(DiskError, match="full"):
        with mirrored(folder, PLACE, told.append):
            (folder / "gate.json").write_text("{}")
            raise DiskError("full")
    assert "gate.json" in names(object_store)
    with pytest.raises(DiskError, match="full"):
        with mirrored(folder, PLACE, told.append):
            (folder / "other").write_text("{}")
            object_store.denies = ("PUT",)
            raise DiskError("full")
    assert "cannot be written" in told[-1]


def test_whoever_interrupts_does_not_wait_for_the_network(object_store, folder):
    with pytest.raises(KeyboardInterrupt):
        with mirrored(folder, PLACE, print):
            (folder / "gate.json").write_text("{}")
            raise KeyboardInterrupt
    assert not names(object_store)


def test_a_remembered_mirror_that_is_gone_says_how_to_work_without_it(object_store, folder):
    with mirrored(folder, PLACE, print):
        pass
    object_store.denies = ("PUT",)
    with pytest.raises(StoreError, match=rf"To work without the mirror, delete {folder / STATE}"):
        with mirrored(folder, None, print):
            pass
    (folder / STATE).unlink()
    with mirrored(folder, None, print) as send:
        send()
    with pytest.raises(RecipeError, match="--mirror runs/mine: write a folder of a store"):
        with mirrored(folder, "runs/mine", print):
            pass


def test_an_opened_round_has_its_recipe_in_the_store(object_store, tmp_path):
    with open_round(load_recipe("demo"), tmp_path / "run", "run", print, mirror=PLACE) as current:
        stage = current.begin("gate", {})
        (tmp_path / "run" / "gate.json").write_text("{}")
        current.finish(stage)
        wait_for(lambda: ".stages/gate.json" in names(object_store))
    assert all(name in names(object_store) for name in ("recipe.yaml", "provenance.json", "timings.jsonl"))


def test_check_tells_whether_the_store_can_be_read_and_written(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "TRIES", 1)
    place = object_store.put("set/m.jsonl", b'{"audio": "a.wav", "text": "one"}')
    recipe = load_recipe("whisper-small-data", [f"data.train.0.manifest={place}"])

    def found() -> dict[str, str]:
        checked = check_recipe(recipe, tmp_path, mirror=PLACE)
        return {f.what: f"{f.state}: {f.found}" for f in checked.findings if f.what in ("train: recordings", "mirror")}

    assert "missing: s3://speech/set/a.wav cannot be read: the store has no such object" in found()["train: recordings"]
    object_store.put("set/a.wav", b"sound")
    assert found() == {
        "train: recordings": "ok: 1 rows; s3://speech/set/a.wav can be read, 5 bytes",
        "mirror": "ok: s3://speech/runs/mine can be written and read",
    }
    assert [name for name in object_store.names() if name.startswith("runs")] == []
    object_store.denies = ("PUT",)
    assert "missing: s3://speech/runs/mine/.probe-" in found()["mirror"]
