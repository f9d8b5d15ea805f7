"""The memory alarm: protects from a GPU that runs full while the allocator's own count is still far from it."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_run import tiny_config

from shibolet.errors import Preempted
from shibolet.records.documents.training import Memory, StepRow
from shibolet.train import alarm
from shibolet.train import trainer as trainer_module
from shibolet.train import update as module
from shibolet.train.alarm import device_use, is_crowded, memory_alarm, step_memory
from shibolet.train.config import OptimizerConfig
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.stage import run_train
from shibolet.train.state import Decisions
from shibolet.train.update import Ran, update

GB = 10**9


def used(gb: float) -> Memory:
    """Of a card of 40 GB."""
    return Memory(device_used_gib=gb * GB / 2**30, device_used_pct=gb / 0.4, allocated_peak_gib=1, allocated_peak_pct=1)


def test_a_crossing_is_told_once_and_the_next_one_again():
    decisions = Decisions()
    said = [bool(memory_alarm(used(gb), decisions)) for gb in (37.9, 38.1, 39.0, 37.9, 38.1, 37.0, 38.1)]
    assert said == [False, True, False, False, False, False, True]
    assert memory_alarm(None, decisions) is None  # a CPU


def test_what_a_dev_score_held_back_goes_only_where_the_gpu_is_crowded(monkeypatch):
    """Where there is room, getting it again costs time between steps."""
    for gb, crowded in ((33.0, False), (35.0, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, gb=gb: (int((40 - gb) * GB), 40 * GB))
        assert is_crowded(torch.device("cuda")) is crowded
    assert not is_crowded(torch.device("cpu"))


@pytest.mark.slow("train", seconds=10)
def test_a_resume_while_memory_is_full_tells_nothing_again(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch
):
    """Stopped after the alarm, with memory still over the line: the record is that of an undisturbed training."""
    monkeypatch.setattr(trainer_module, "step_memory", lambda device, use: used(39.0))

    def train(out_dir: Path, on_step: Callable[[StepRow], None] | None = None) -> bytes:
        run_train(
            prepared_dir=prepared_dir, out_dir=out_dir, base=str(base_dir), config=tiny_config(), language="Hebrew",
            seed=0, score_dev=None, about={}, tracking=None, on_step=on_step,
        )  # fmt: skip
        return (out_dir / "events.jsonl").read_bytes()

    undisturbed = train(tmp_path / "whole")
    with pytest.raises(Preempted):
        train(tmp_path / "cut", lambda row: signal.raise_signal(signal.SIGTERM) if row.step == 3 else None)
    assert train(tmp_path / "cut") == undisturbed and undisturbed.count(b"memory_full") == 1


def test_what_is_measured_is_the_device_with_all_that_the_allocator_does_not_know(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(1.9 * GB), 40 * GB))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: int(35.9 * GB))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=40 * GB))
    device = torch.device("cuda:0")
    memory = step_memory(device, device_use(device))
    assert (memory.device_used_pct, memory.allocated_peak_pct) == (95.25, 89.75) and alarm.FULL_PCT == 95.0
    assert "35.5 GiB of the fullest GPU are in use, 95.2%" in memory_alarm(memory, Decisions())
    assert step_memory(torch.device("cpu"), device_use(torch.device("cpu"))) is None


def test_the_fullest_rank_counts(monkeypatch):
    """Each has a card; the numbers travel with the losses, so that it costs no collective of its own."""
    model = torch.nn.Linear(1, 1, bias=False)
    weights = {"w": model.weight}
    optimizer = MasterAdamW({"p": weights}, {"p": 0.1}, OptimizerConfig(), {})
    model.weight.grad = torch.ones_like(model.weight)
    fuller = torch.tensor([0.0, 0.0, 38.1, 95.25])
    monkeypatch.setattr(
        module, "gather_rows", lambda row: torch.stack([row, torch.cat([fuller, row[4:]])])
    )  # fmt: skip
    told = update(optimizer, Ran([torch.tensor(1.0)]), levels=(30.0, 75.0))
    assert told.highest == pytest.approx((38.1, 95.25)) and told.flags == ()
