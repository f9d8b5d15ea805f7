"""A training that goes wrong stops going wrong: nothing that is no number reaches a weight, a bad switch is undone."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_trainer import rows, run
from tiny_run import tiny_config

from shibolet.errors import Diverged
from shibolet.model.qwen3_asr.packed import Pack
from shibolet.train import guards
from shibolet.train.config import GuardsConfig, PhaseConfig
from shibolet.train.data import TrainExample
from shibolet.train.guards import RollBack
from shibolet.train.objective import PackLoss
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.reader import Decoded, PackReader
from shibolet.train.state import TrainState

CONFIG = GuardsConfig()
B = PhaseConfig(name="B", num_epochs=2, lr_by_part={"projector": 2e-4})
A = PhaseConfig(
    name="A", num_epochs=3, lr_by_part={"projector": 1e-4, "encoder.layers": 3e-5},
    lr_if_diverged={"encoder.layers": 1e-5},
)  # fmt: skip


def play(after: Callable[[int], float | None], *, steps: int = 1000, lowered: bool = False) -> TrainState:
    """The state after a phase B of 300 steps at a loss of 0.2, and a phase A whose losses are `after(step)`."""
    state = TrainState()
    for _ in range(300):
        state.step += 1
        assert guards.watch(state, 0.2, (B, A), CONFIG) is None
    state.phase_end_steps.append(300)
    state.enter_phase(1)
    guards.enter_phase(state.losses, CONFIG)
    if lowered:
        state.decisions.lowered.append(1)
    for step in range(steps):
        state.step += 1
        state.step_in_phase += 1
        guards.watch(state, after(step), (B, A), CONFIG)
    return state


def order(after: Callable[[int], float | None], **how) -> tuple[int, RollBack, TrainState]:
    """The step in phase A that the guard rolls back at, its order, and the decisions that go on from there."""
    taken = []

    def told(step: int) -> float | None:
        taken.append(step)
        return after(step)

    with pytest.raises(RollBack) as raised:
        play(told, **how)
    state = TrainState()
    raised.value.change(state.decisions)
    return len(taken), raised.value, state


def test_the_spike_of_the_specification_passes():
    state = play(lambda step: 0.3 - 0.1 * min(step, 200) / 200)  # 0.20 -> 0.30, back within 200 steps
    assert state.losses.recovered and state.losses.baseline == 0.2


def test_single_outliers_pass_and_are_told():
    assert play(lambda step: 20.0 if step % 60 == 59 else 0.2).losses.recovered
    state = TrainState(losses=guards.Losses(recent=[0.2] * 50))
    assert guards.watch(state, 20.0, (B, A), CONFIG) == "loss 20 is 100 times the rolling median"


def test_above_twice_the_baseline_goes_back_at_once_and_lowers_the_thawed_rate_once():
    step, asked, state = order(lambda step: 0.41)
    assert step == 50  # as soon as there is a median
    assert asked.step == 300 and "2.05 times the 0.2 before the switch" in str(asked)
    assert state.decisions.lowered == [1] and not state.decisions.fell_back
    step, asked, state = order(lambda step: 0.41, lowered=True)
    assert state.decisions.fell_back and "the phase before it is the result" in str(asked)


def test_a_spike_that_does_not_fall_goes_back_after_400_steps():
    step, asked, _ = order(lambda step: 0.3)
    assert step == 400 and "has not fallen to 1.1 in 400 steps" in str(asked)
    later, _, _ = order(lambda step: 0.2 if step < 500 else 0.5)  # recovered, and blown up later
    assert 520 < later < 530


def test_too_few_losses_before_the_switch_are_no_baseline():
    state = TrainState(losses=guards.Losses(recent=[0.2] * 49))
    guards.enter_phase(state.losses, CONFIG)
    assert state.losses.baseline is None


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[TrainExample], bool]) -> None:
    plain = PackReader._with_features

    def poisoned(self: PackReader, decoded: Decoded, examples: Sequence[TrainExample]) -> Pack:
        pack = plain(self, decoded, examples)
        return replace(pack, features=pack.features * math.nan) if any(map(bad, examples)) else pack

    monkeypatch.setattr(PackReader, "_with_features", poisoned)


def events(out: Path) -> list[tuple[int, str]]:
    return [(e["step"], e["event"]) for e in map(json.loads, (out / "events.jsonl").read_text().splitlines())]


def test_a_batch_that_gives_no_number_is_skipped_and_named(base_dir, prepared_dir, tmp_path: Path, monkeypatch, caplog):
    poison(monkeypatch, lambda example: example.id == "u0007")
    run(base_dir, prepared_dir, tmp_path, tiny_config())
    logged = rows(tmp_path)
    skipped = [row["step"] for row in logged if row["skipped"]]
    assert len(skipped) == 2 and [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]  # once in each epoch
    assert all(row["loss"] is None and row["skipped"] == "loss nan, gradient norm nan" for row in logged
               if row["step"] in skipped)  # fmt: skip
    assert events(tmp_path) == [(step, "skipped") for step in skipped]
    assert "rank 0: loss nan in a pack of ['" in caplog.text and "u0007" in caplog.text
    newest = tmp_path / "checkpoints" / "step-00000006"
    assert all(weight.isfinite().all() for weight in load_file(newest / "masters.safetensors").values())
    taken = {int(t) for name, t in load_file(newest / "moments.safetensors").items() if name.startswith("step/")}
    assert taken == {4, 6 - 3 - sum(step > 3 for step in skipped)}  # updates of what trains in both phases, in A only


def test_a_batch_of_a_hundredfold_loss_is_clipped_and_told(base_dir, prepared_dir, tmp_path: Path, monkeypatch):
    plain, calls = Transcribe.loss, itertools.count(1)

    def hundredfold(*args) -> PackLoss:
        times = 100 if next(calls) == 4 else 1  # step 3: one pack a step, after the trial
        return PackLoss(plain(*args).total * times)

    monkeypatch.setattr(Transcribe, "loss", hundredfold)
    config = tiny_config(pack_tokens=4096, guards=GuardsConfig(window_steps=2))
    run(base_dir, prepared_dir, tmp_path, config)
    assert events(tmp_path) == [(3, "outlier")]
    logged = rows(tmp_path)
    assert logged[2]["loss"] > 50 * logged[1]["loss"] and logged[2]["grad_norm"] > 10
    assert max(row["loss"] for row in logged[3:]) < 2 * logged[0]["loss"]


def test_skips_in_a_row_roll_back_pass_over_them_and_in_the_end_give_up(base_dir, prepared_dir, tmp_path, monkeypatch):
    """From step 3 on the first three attempts give no number."""
    calls = []
    plain = Transcribe.loss

    def failing(*args) -> PackLoss:
        calls.append(None)
        return PackLoss(plain(*args).total * (math.nan if len(calls) in bad else 1.0))

    monkeypatch.setattr(Transcribe, "loss", failing)
    config = tiny_config(
        utterances_per_step=4, pack_tokens=4096, checkpoint_every_steps=1,
        guards=GuardsConfig(max_skips=2, max_rollbacks=1),
    )  # fmt: skip

    bad = [4, 5]  # steps 3 and 4: one pack a step, after the trial of memory
    run(base_dir, prepared_dir, tmp_path / "once", config)
    logged = rows(tmp_path / "once")
    assert [row["step"] for row in logged] == list(range(1, 13))
    assert [row["step"] for row in logged if row["skipped"] == "nothing to train on"] == [3, 4]
    assert events(tmp_path / "once") == [
        (3, "skipped"), (4, "skipped"), (2, "roll_back"), (3, "skipped"), (4, "skipped"),
    ]  # fmt: skip

    bad = range(4, 100)
    calls.clear()
    with pytest.raises(Diverged, match=r"step 6: no finite loss in 2 steps, after 1 roll-backs"):
        run(base_dir, prepared_dir, tmp_path / "twice", config)
    assert len(list((tmp_path / "twice" / "checkpoints").glob("*/COMPLETE"))) == 2


@pytest.mark.parametrize("again", [True, False])
def test_a_switch_that_diverges_is_tried_gently_and_then_undone(
    base_dir, prepared_dir, tmp_path: Path, monkeypatch, again: bool
):
    """Losses are multiplied by 9 while the encoder trains at its full rate, and `again` at the lower one too."""
    plain = guards.watch

    def watch(state, loss, phases, config):
        diverging = state.phase_index == 1 and (again or not state.decisions.lowered)
        return plain(state, loss * 9 if diverging else loss, phases, config)

    monkeypatch.setattr(guards, "watch", watch)
    config = tiny_config(guards=GuardsConfig(window_steps=2, baseline_steps=3))
    part = "encoder.layers[4:6]"
    phases = (config.phases[0], config.phases[1].model_copy(update={"lr_if_diverged": {part: 1e-5}}))
    result = run(base_dir, prepared_dir, tmp_path, config.model_copy(update={"phases": phases}))
    found = [name for _, name in events(tmp_path)]
    if again:
        assert found == ["roll_back", "roll_back"] and result.steps == 3
        whole = run(base_dir, prepared_dir, tmp_path / "b", config.model_copy(update={"phases": phases[:1]}))
        assert whole.chosen_step == result.chosen_step == 3
        ours, b = (load_file(out / "final" / "model.safetensors") for out in (tmp_path, tmp_path / "b"))
        assert all(ours[name].equal(b[name]) for name in b)
    else:
        assert found == ["roll_back"] and result.steps == 6
        assert [row["lr"][part] for row in rows(tmp_path)[3:]] == [1e-5] * 3
