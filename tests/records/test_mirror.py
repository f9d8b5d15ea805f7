"""A run folder's mirror in a store: protects from half a stage there, from two machines on one round, and from loss."""

import json
import os
from pathlib import Path

import pytest
from object_store import URL

from shibolet.errors import DataError, StoreError
from shibolet.records import mirror, store
from shibolet.records.mirror import STATE, Mirror, mirror_of

PLACE = f"{URL}/runs/mine"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "run", {"recipe.yaml": b"name: x", ".stages/audit.json": b"begun", "audit/heard/a": b"1"})


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if name != STATE}


def opened(folder: Path) -> Mirror:
    folder.mkdir(exist_ok=True)
    found = Mirror(folder, PLACE)
    found.open()
    return found


def test_an_empty_folder_becomes_what_was_sent(object_store, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "_LARGE_BYTES", 1 << 10)  # from here on a file is sent from the disk
    left_out = {".lock": b"", "train/encoder_cache/x": b"x", "train/.step-1.partial/x": b"x", "audit/.a.partial": b"x"}
    write(folder, {"train/final/model": bytes(100_000), "report.html": b"<p>", **left_out})
    assert opened(folder).send() and not opened(folder).send()
    fetched = tmp_path / "other"
    said = Mirror(fetched, PLACE)
    fetched.mkdir()
    assert "fetched 5 files (0.1 MB)" in said.open()
    assert content_of(fetched) == {name: c for name, c in content_of(folder).items() if name not in left_out}
    assert object_store.get("runs/mine/report.html") == b"<p>" and mirror_of(fetched) == PLACE
    assert not said.send()  # it is the same
    write(fetched, {"gate.json": b"{}"})
    assert said.send()


def test_looking_at_a_round_leaves_it_to_the_machine_that_works_on_it(object_store, folder, tmp_path, run_cli):
    first = opened(folder)
    first.send()
    code, said, _ = run_cli("pull", PLACE, str(tmp_path / "copy"))
    assert (code, content_of(tmp_path / "copy")) == (0, content_of(folder)) and "fetched 3 files" in said
    assert mirror_of(tmp_path / "copy") is None
    write(folder, {"gate.json": b"{}"})
    assert first.send()
    for place, new, why in (
        (PLACE, "copy", "is not empty; name a new folder"),
        (f"{URL}/none", "other", "has no run folder"),
        ("runs/mine", "other", "write a folder of a store"),
    ):
        code, _, errors = run_cli("pull", place, str(tmp_path / new))
        assert code in (2, 3) and why in errors


def test_a_crash_at_any_request_leaves_the_folder_of_one_moment(object_store, folder, tmp_path, monkeypatch):
    """What a machine finds that takes over is the state before or the state after, whenever the other one ended."""
    write(folder, {"prepared/a": b"old a", "prepared/b": b"old b"})
    sender = opened(folder)
    sender.send()
    before = content_of(folder)
    write(folder, {".stages/audit.json": b"done", "prepared/a": b"new a", "prepared/b": b"new b", "c": b"c"})
    after = content_of(folder)
    put, left = store.write, 0

    def crashing(url: str, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        put(url, content)

    found = []
    for allowed in range(7):
        left = allowed
        monkeypatch.setattr(store, "write", crashing)
        try:
            sender.send()
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(store, "write", put)
        opened(other := tmp_path / f"other{allowed}")
        found.append(content_of(other))
    assert found[0] == before and found[-1] == after and all(one in (before, after) for one in found)


@pytest.mark.parametrize("run", ["", "turn2/"])
@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_folder_that_changes_while_it_is_sent_is_looked_at_again(
    object_store, folder, tmp_path, monkeypatch, is_deleted, run
):
    """A marker of before with files of after, or half of a checkpoint that was deleted, never was.

    Nor in one of the run folders that a loop has.
    """
    checkpoint = folder / run / "train/checkpoints/1"
    write(checkpoint, {"COMPLETE": b"", "weights": b"w"})
    write(folder, {f"{run}.stages/audit.json": b"begun"})
    sender, put, done = opened(folder), store.write, []

    def moving(url: str, content: bytes) -> None:
        put(url, content)
        if not done:
            done.append(url)
            if is_deleted:
                (checkpoint / "COMPLETE").unlink()
                (checkpoint / "weights").unlink()
            else:
                write(folder, {f"{run}.stages/audit.json": b"done", f"{run}audit/table": b"t"})

    monkeypatch.setattr(store, "write", moving)
    monkeypatch.setattr(mirror, "_LANES", 1)
    assert sender.send() and done
    opened(tmp_path / "other")
    assert content_of(tmp_path / "other") == content_of(folder)


def test_one_machine_works_on_a_round(object_store, folder, tmp_path):
    first = opened(folder)
    first.send()
    second = opened(tmp_path / "other")
    write(tmp_path / "other", {"gate.json": b"second"})
    second.send()
    write(folder, {"gate.json": b"first"})
    with pytest.raises(StoreError, match=r"was written by .*, and not by this command"):
        first.send()
    with pytest.raises(DataError, match=r"does not go on from that. To go on from the store, name a new folder"):
        opened(folder)
    assert content_of(opened(tmp_path / "third")._folder)["gate.json"] == b"second"
    with pytest.raises(DataError, match="does not go on"):
        opened(write(tmp_path / "foreign", {"recipe.yaml": b"other"}))


def test_a_machine_that_ended_while_it_wrote_the_index_goes_on(object_store, folder, monkeypatch):
    """Nobody knows then whether the index came to stand."""
    sender = opened(folder)
    sender.send()
    put = store.write

    def written_and_killed(url: str, content: bytes) -> None:
        put(url, content)
        if url.endswith("index.json"):
            raise KeyboardInterrupt

    monkeypatch.setattr(store, "write", written_and_killed)
    write(folder, {"gate.json": b"x"})
    with pytest.raises(KeyboardInterrupt):
        sender.send()
    monkeypatch.setattr(store, "write", put)
    write(folder, {"gate.json": b"y"})
    assert opened(folder).send()


def test_half_a_fetch_is_finished_by_the_next_start(object_store, folder, tmp_path, monkeypatch):
    opened(folder).send()
    target, fetch, done = tmp_path / "other", mirror.download, []

    def interrupted(url: str, path: Path) -> str:
        done.append(path)
        if len(done) == 2:
            raise KeyboardInterrupt
        return fetch(url, path)

    monkeypatch.setattr(mirror, "_LANES", 1)
    monkeypatch.setattr(mirror, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(target)
    monkeypatch.setattr(mirror, "download", fetch)
    write(folder, {"later": b"x"})
    (folder / "audit/heard/a").unlink()
    opened(folder).send()
    opened(target)
    assert content_of(target) == content_of(folder)


def test_what_is_not_as_it_was_written_is_refused(object_store, folder, tmp_path):
    opened(folder).send()
    index = json.loads(object_store.get("runs/mine/index.json"))
    sha256 = index["files"]["recipe.yaml"]["sha256"]
    object_store.put(f"runs/mine/objects/{sha256}", b"name: y")
    with pytest.raises(StoreError, match="is not what was written there"):
        opened(tmp_path / "other")
    assert not (tmp_path / "other" / "recipe.yaml").exists()
    for name in ("../up", "/etc/x", "a/../../up"):
        index["files"] = {name: {"sha256": sha256, "bytes": 7}}
        object_store.put("runs/mine/index.json", json.dumps(index).encode())
        with pytest.raises(DataError, match="is no path in a run folder"):
            opened(tmp_path / "third")
    object_store.put("runs/mine/index.json", b"{")
    with pytest.raises(StoreError, match=r"index.json is not whole"):
        opened(tmp_path / "third")


def test_objects_of_the_version_before_stay_and_older_ones_go(object_store, folder):
    """Somebody may be fetching the version before; more than that would fill the store."""
    sender, counts = opened(folder), []
    for number in range(4):
        write(folder, {"train/metrics.jsonl": b"line\n" * (number + 1)})
        sender.send()
        counts.append(len(store.names_in(f"{PLACE}/objects")))
    assert counts == [4, 5, 5, 5]
    store.write(f"{PLACE}/objects/{'0' * 64}", b"left by a machine that was ended")
    sender = opened(folder)
    write(folder, {"x": b"x"})
    sender.send()
    assert f"{'0' * 64}" not in store.names_in(f"{PLACE}/objects")


def test_unchanged_files_are_neither_hashed_nor_sent_again(object_store, folder, monkeypatch):
    sender = opened(folder)
    sender.send()
    read = []
    original = mirror.open_regular
    monkeypatch.setattr(mirror, "open_regular", lambda path: read.append(path.name) or original(path))
    before = object_store.requests.copy()
    assert not sender.send() and not read and object_store.requests == before
    write(folder, {"audit/heard/b": b"2"})
    os.utime(folder / "recipe.yaml")
    sender.send()
    assert sorted(read) == ["b", "recipe.yaml"] and object_store.requests["PUT"] - before["PUT"] == 2


def test_a_store_that_breaks_down_is_not_asked_for_every_file(object_store, folder, monkeypatch):
    """With thousands of files, each given up after half a minute, a round would never end."""
    sender, asked = opened(write(folder, {f"audit/heard/{number}": b"%d" % number for number in range(200)})), []

    def down(url: str, content: bytes) -> None:
        asked.append(url)
        raise StoreError("down")

    monkeypatch.setattr(store, "write", down)
    with pytest.raises(StoreError, match="down"):
        sender.send()
    assert len(asked) < 100


def test_a_store_that_cannot_be_written_is_told_before_anything_runs(object_store, folder):
    object_store.denies = ("PUT",)
    with pytest.raises(StoreError, match=r"cannot be written: .*credentials"):
        opened(folder)
    assert not (folder / STATE).exists()
