"""The record has each step once; what watches a run cannot end it."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tiny_run import tiny_config
from training_documents import step_row

from shibolet.errors import DataError, RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.documents.scores import WordErrors
from shibolet.records.documents.training import DevRates
from shibolet.rounds.shared import open_round
from shibolet.tracking import trackers as module
from shibolet.tracking.config import Shown, Table, Tracking, TrackingConfig
from shibolet.tracking.start import show, start_trackers
from shibolet.tracking.tensorboard import TensorBoardTracker
from shibolet.tracking.trackers import Trackers
from shibolet.train.records import MetricsFile
from shibolet.train.stage import run_train


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch):
    """Files of one second are read in the order of their names, which end with a count: "10" would come before "9"."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


def tracking_in(folder: Path) -> Tracking:
    audit = Shown(
        name="audit", digest="0", step=0, numbers={"audit/rate": 0.04}, texts={"audit/decision": "PROCEED"},
        tables={"examples/worst": Table(columns=("said", "errors"), rows=(("a|b", 2),))},
    )  # fmt: skip
    return Tracking(settings=TrackingConfig(), folder=folder, name="r", group="g", tags=(), documents=(audit,))


KAN = WordErrors(errors=2, words=8, rate=0.25, substitutions=2, deletions=0, insertions=0)


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_steps_beyond_the_resumed_one_are_cut_off(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    record = MetricsFile(path, 0)
    for step in (1, 2, 3, 4):
        record.write(step_row(step))
    record.close()
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # killed in the middle of a line
    record = MetricsFile(path, 2)
    record.write(step_row(3))
    record.close()
    assert steps(path) == [1, 2, 3]


def test_a_step_that_cannot_be_read_is_named_when_the_training_goes_on(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1: phase: Field required; .*delete the file"):
        MetricsFile(path, 2)


class Broken:
    def __init__(self) -> None:
        self.calls = 0

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.calls += 1
        raise ConnectionError("the service is gone")


class Working:
    def __init__(self) -> None:
        self.seen: list[float] = []

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.seen.append(values["training/loss"])

    def close(self) -> None: ...


def test_a_tracker_that_fails_is_reported_once_and_others_go_on(caplog):
    broken, working = Broken(), Working()

    def unreachable() -> Working:
        raise ConnectionError("no network")

    trackers = Trackers({"broken": lambda: broken, "unreachable": unreachable, "working": lambda: working})
    for step in range(3):
        trackers.scalars({"training/loss": step}, step)
    trackers.close()
    assert working.seen == [0, 1, 2] and broken.calls == 1
    for name, why in (("broken", "the service is gone"), ("unreachable", "no network")):
        told = f"tracker {name} is left out from here on, and nothing else: ConnectionError: {why}"
        assert caplog.text.count(told) == 1


def test_wandb_asked_for_but_not_installed_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = load_recipe("demo", ["tracking.wandb_project=x"])
    with pytest.raises(RecipeError, match=r"pip install 'shibolet\[wandb\]'.*--set tracking.wandb_project=null"):
        with open_round(recipe, tmp_path / "run", "run", print):
            pass
    assert not (tmp_path / "run").exists()


def test_the_old_key_is_refused_with_the_new_one():
    with pytest.raises(RecipeError, match=r"unknown key 'train.wandb_project'; did you mean 'tracking.wandb_project'"):
        load_recipe("demo", ["train.wandb_project=x"])


def test_a_key_of_another_type_is_a_fault():
    """`training/strategy` once was a number in one line and a text in the next: W&B showed neither."""
    trackers = Trackers()
    with pytest.raises(ValueError, match="'training/strategy' is a text, not a number"):
        trackers.scalars({"training/strategy": 1.0}, 1)
    with pytest.raises(ValueError, match="'training/loss' is a number, not a text"):
        trackers.text("training/loss", "high", 1)


def test_what_a_tracker_remembers_is_believed_only_as_it_was_written(tmp_path: Path, caplog):
    tracking = Tracking(settings=TrackingConfig(), folder=tmp_path, name="r", group="g", tags=(), documents=())
    start_trackers(tracking, {"recipe": {}}).close()
    path = tmp_path / "tensorboard.json"
    path.write_text(path.read_text().replace('"lines": 1', '"lines": 7'))
    start_trackers(tracking, {"recipe": {}}).close()
    assert "tensorboard.json is not as it was written; delete the folder 'tracking'" in caplog.text


def test_documents_that_a_branch_purges_are_told_again(tmp_path: Path):
    """The baseline's scores stay as they were where a training is branched; TensorBoard purges them with its steps."""
    audit, *_ = tracking_in(tmp_path).documents
    tracking = tracking_in(tmp_path).model_copy(
        update={
            "documents": (audit, Shown(name="scores/base/a", digest="1", step=6, numbers={"scores/base/a/wer": 0.5}))
        }
    )
    show(tracking, {})
    trackers = start_trackers(tracking_in(tmp_path), {})
    trackers.begin(3, "branched")
    for step in (4, 5, 6):
        trackers.scalars({"training/loss": 1.0}, step)
    trackers.close()
    for _ in range(2):
        show(tracking, {})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("scores/base/a/wer")] == [(6, 0.5)]
    assert [event.step for event in events.Scalars("training/loss")] == [4, 5, 6]
    assert [event.step for event in events.Scalars("audit/rate")] == [0]


def test_a_killed_training_has_each_step_once_in_tensorboard(tmp_path: Path):
    """Steps that are taken again after a kill would be two points of a curve, and the lost ones a hole in it."""

    def show_steps(tracker: TensorBoardTracker, numbers: range) -> None:
        for step in numbers:
            tracker.scalars({"training/loss": float(step)}, step)

    killed = TensorBoardTracker(tmp_path)
    killed.begin(0, "a")
    show_steps(killed, range(1, 6))
    killed._writer.flush()  # what `_FLUSH_S` does; a kill closes nothing
    for path in (tmp_path / "tensorboard").iterdir():  # names begin with the second: it began before what goes on
        path.rename(path.with_name(path.name.replace("tfevents.1", "tfevents.0")))
    goes_on = TensorBoardTracker(tmp_path)
    goes_on.begin(3, "a")
    show_steps(goes_on, range(4, 8))
    goes_on.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("training/loss")] == [(n, n) for n in range(1, 8)]


def test_a_tracker_that_hangs_does_not_hold_the_training_up(monkeypatch, caplog):
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)
    monkeypatch.setattr(module, "_MOST_WAITING", 5)
    forever = threading.Event()
    trackers = Trackers({"hangs": forever.wait})
    started = time.monotonic()
    for step in range(50):
        trackers.scalars({"training/loss": 1.0}, step)
    trackers.close()
    assert time.monotonic() - started < 1
    assert caplog.text.count("it does not keep up") == 1
    forever.set()


def test_a_dead_tracker_does_not_end_a_training(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.setattr(TensorBoardTracker, "scalars", Broken().scalars)
    result = run_train(
        prepared_dir=prepared_dir, out_dir=tmp_path, base=str(base_dir), config=tiny_config(), language="Hebrew",
        seed=0, score_dev=None, about={}, tracking=tracking_in(tmp_path),
    )  # fmt: skip
    assert result.steps == 6 and caplog.text.count("the service is gone") == 1
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_the_strategy_and_its_switch(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    run_train(
        prepared_dir=prepared_dir, out_dir=tmp_path, base=str(base_dir), config=tiny_config(), language="Hebrew",
        seed=0, score_dev=lambda loaded, when: DevRates(wer=0.5, cer=0.25, by_domain={"kan": KAN}),
        about={"recipe": {"name": "tiny"}}, tracking=tracking_in(tmp_path),
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalar = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert [value for _, value in scalar["training/phase_index"]] == [0, 0, 0, 1, 1, 1]
    assert scalar["training/strategy_switch"] == [(3, 1.0)]  # after step 3, which ended the first epoch
    assert [step for step, _ in scalar["training/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in scalar["lr/encoder.layers[4:6]"]] == [4, 5, 6]
    step_s, waits_s = (dict(scalar[f"timing/{name}_s"]) for name in ("step", "data"))
    assert all(0 <= waits_s[step] < step_s[step] for step in range(1, 7))
    assert [step for step, _ in scalar["timing/device_s"]] == [1, 2, 3, 4, 5, 6]
    assert scalar["dev/wer"] == [(step, 0.5) for step in (0, 2, 3, 4, 6)]
    assert scalar["dev_wer/kan"] == [(step, 0.25) for step in (0, 2, 3, 4, 6)]
    assert scalar["audit/rate"] == [(0, pytest.approx(0.04))]

    def texts(key: str) -> list[str]:
        return [event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{key}/text_summary")]

    assert texts("training/strategy") == ["B", "A"]
    assert texts("training/trains")[0].startswith("B: trains projector (39,728)")
    assert "encoder.layers[4:6]" in texts("training/trains")[1]
    assert texts("audit/decision") == ["PROCEED"] and '"name": "tiny"' in texts("about/recipe")[0]
    assert texts("examples/worst") == ["| said | errors |\n| --- | --- |\n| a\\|b | 2 |"]
