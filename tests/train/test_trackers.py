"""The record has each step once; what watches a run cannot end it."""

import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_config

from shibolet.errors import RecipeError
from shibolet.train.stage import run_train
from shibolet.train.trackers import MetricsFile, Trackers


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_steps_beyond_the_resumed_one_are_cut_off(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    record = MetricsFile(path, 0)
    for step in (1, 2, 3, 4):
        record.write({"step": step})
    record.close()
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # killed in the middle of a line
    record = MetricsFile(path, 2)
    record.write({"step": 3})
    record.close()
    assert steps(path) == [1, 2, 3]


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


def test_tensorboard_shows_the_strategy_and_its_switch(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    run_train(
        prepared_dir=prepared_dir, out_dir=tmp_path, base=str(base_dir), config=tiny_config(), language="Hebrew",
        seed=0, score_dev=lambda loaded: {"wer": 0.5, "cer": 0.25},
        about={"audit": {"decision": "PROCEED", "rate": 0.04}},
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalar = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert [value for _, value in scalar["training/strategy"]] == [0, 0, 0, 1, 1, 1]
    assert scalar["training/strategy_switch"] == [(3, 1.0)]  # after step 3, which ended the first epoch
    assert [step for step, _ in scalar["training/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in scalar["lr/encoder.layers[4:6]"]] == [4, 5, 6]
    assert scalar["dev/wer"] == [(2, 0.5), (3, 0.5), (4, 0.5), (6, 0.5)]
    assert scalar["audit/rate"] == [(0, pytest.approx(0.04))]
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("training/strategy/text_summary")]
    assert texts[0].startswith("B: trains projector (39,728)") and "encoder.layers[4:6]" in texts[1]
    assert "PROCEED" in events.Tensors("about/audit/text_summary")[0].tensor_proto.string_val[0].decode()
