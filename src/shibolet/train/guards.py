"""What watches a training: losses that are no numbers, and a switch of phases that diverges.

Decides from the losses alone, which every rank knows, so that every rank decides the same; the loop carries it out.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median

from shibolet.errors import Diverged
from shibolet.train.config import GuardsConfig, PhaseConfig
from shibolet.train.state import Decisions, Losses, TrainState

_OUTLIER = 10.0  # times the rolling median: a loss worth a line in the log; its gradient is clipped like any other


class RollBack(Exception):
    """An order to the loop: back to the newest checkpoint of at most `step`, then `change` the decisions."""

    def __init__(self, step: int, reason: str, change: Callable[[Decisions], None]) -> None:
        super().__init__(reason)
        self.step, self.change = step, change


def enter_phase(losses: Losses, config: GuardsConfig, is_same_loss: bool = True) -> None:
    """Take what the phase before came to as the baseline of the next, unless that minimises something else."""
    enough = is_same_loss and len(losses.recent) >= config.window_steps
    losses.baseline = median(losses.recent[-config.baseline_steps :]) if enough else None
    losses.recent, losses.recovered = [], False


def watch(state: TrainState, loss: float | None, phases: Sequence[PhaseConfig], config: GuardsConfig) -> str | None:
    """Judge the step that was just counted in `state`; `loss` is None when it was skipped as not finite.

    Gives a sentence for the log when there is something to say. Raises RollBack when the training has to go back,
    Diverged when it has done so too often.
    """
    losses = state.losses
    if loss is None:
        losses.skipped.append(state.step - 1)
        if len(losses.skipped) >= config.max_skips:
            _leave_out_skipped(state, config)
        return None
    losses.skipped = []
    window = losses.recent[-config.window_steps :]
    usual = median(window) if len(window) == config.window_steps else math.inf
    losses.recent.append(loss)
    del losses.recent[: -max(config.baseline_steps, config.window_steps)]
    if fault := _divergence(losses, state.step_in_phase, config):
        _back_to_the_switch(state, phases[state.phase_index], fault)
    return f"loss {loss:.4g} is {loss / usual:.0f} times the rolling median" if loss > _OUTLIER * usual else None


def _divergence(losses: Losses, step_in_phase: int, config: GuardsConfig) -> str | None:
    """What is wrong with the losses after a switch, or None.

    A spike to 1.5 times the baseline is expected there (specification: 0.20 -> 0.30) and passes.
    """
    window = losses.recent[-config.window_steps :]
    if not losses.baseline or len(window) < config.window_steps:
        return None
    ratio = median(window) / losses.baseline
    losses.recovered |= ratio <= config.recovered_below
    now = f"the rolling median of the loss is {ratio:.2f} times the {losses.baseline:.4g} before the switch"
    if ratio > config.diverged_above:
        return f"{now}, above {config.diverged_above:g}"
    if step_in_phase >= config.recover_within_steps and not losses.recovered:
        return f"{now} and has not fallen to {config.recovered_below:g} in {step_in_phase} steps"
    return None


def _leave_out_skipped(state: TrainState, config: GuardsConfig) -> None:
    """Order the state before the skipped steps back, to pass over them."""
    bad = list(state.losses.skipped)
    if state.decisions.rollbacks >= config.max_rollbacks:
        raise Diverged(
            f"step {state.step}: no finite loss in {len(bad)} steps, after {state.decisions.rollbacks} roll-backs; "
            "events.jsonl names the utterances, the checkpoints are good: lower the rates, or raise "
            "train.guards.max_rollbacks"
        )

    def change(decisions: Decisions) -> None:
        decisions.rollbacks += 1
        decisions.left_out += bad

    numbers = ", ".join(str(step + 1) for step in bad)
    raise RollBack(bad[0], f"no finite loss in steps {numbers}, which are passed over from now on", change)


def _back_to_the_switch(state: TrainState, phase: PhaseConfig, fault: str) -> None:
    """Order the end of the phase before back: to try once more with lower rates, or to end there."""
    index = state.phase_index
    again = bool(phase.lr_if_diverged) and index not in state.decisions.lowered

    def change(decisions: Decisions) -> None:
        if again:
            decisions.lowered.append(index)
        else:
            decisions.fell_back = True

    then = f"once more with {dict(phase.lr_if_diverged)}" if again else "the phase before it is the result"
    raise RollBack(state.phase_end_steps[-1], f"phase {phase.name} diverged: {fault}; {then}", change)
