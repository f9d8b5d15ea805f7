"""A checkpoint is whole or ignored; the newest that verifies wins and the log says why another did not."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from shibolet.errors import CheckpointError
from shibolet.records.files import hash_file
from shibolet.train import checkpoint as module
from shibolet.train.checkpoint import CheckpointStore, load_weights


def save(store: CheckpointStore, step: int) -> Path:
    weights = {"b": torch.full((3, 5), float(step)), "a": torch.arange(4.0)}
    return store.save(step, {"step": step, "dev": []}, {"masters": weights, "frozen": {}})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (100, 200):
        save(store, step)
    return store


def test_the_newest_comes_back_as_it_was_saved(store: CheckpointStore):
    latest = store.latest()
    assert latest.state == {"step": 200, "dev": []}
    assert latest.tensors("masters")["b"].equal(torch.full((3, 5), 200.0))
    assert latest.tensors("frozen") == {}
    assert store.at(100).state["step"] == 100


def test_many_tensors_are_in_several_files_of_which_each_is_hashed_once(tmp_path: Path, monkeypatch):
    """When written, from memory; whoever reads the checkpoint verifies each of them."""
    monkeypatch.setattr(module, "_PART_BYTES", 100)
    hashed = []
    monkeypatch.setattr(module, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    tensors = {f"w{number}": torch.full((10,), float(number)) for number in range(5)} | {"large": torch.ones(99)}
    store = CheckpointStore(tmp_path)
    path = store.save(7, {"step": 7}, {"masters": tensors, "moments": {"a": torch.ones(2)}})
    files = ["masters-1.safetensors", "masters-2.safetensors", "masters-3.safetensors", "masters.safetensors"]
    assert sorted(file.name for file in path.glob("*.safetensors")) == [*files, "moments.safetensors"]
    assert hashed == ["state.json", "manifest.json"]
    found = store.at(7).tensors("masters")
    assert found.keys() == tensors.keys() and all(found[name].equal(tensors[name]) for name in tensors)
    content = bytearray((path / files[1]).read_bytes())
    content[-1] ^= 1
    (path / files[1]).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"masters-2\.safetensors was changed"):
        store.at(7)


def test_nothing_saved_is_none_and_not_an_error(tmp_path: Path):
    assert CheckpointStore(tmp_path).latest() is None


def test_the_same_state_gives_the_same_bytes(tmp_path: Path):
    paths = [save(CheckpointStore(tmp_path / name), 7) for name in "xy"]
    files = [{file.name: file.read_bytes() for file in path.iterdir()} for path in paths]
    assert files[0] == files[1] and len(files[0]) == 4


def flip_a_byte(path: Path) -> None:
    content = bytearray((path / "masters.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "masters.safetensors").write_bytes(content)


def truncate(path: Path) -> None:
    content = (path / "masters.safetensors").read_bytes()
    (path / "masters.safetensors").write_bytes(content[:-1])


DAMAGE = {
    "masters.safetensors was changed": flip_a_byte,
    "masters.safetensors has 155 bytes, 156 were written": truncate,
    "masters.safetensors is missing": lambda path: (path / "masters.safetensors").unlink(),
    "state.json is missing": lambda path: (path / "state.json").unlink(),
    "state.json was changed": lambda path: (path / "state.json").write_bytes(
        (path / "state.json").read_bytes().replace(b"200", b"201")
    ),
    "manifest.json is missing or was changed": lambda path: (path / "manifest.json").write_text("{}\n"),
    "was not finished": lambda path: (path / "COMPLETE").unlink(),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_broken_one_is_named_and_the_one_before_is_taken(store: CheckpointStore, reason: str, caplog):
    path = store.root / "step-00000200"
    if "155" in reason:
        size = (path / "masters.safetensors").stat().st_size
        reason_here = f"masters.safetensors has {size - 1} bytes, {size} were written"
    else:
        reason_here = reason
    DAMAGE[reason](path)
    with caplog.at_level(logging.WARNING):
        assert store.latest().state["step"] == 100
    assert str(path) in caplog.text and reason_here in caplog.text
    store.discard_after(100)
    save(store, 200)  # the run comes to the same step again and replaces it
    assert store.latest().state["step"] == 200


def test_markers_and_folders_of_no_sense_are_left_out(store: CheckpointStore, caplog):
    """A copy beside a checkpoint, a marker that is a folder, one that is no text: none of them ends a training."""
    newest = store.root / "step-00000200"
    shutil.copytree(newest, store.root / "step-00000200 (copy)")
    (newest / "COMPLETE").write_bytes(b"\xff\xfe")
    assert store.latest().state["step"] == 100
    (newest / "COMPLETE").unlink()
    (newest / "COMPLETE").mkdir()
    assert store.latest().state["step"] == 100 and "COMPLETE cannot be read" in caplog.text
    store.discard_after(100)
    assert not newest.exists() and (store.root / "step-00000200 (copy)").exists()


def test_only_broken_ones_are_an_error_with_its_own_exit_code(store: CheckpointStore):
    for step in (100, 200):
        flip_a_byte(store.root / f"step-{step:08d}")
    with pytest.raises(CheckpointError, match=r"step-00000200: masters\.safetensors was changed") as error:
        store.latest()
    assert error.value.exit_code == 50
    with pytest.raises(CheckpointError, match="was changed"):
        store.at(100)
    with pytest.raises(CheckpointError, match="not there"):
        store.at(300)


def test_what_a_crash_left_of_an_old_one_goes_too(store: CheckpointStore):
    (store.root / "step-00000100" / "COMPLETE").unlink()
    save(store, 300)
    store.keep_only(())
    assert [path.name for path in sorted(store.root.iterdir())] == ["step-00000200", "step-00000300"]


def test_old_ones_go_and_named_ones_stay(store: CheckpointStore):
    for step in (300, 400, 500):
        save(store, step)
    store.keep_only({200})
    assert [path.name for path in sorted(store.root.iterdir())] == [f"step-00000{step}" for step in (200, 400, 500)]


@pytest.mark.parametrize(
    "call", ["write_weights", "sync_weights", "write_json", "hash_file", "replace", "sync_dir", "write_bytes"]
)
def test_a_crash_anywhere_in_a_save_leaves_the_one_before(store: CheckpointStore, call: str, monkeypatch):
    """The kill is an exception at each call that touches the disk; the process-level test is in test_resume."""

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os if call == "replace" else module, call, crash)
        with pytest.raises(KeyboardInterrupt):
            save(store, 300)
    assert store.latest().state["step"] == 200
    store.discard_after(200)
    assert sorted(path.name for path in store.root.iterdir()) == ["step-00000100", "step-00000200"]
    save(store, 300)
    assert store.latest().state["step"] == 300


@pytest.mark.parametrize("copied", [1, 7, 1 << 26])
def test_weights_are_loaded_whole_in_whatever_parts(copied: int, monkeypatch):
    """A large matrix is on the GPU once more in float32, part by part; its rows may not lie one after the other."""
    monkeypatch.setattr(module, "_COPIED", copied)
    model = torch.nn.Module()
    shapes = {"matrix": (5, 3), "vector": (7,), "number": (), "none": (0, 4), "kernel": (4, 3, 2, 2)}
    for name, shape in shapes.items():
        model.register_parameter(name, torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16)))
    model.kernel.data = model.kernel.data.to(memory_format=torch.channels_last)
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    load_weights(model, weights)
    for name, weight in weights.items():
        assert torch.equal(getattr(model, name).detach(), weight.bfloat16())
