"""Weight files: protects from other bytes than the library's, a hash of others, and writing that goes on unseen."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shibolet.model import weights
from shibolet.model.weights import sync_weights, write_weights
from shibolet.records import files
from shibolet.records.ahead import Ahead
from shibolet.records.files import hash_file

KINDS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.int32, torch.float32,
         torch.float64, torch.int64]  # fmt: skip


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_has_the_bytes_of_the_library_and_the_hash_of_the_file(tmp_path: Path, metadata, monkeypatch):
    """Every type, a scalar, an empty and a transposed one, names that JSON escapes; pieces end within tensors."""
    monkeypatch.setattr(weights, "_PIECE_BYTES", 7)
    drawn = torch.Generator().manual_seed(0)
    tensors = {
        f"{name}.{kind}": torch.randint(0, 100, shape, generator=drawn).to(kind)
        for kind in KINDS for name, shape in (("b", (3, 5)), ("a", ()), ("é\"\\", (0, 4)))
    }  # fmt: skip
    tensors["t"] = torch.randn(4, 6, generator=drawn).T
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs", metadata=metadata)
    (found,) = write_weights({tmp_path / "ours": tensors}, metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert found == hash_file(tmp_path / "theirs")
    assert load_file(tmp_path / "ours")["t"].equal(tensors["t"])


def test_the_disk_begins_with_what_is_written_while_more_is(tmp_path: Path, monkeypatch):
    """With 12 GB it would stand still for a second, until the first files are whole; every byte is begun with once."""
    calls = []

    def begin(descriptor: int, offset: int, num_bytes: int) -> None:
        calls.append((offset, num_bytes, os.fstat(descriptor).st_size))  # what is on its way has left this process

    monkeypatch.setattr(weights, "_PIECE_BYTES", 100)
    monkeypatch.setattr(weights, "_SYNC_BYTES", 1000)
    monkeypatch.setattr(weights, "_begin_to_sync", begin)
    write_weights({tmp_path / "file": {"w": torch.zeros(1100), "b": torch.zeros(33)}})
    size = (tmp_path / "file").stat().st_size
    *parts, last = calls
    assert len(parts) == 4 and all(1000 <= num < 1200 and offset + num <= written for offset, num, written in parts)
    ends = [0, *(offset + num for offset, num, _ in parts)]
    assert [offset for offset, *_ in calls] == ends and last == (ends[-1], 0, size)


def test_what_was_written_and_synced_is_not_read_again_for_its_hash(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_KEPT_BYTES", 1)
    paths = [tmp_path / name for name in "abc"]
    hashes = write_weights({path: {"w": torch.full((9,), float(at))} for at, path in enumerate(paths)})
    sync_weights(dict(zip(paths, hashes, strict=True)))
    monkeypatch.setattr(files, "_digest", None)
    assert [hash_file(path) for path in paths] == hashes and len(set(hashes)) == 3


def test_one_that_fails_is_raised_when_all_have_ended(tmp_path: Path, monkeypatch):
    """Who is told of a full disk deletes what was written, so nobody may be writing then, or begin to."""
    plain, begun, ended = weights._write, [], []

    def write(path, *args):
        begun.append(path)
        if path.name == "5":
            raise OSError(errno.ENOSPC, "No space left on device")
        threading.Event().wait(0.1)
        done = plain(path, *args)
        ended.append(path)
        return done

    monkeypatch.setattr(weights, "_write", write)
    with pytest.raises(OSError, match="No space left"):
        write_weights({tmp_path / str(number): {"w": torch.ones(2)} for number in range(20)})
    assert len(ended) == len(begun) - 1 and 6 <= len(begun) <= 5 + weights._LANES  # five were begun before it


def test_beside_a_training_few_are_written_at_once_until_somebody_waits(tmp_path: Path, monkeypatch):
    """Eight threads that hash took cores and the interpreter from the steps."""
    plain, begun, go_on, hurry = weights._write, threading.Semaphore(0), threading.Event(), threading.Event()
    monkeypatch.setattr(weights, "_write", lambda *args: begun.release() or (go_on.wait(10) and plain(*args)))
    tensors = {tmp_path / str(number): {"w": torch.ones(2)} for number in range(20)}
    writing = Ahead(lambda: write_weights(tensors, None, hurry))
    assert begun.acquire(timeout=10) and begun.acquire(timeout=10)
    assert not begun.acquire(timeout=0.2)
    hurry.set()
    for _ in range(6):
        assert begun.acquire(timeout=10)
    go_on.set()
    assert len(writing.get()) == 20 and all(path.exists() for path in tensors)
