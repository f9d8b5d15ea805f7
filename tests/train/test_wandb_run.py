"""One W&B run for one run folder, by wandb itself, offline: protects from lines twice, lost, or of changing type."""

import os
import signal
from pathlib import Path

import pytest
import wandb
from tiny_run import tiny_config
from wandb_files import WandbRun, read_run

from shibolet.errors import Preempted
from shibolet.records.documents.training import DevRates, Memory, StepRow
from shibolet.tracking.config import Shown, Tracking, TrackingConfig
from shibolet.tracking.weights_and_biases import WandbTracker
from shibolet.train import trainer as trainer_module
from shibolet.train.stage import run_train


def tracking_in(folder: Path, **settings) -> Tracking:
    gate = Shown(name="gate", digest="0", step=0, numbers={"gate/num_scored": 500}, texts={"gate/decision": "STOP"})
    return Tracking(
        settings=TrackingConfig(wandb_project="shibolet", **settings), folder=folder, name="round2", group="tiny",
        tags=("Round 2", "Hebrew"), documents=(gate,),
    )  # fmt: skip


@pytest.fixture
def arguments(base_dir: Path, prepared_dir: Path, tmp_path: Path) -> dict:
    return {
        "prepared_dir": prepared_dir, "out_dir": tmp_path / "train", "base": str(base_dir), "language": "Hebrew",
        "seed": 0, "config": tiny_config(), "score_dev": lambda loaded, when: DevRates(wer=0.5, cer=0.25),
        "about": {"recipe": {"name": "tiny"}}, "tracking": tracking_in(tmp_path / "tracking", wandb_artifacts=True),
    }  # fmt: skip


def trained_steps(run: WandbRun) -> list[tuple[int, int]]:
    """Attempt and step of the lines of steps."""
    return [(line["training/attempt"], line["step"]) for line in run.history if "training/loss" in line]


@pytest.mark.slow("train", seconds=12)
def test_a_training_that_was_stopped_is_one_run_with_one_line_a_step(arguments: dict, tmp_path: Path):
    def stop(row: StepRow) -> None:
        if row.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        run_train(**arguments, on_step=stop)
    run_train(**arguments)
    run = read_run(tmp_path / "tracking")
    assert len(run.ids) == 1 and run.group == "tiny" and run.tags == {"Round 2", "Hebrew"}
    assert run.config["recipe"] == {"name": "tiny"} and run.config["plan"]["steps"] == 6
    assert trained_steps(run) == [(0, step) for step in (1, 2, 3, 4, 5, 6)]
    checkpoint = f"checkpoint-{next(iter(run.ids))}"  # two names would be two histories
    assert run.artifacts == [(checkpoint, ["latest", f"step-{step}"]) for step in (3, 6)]
    by_step = {line["step"]: line for line in run.history if "training/loss" in line}
    assert [step for step, line in by_step.items() if "dev/wer" in line] == [2, 3, 4, 6]
    assert len(run.number("dev/wer")) == 5  # once before the first step
    lines = [line["_step"] for line in run.history]
    assert lines == sorted(set(lines)), "W&B drops lines whose number does not grow"
    assert all(len(kinds) == 1 for kinds in run.types().values()), run.types()
    assert run.number("training/strategy") == ["B", "A"] and run.number("training/strategy_switch") == [1.0]
    assert run.number("training/phase_index") == [0, 0, 0, 1, 1, 1]
    assert run.number("gate/decision") == ["STOP"], "documents are told once"
    assert all(0 < value < 10_000 for key in ("host_used", "process") for value in run.number(f"system/{key}_gib"))


@pytest.mark.slow("train", seconds=12)
def test_a_resume_at_the_switch_shows_it(arguments: dict, tmp_path: Path):
    """Stopped after B's last step, A begins in another process, which was shown that step's row already."""
    with pytest.raises(Preempted):
        run_train(**arguments, on_step=lambda row: row.step == 2 and signal.raise_signal(signal.SIGTERM))
    assert trained_steps(read_run(tmp_path / "tracking")) == [(0, 1), (0, 2), (0, 3)]
    run_train(**arguments)
    run = read_run(tmp_path / "tracking")
    assert trained_steps(run) == [(0, step) for step in (1, 2, 3, 4, 5, 6)]
    assert run.number("training/strategy") == ["B", "A"] and len(run.number("training/trains")) == 2
    assert [(line["step"], line["training/strategy_switch"]) for line in run.history
            if "training/strategy_switch" in line] == [(3, 1.0)]  # fmt: skip


def test_without_a_login_the_run_is_written_offline_and_nobody_is_asked(tmp_path: Path, monkeypatch, caplog):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    wandb.teardown()  # settings are read once in a process
    tracker = WandbTracker(tracking_in(tmp_path), {})
    tracker.scalars({"training/loss": 1.0}, 1)
    tracker.close()
    assert read_run(tmp_path).number("training/loss") == [1.0]
    assert caplog.text.count("nobody is logged in here") == 1 and "wandb sync" in caplog.text


def test_steps_that_are_taken_again_are_shown_again_only_when_they_may_differ(tmp_path: Path):
    """After a kill they are the same steps; after a roll-back, or of another training, they are not."""

    def go_on(after_step: int, training: str, steps: range) -> None:
        tracker = WandbTracker(tracking_in(tmp_path), {})
        tracker.begin(after_step, training)
        for step in steps:
            tracker.scalars({"training/loss": 1.0}, step)
            tracker.text("training/events", "one", step)
            tracker.text("training/events", "two", step)
        tracker.close()

    go_on(0, "a, roll-backs 0", range(1, 5))
    go_on(2, "a, roll-backs 0", range(3, 7))
    assert trained_steps(read_run(tmp_path)) == [(0, step) for step in (1, 2, 3, 4, 5, 6)]
    go_on(4, "a, roll-backs 1", range(5, 8))
    go_on(0, "b, roll-backs 0", range(1, 3))
    run = read_run(tmp_path)
    assert trained_steps(run)[6:] == [(1, 5), (1, 6), (1, 7), (2, 1), (2, 2)]
    assert run.number("training/events") == ["one\ntwo"] * 11
    lines = [line["_step"] for line in run.history]
    assert lines == sorted(set(lines))


def test_another_training_shows_documents_that_stayed_as_they_were_once(tmp_path: Path):
    """W&B keeps what it was shown, while TensorBoard purges it and is shown it again."""
    scores = Shown(name="scores/base/a", digest="1", step=6, numbers={"scores/base/a/wer": 0.5})
    for training in ("a", "b"):
        tracker = WandbTracker(tracking_in(tmp_path), {})
        tracker.begin(0, training)
        tracker.document(scores)
        tracker.close()
    assert read_run(tmp_path).number("scores/base/a/wer") == [0.5]


@pytest.mark.slow("train", seconds=12)
@pytest.mark.parametrize(("most_gb", "num_alarms"), [(38.1, 1), (37.9, 0)])
def test_the_alarm_sounds_once_at_38_of_40_gb_of_the_device(
    arguments: dict, tmp_path: Path, monkeypatch, caplog, most_gb: float, num_alarms: int
):
    """The allocator has 2.2 GB less than the device uses, and stays under the line either way."""
    used = iter([30.0, 30.0, 36.0, most_gb, most_gb - 0.3, most_gb, most_gb, *[most_gb] * 9])

    def step_memory(device, use: tuple[float, ...]) -> Memory:
        gb, pct = use
        return Memory(
            device_used_gib=gb, device_used_pct=pct, allocated_peak_gib=gb - 2.2, allocated_peak_pct=pct - 5.5
        )

    def device_use(device) -> tuple[float, float]:
        gb = next(used)
        return gb, 100 * gb / 40

    monkeypatch.setattr(trainer_module, "device_use", device_use)
    monkeypatch.setattr(trainer_module, "step_memory", step_memory)
    run_train(**arguments)
    events = (tmp_path / "train" / "events.jsonl").read_text().splitlines()
    run = read_run(tmp_path / "tracking")
    assert [event for event in events if "memory_full" in event] == events and len(events) == num_alarms
    assert len(run.alerts) == num_alarms and len(run.number("training/events")) == num_alarms
    assert caplog.text.count("memory_full") == num_alarms
    assert run.number("memory/device_used_gib")[3] == pytest.approx(most_gb)
