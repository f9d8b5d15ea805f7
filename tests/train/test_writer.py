"""Checkpoints are written beside the training, and a disk that is full loses none of those that stand."""

import errno
import json
import os
import sys
import threading
import time
from pathlib import Path
from threading import Semaphore

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from test_trainer import rows, run
from tiny_run import tiny_config

from shibolet.errors import DiskError
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.train import checkpoint
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.records import MetricsFile
from shibolet.train.writer import CheckpointWriter


def new_writer(root: Path, weight: torch.Tensor) -> CheckpointWriter:
    writer = CheckpointWriter(CheckpointStore(root), page_locked=False)
    writer.reserve({"masters/w": (weight.shape, weight.dtype)})
    return writer


def saved(root: Path, step: int) -> torch.Tensor:
    return load_file(root / f"step-{step:08d}" / "masters.safetensors")["w"]


def test_what_is_written_is_what_was_submitted_whatever_trains_on_meanwhile(tmp_path: Path, monkeypatch):
    go_on = threading.Event()
    plain = checkpoint.write_weights
    monkeypatch.setattr(checkpoint, "write_weights", lambda *args: go_on.wait(10) and plain(*args))
    weight = torch.ones(1000)
    writer = new_writer(tmp_path, weight)
    stalled_s = writer.submit(1, {"step": 1}, [("masters", "w", weight)], keep=())
    weight += 1  # the next step
    assert stalled_s < 1 and writer.committed() == []
    go_on.set()
    writer.wait()
    assert writer.committed() == [1]
    assert saved(tmp_path, 1).equal(torch.ones(1000))
    writer.submit(2, {"step": 2}, [("masters", "w", weight)], keep=())
    writer.wait()
    assert saved(tmp_path, 2).equal(weight)


def test_the_next_waits_for_the_copies_and_not_for_the_disk(tmp_path: Path, monkeypatch):
    """While one is being written the next waits; while one is being synced it does not, and stands after it."""
    go_on, order = threading.Event(), []
    write, sync = checkpoint.write_weights, checkpoint.sync_weights
    monkeypatch.setattr(checkpoint, "write_weights", lambda *args: time.sleep(0.3) or write(*args))
    monkeypatch.setattr(
        checkpoint, "sync_weights", lambda hashes: (go_on.wait(10) and order.append(next(iter(hashes)))) or sync(hashes)
    )
    weight = torch.ones(3)
    writer = new_writer(tmp_path, weight)
    stalls = []
    for step in (1, 2):
        stalls.append(writer.submit(step, {"step": step}, [("masters", "w", weight)], keep=()))
        weight += 1
    assert stalls[0] < 0.2 < stalls[1] < 5 and writer.committed() == []
    go_on.set()
    writer.wait()
    assert writer.committed() == [1, 2] and [path.parent.name[-9:] for path in order] == ["1.partial", "2.partial"]
    assert [saved(tmp_path, step).tolist() for step in (1, 2)] == [[1.0] * 3, [2.0] * 3]


def test_each_of_three_in_a_row_is_what_was_submitted(tmp_path: Path, monkeypatch):
    """The end of one that was long on its way to the disk must not pass for the next one's copies being written."""
    go_on, write, sync = threading.Event(), checkpoint.write_weights, checkpoint.sync_weights
    monkeypatch.setattr(checkpoint, "write_weights", lambda *args: time.sleep(0.2) or write(*args))
    monkeypatch.setattr(checkpoint, "sync_weights", lambda hashes: go_on.wait(10) and sync(hashes))
    weight = torch.zeros(1000)
    writer = new_writer(tmp_path, weight)
    for step in (1, 2, 3):
        weight += 1
        if step == 3:
            go_on.set()
        writer.submit(step, {"step": step}, [("masters", "w", weight)], keep=(1, 2, 3))
    writer.wait()
    assert [float(saved(tmp_path, step).mean()) for step in (1, 2, 3)] == [1, 2, 3]
    writer.close()


def test_checkpoints_that_cannot_be_deleted_are_a_sentence(tmp_path: Path, monkeypatch):
    """They are deleted in the background; the next save waits for that, and the disk may be one that refuses."""
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *args, **kwargs: None)
    writer = new_writer(tmp_path, torch.ones(3))
    for step in range(1, 4):
        writer.submit(step, {}, [("masters", "w", torch.ones(3))], keep=())
    writer.wait()
    writer.end_deleting()

    def busy(*args, **kwargs) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", busy)
    writer.keep_only(())
    with pytest.raises(DiskError, match=r"no longer needed could not be deleted: .*busy; nothing else is lost"):
        writer.end_deleting()
    writer.close()


def test_it_hurries_while_somebody_waits(tmp_path: Path, monkeypatch):
    """For the next copy, and for the end: until then the cores are the training's."""
    plain, seen, begun = checkpoint.write_weights, [], Semaphore(0)

    def write(files, metadata, hurry):
        before = hurry.is_set()
        begun.release()
        seen.append((before, hurry.wait(60)))
        return plain(files, metadata, hurry)

    monkeypatch.setattr(checkpoint, "write_weights", write)
    weight = torch.ones(3)
    writer = new_writer(tmp_path, weight)
    for step in (1, 2):
        writer.submit(step, {"step": step}, [("masters", "w", weight)], keep=())
        assert begun.acquire(timeout=60)
    writer.wait()
    assert seen == [(False, True)] * 2


def test_after_a_failure_nothing_is_written_and_nobody_waits_for_good(tmp_path: Path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    weight = torch.ones(3)
    writer = new_writer(tmp_path, weight)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_weights", full)
        writer.submit(1, {"step": 1}, [("masters", "w", weight)], keep=())
        writer.submit(2, {"step": 2}, [("masters", "w", weight)], keep=())
    writer.submit(3, {"step": 3}, [("masters", "w", weight)], keep=())
    with pytest.raises(DiskError, match="No space left"):
        writer.wait()
    assert writer.failed and CheckpointStore(tmp_path).steps() == []


def test_a_training_that_fails_leaves_no_thread_behind_that_writes(base_dir, prepared_dir, tmp_path: Path, monkeypatch):
    """Who goes on in the same process deletes what is unfinished, and would meet it."""
    plain = checkpoint.write_weights
    monkeypatch.setattr(checkpoint, "write_weights", lambda *args: time.sleep(0.3) or plain(*args))

    def fail(row):
        if row.step == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(base_dir, prepared_dir, tmp_path, tiny_config(checkpoint_every_steps=1), on_step=fail)
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    assert CheckpointStore(tmp_path / "checkpoints").latest().state["step"] == 1


def test_the_metrics_have_all_the_time_that_the_loop_stood_still(base_dir, prepared_dir, tmp_path: Path, monkeypatch):
    """For the record and the copy."""
    for kind, name in ((MetricsFile, "sync"), (CheckpointWriter, "submit")):
        plain = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *args, plain=plain: time.sleep(0.1) or plain(*args))
    run(base_dir, prepared_dir, tmp_path, tiny_config(checkpoint_every_steps=1))
    stood_s = [row["timing"]["checkpoint_s"] for row in rows(tmp_path)]
    assert stood_s[0] == 0 and len(stood_s) == 6
    assert min(stood_s[1:]) > 0.2


@pytest.mark.parametrize("call", ["write_weights", "sync_weights", "write_json", "hash_file"])
def test_a_full_disk_ends_with_a_sentence_and_the_old_checkpoints(
    base_dir, prepared_dir, tmp_path: Path, monkeypatch, call: str
):
    calls = []
    plain = getattr(checkpoint, call)
    per_checkpoint = {"write_weights": 1, "sync_weights": 1}.get(call, 2)

    def full(*args):
        calls.append(args)
        if len(calls) > 2 * per_checkpoint:  # the third checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*args)

    config = tiny_config(checkpoint_every_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, call, full)
        with pytest.raises(DiskError, match=r"checkpoint could not be written to .*No space left.*make room and run"):
            run(base_dir, prepared_dir, tmp_path, config)
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest().state["step"] == 2 and store.at(1)
    assert run(base_dir, prepared_dir, tmp_path, config).steps == 6
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        1, 2, 3, 4, 5, 6,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded", "final/tokenizer.json"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_too_full_for_the_result_is_a_sentence_and_not_a_defect(
    base_dir, prepared_dir, tmp_path: Path, monkeypatch, error
):
    def full(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(FAMILY), "save", full)
        where = getattr(error, "filename", None) or tmp_path / "final"
        with pytest.raises(DiskError, match=f"^{where} could not be written: .*; make room and run the same command"):
            run(base_dir, prepared_dir, tmp_path, tiny_config())
    assert run(base_dir, prepared_dir, tmp_path, tiny_config()).steps == 6 and (tmp_path / "final").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all threads are alike")
def test_writing_leaves_the_cores_to_the_steps(tmp_path: Path, monkeypatch):
    """Its lanes too, and not the thread that goes on training."""
    found, plain = [], os.fsync

    def fsync(file: int) -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        plain(file)

    monkeypatch.setattr(os, "fsync", fsync)
    writer, before = new_writer(tmp_path, torch.ones(3)), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    writer.submit(1, {"step": 1}, [("masters", "w", torch.ones(3))], keep=())
    writer.wait()
    assert found and min(found) > before == os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
