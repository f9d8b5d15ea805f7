"""The record has each step once; what watches a run cannot end it."""

import json
import os
import signal
import sys
import threading
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from shibolet.train.trackers import MetricsFile, Trackers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_config
from training_documents import step_row

from shibolet.errors import DataError, Preempted, RecipeError
from shibolet.records.documents.training import DevRates, StepRow
from shibolet.train import trackers as module
from shibolet.train.stage import run_train


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

    trackers = Trackers([lambda: broken, unreachable, lambda: working])
    for step in range(3):
        trackers.scalars({"training/loss": step}, step)
    trackers.close()
    assert working.seen == [0, 1, 2] and broken.calls == 1
    assert caplog.text.count("the service is gone") == 1 and caplog.text.count("no network") == 1


def test_wandb_asked_for_but_not_installed_names_the_extra(base_dir: Path, prepared_dir: Path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match=r"pip install 'shibolet\[wandb\]'"):
        run_train(
            prepared_dir=prepared_dir, out_dir=tmp_path, base=str(base_dir), config=tiny_config(wandb_project="x"),
            language="Hebrew", seed=0, score_dev=None, about={},
        )  # fmt: skip


class StubWandb(ModuleType):
    """What we use of wandb, kept for a look; a process cannot install the real one here."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.runs: list[StubWandb.Run] = []

    class Run:
        def __init__(self, arguments: dict) -> None:
            self.arguments, self.id = arguments, arguments["id"]
            self.logged, self.artifacts, self.finished, self.axis = [], [], False, None

        def define_metric(self, name: str, step_metric: str) -> None:
            self.axis = (name, step_metric)

        def log(self, values: dict) -> None:
            self.logged.append(values)

        def log_artifact(self, artifact: "StubWandb.Artifact") -> None:
            self.artifacts.append(artifact)

        def finish(self) -> None:
            self.finished = True

    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            self.name, self.type, self.path = name, type, None

        def add_dir(self, path: str, policy: str) -> None:
            assert Path(path, "COMPLETE").exists() and policy == "immutable"
            self.path = path

    def init(self, **arguments) -> "StubWandb.Run":
        self.runs.append(self.Run(arguments))
        return self.runs[-1]

    def Html(self, text: str) -> str:
        return text


def test_wandb_gets_everything_and_a_continued_training_is_the_same_run(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch
):
    wandb = StubWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    arguments = {
        "prepared_dir": prepared_dir, "out_dir": tmp_path, "base": str(base_dir), "language": "Hebrew", "seed": 0,
        "config": tiny_config(wandb_project="shibolet", wandb_artifacts=True), "score_dev": None,
        "about": {"audit": {"decision": "PROCEED"}, "recipe": {"name": "tiny"}},
    }  # fmt: skip

    def stop(row: StepRow) -> None:
        if row.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        run_train(**arguments, on_step=stop)
    run_train(**arguments)
    first, second = wandb.runs
    assert first.id == second.id and second.arguments["resume"] == "allow"
    assert first.arguments["config"]["recipe"] == {"name": "tiny"} and first.arguments["config"]["plan"]["steps"] == 6
    logged = [values for run in (first, second) for values in run.logged]
    assert [values["step"] for values in logged if "training/loss" in values] == [1, 2, 3, 4, 5, 6]
    tags = {tag for values in logged for tag in values}
    assert {
        "about/audit",
        "about/recipe",
        "about/plan",
        "training/strategy_switch",
        "grad_norm/head",
        "lr/head",
    } <= tags
    assert [artifact.name for artifact in first.artifacts] == [f"checkpoint-3-{first.id}"]
    assert [artifact.name for artifact in second.artifacts] == [f"checkpoint-6-{first.id}"]
    assert first.finished and second.finished and first.axis == ("*", "step")


def test_a_tracker_that_hangs_does_not_hold_the_training_up(monkeypatch, caplog):
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)
    monkeypatch.setattr(module, "_MOST_WAITING", 5)
    forever = threading.Event()
    trackers = Trackers([forever.wait])
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
    monkeypatch.setattr(module.TensorBoardTracker, "scalars", Broken().scalars)
    result = run_train(
        prepared_dir=prepared_dir, out_dir=tmp_path, base=str(base_dir), config=tiny_config(), language="Hebrew",
        seed=0, score_dev=None, about={},
    )  # fmt: skip
    assert result.steps == 6 and caplog.text.count("the service is gone") == 1
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_the_strategy_and_its_switch(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    run_train(
        prepared_dir=prepared_dir, out_dir=tmp_path, base=str(base_dir), config=tiny_config(), language="Hebrew",
        seed=0, score_dev=lambda loaded: DevRates(wer=0.5, cer=0.25),
        about={"audit": {"decision": "PROCEED", "rate": 0.04}},
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalar = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert [value for _, value in scalar["training/strategy"]] == [0, 0, 0, 1, 1, 1]
    assert scalar["training/strategy_switch"] == [(3, 1.0)]  # after step 3, which ended the first epoch
    assert [step for step, _ in scalar["training/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in scalar["lr/encoder.layers[4:6]"]] == [4, 5, 6]
    step_s, waits_s = (dict(scalar[f"timing/{name}_s"]) for name in ("step", "data"))
    assert all(0 <= waits_s[step] < step_s[step] for step in range(1, 7))
    assert [step for step, _ in scalar["timing/device_s"]] == [1, 2, 3, 4, 5, 6]
    assert scalar["dev/wer"] == [(2, 0.5), (3, 0.5), (4, 0.5), (6, 0.5)]
    assert scalar["audit/rate"] == [(0, pytest.approx(0.04))]
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("training/strategy/text_summary")]
    assert texts[0].startswith("B: trains projector (39,728)") and "encoder.layers[4:6]" in texts[1]
    assert "PROCEED" in events.Tensors("about/audit/text_summary")[0].tensor_proto.string_val[0].decode()
