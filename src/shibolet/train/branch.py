"""A training that goes on from checkpoints of one with other settings, which stays whole beside it.

From the last checkpoint that its own settings would have made, so that it comes to the bytes of a training from the
beginning; or, asked for a step, from there, and then its result says which settings made the steps before.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shibolet.errors import CheckpointError, RecipeError
from shibolet.records.differences import differing, first
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.training import Earlier
from shibolet.records.files import take_over
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.config import TrainConfig
from shibolet.train.fingerprint import earlier_than, settings_of, with_settings
from shibolet.train.packing import steps_per_epoch
from shibolet.train.schedule import phase_steps
from shibolet.train.state import TrainState

LOG = logging.getLogger(__name__)
_METRICS = "metrics.jsonl"  # dev.jsonl and events.jsonl are written from the state


@dataclass(frozen=True, slots=True)
class Branch:
    """The checkpoints that a training begins with, as they are under its settings, the oldest first."""

    source: Path  # train/ of the other training
    states: list[TrainState]
    sentence: str

    @property
    def earlier(self) -> list[Earlier]:
        """What made the newest of them, as far as it was not these settings."""
        return self.states[-1].earlier

    def fill(self, target: Path) -> None:
        """Make a new train/ that begins with them."""
        old, new = CheckpointStore(self.source / "checkpoints"), CheckpointStore(target / "checkpoints")
        for state in self.states:
            old.copy(state.step, state.to_json(state.fingerprint), new)
        if (self.source / _METRICS).exists():
            take_over(self.source / _METRICS, target / _METRICS)


def unchanged(source: Path, config: TrainConfig) -> Branch | None:
    """What of the training in `source` these settings would have made too; None: nothing."""
    settings = settings_of(config)
    states, changed = [], []
    for state in _states(source):
        if earlier_than(state, settings) or state.gone:
            break
        states.append(_under(state, settings, [], config))
        changed = differing(state.fingerprint, states[-1].fingerprint)
    if not states:
        return None
    last = states[-1]
    ended = ", ".join(phase.name for phase in config.phases[: len(last.phase_end_steps)])
    kept = f"steps 1 to {last.step:,} are kept{f', with the end of phase {ended}' if ended else ''}"
    return Branch(source, states, f"{first(changed)} changed; {kept}, and training goes on from there")


def begin_at(source: Path, step: int, config: TrainConfig) -> Branch:
    """What `unchanged` gives, as far as `step`; RecipeError where these settings have no checkpoint of it."""
    found = unchanged(source, config)
    states = [state for state in found.states if state.step <= step] if found else []
    if not states or states[-1].step != step:
        raise RecipeError(f"a trial cannot begin at step {step}: {_which(source)}")
    return Branch(source, states, f"begins at step {step:,}")


def from_step(source: Path, step: int, config: TrainConfig) -> Branch:
    """The training in `source` as far as `step`, to go on with these settings; RecipeError where that cannot be."""
    settings = settings_of(config)
    states = [state for state in _states(source) if state.step <= step]
    if not states or states[-1].step != step:
        raise RecipeError(f"--from-step {step}: {_which(source)}")
    _require_same_model(states[-1], settings)
    states[-1] = _in_phase(states[-1], config, source)
    kept: list[TrainState] = []
    for state in states:
        there = [*(before.step for before in kept), state.step]
        kept.append(_under(state, settings, there, config))
    branch = Branch(source, kept, f"goes on from step {step:,}, with the recipe as it is now")
    told = [branch.sentence, *(part.sentence for part in branch.earlier)]
    return Branch(source, kept, "; ".join(told))


def _states(source: Path) -> Iterator[TrainState]:
    """The states of the whole checkpoints of a training, the oldest first; broken ones are named in the log."""
    if not (source / "checkpoints").is_dir():
        return
    store = CheckpointStore(source / "checkpoints")
    for step in store.steps():
        try:
            yield TrainState.from_json(store.at(step).state, store.path(step))
        except (CheckpointError, RecipeError) as error:
            LOG.warning("left out: %s", error)


def _which(source: Path) -> str:
    """Which steps there are to go on from."""
    if not (states := list(_states(source))):
        return f"{source} has no checkpoint to go on from"
    shown = []
    for state in states:
        name = json.loads(state.fingerprint.get(f"train.phases.{state.phase_index}.name", '"?"'))
        shown.append(f"{state.step} ({'the end of ' if state.phase_ended else 'in '}{name})")
    return f"there is no checkpoint of that step; there are {', '.join(shown)}"


def _under(state: TrainState, settings: dict[str, str], there: list[int], config: TrainConfig) -> TrainState:
    """A state as one of a training with these settings; of its dev scores those without a checkpoint cannot win.

    Without `there` every checkpoint stays that may be the result, and none is gone.
    """
    fingerprint = with_settings(state.fingerprint, settings)
    changes: dict[str, Any] = {"fingerprint": fingerprint, "earlier": earlier_than(state, settings)}
    found = state.model_copy(update=changes, deep=True)
    while there:
        best = {score.step for score in found.best_of(config.average_best or 1)}
        if not (lost := best - set(there)):
            break
        found.gone += sorted(lost)
    return found


def _require_same_model(state: TrainState, settings: dict[str, str]) -> None:
    """RecipeError where the checkpoint's weights are no weights of the model that would go on."""
    then = {name: value for name, value in state.fingerprint.items() if name.startswith("train.")}
    of_model = ("train.lora", "train.untie_head", "train.precision", "train.objective")
    if names := [name for name in differing(then, settings) if name.startswith(of_model)]:
        raise RecipeError(
            f"--from-step {state.step}: {first(names)} changed, and the checkpoint is of a model without that change; "
            "set it back, or train from the beginning in another run folder"
        )


def _in_phase(state: TrainState, config: TrainConfig, source: Path) -> TrainState:
    """The state where its phase ends as these settings say; RecipeError where that was before the step."""
    index, settings = state.phase_index, settings_of(config)
    names = [f"train.phases.{number}.name" for number in range(index + 1)]
    if [settings.get(name) for name in names] != [state.fingerprint.get(name) for name in names]:
        raise RecipeError(
            f"--from-step {state.step}: the recipe's phases up to there have other names or another order than those "
            "that were trained; change what a phase does, and keep its name and place"
        )
    trained = Plan.read(source / "plan.json").training_set
    phase = config.phases[index]
    own_per_step = config.utterances_per_step - config.replay_per_step(trained.replay.share if trained.replay else 0)
    num_steps = phase_steps(phase, steps_per_epoch(trained.utterances, own_per_step))
    if not state.phase_ended and state.step_in_phase >= num_steps:
        raise RecipeError(
            f"--from-step {state.step}: phase {phase.name} now ends after {num_steps} steps and this is its step "
            f"{state.step_in_phase}; go on from an older step, or make the phase longer"
        )
    epochs = f"train.phases.{index}.num_epochs"
    is_longer = state.step_in_phase < num_steps and state.fingerprint.get(epochs) != settings[epochs]
    if not (state.phase_ended and is_longer):
        return state
    return state.model_copy(update={"phase_ended": False, "phase_end_steps": state.phase_end_steps[:-1]}, deep=True)
