"""Which checkpoints of a training are its result, and how much too good the score is that chose them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shibolet.records.documents.scores import Optimism
from shibolet.records.documents.training import DevRates
from shibolet.scoring.selection import optimism_of
from shibolet.scoring.wording import shown_pct
from shibolet.train.config import TrainConfig
from shibolet.train.state import TrainState
from shibolet.train.trainer import GradualUnfreezeTrainer


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoints whose weights, averaged when there are several, are the result."""

    steps: list[int]
    reason: str
    dev: DevRates | None  # the rates alone
    optimism: Optimism | None = None  # by how much that WER is too good; None: not chosen by it, or not known


def choose(trainer: GradualUnfreezeTrainer, state: TrainState, config: TrainConfig, last_phase: int) -> Choice:
    """The best dev WER of the run or the average of the best; the end of `last_phase` where that is not the plan's."""
    if last_phase < len(config.phases) - 1:
        ended = min(last_phase, len(state.phase_end_steps) - 1)
        asked, name = config.phases[last_phase].name, config.phases[ended].name
        why = "as asked" if ended == last_phase else f"since {asked} diverged and was given up"
        step = state.phase_end_steps[ended]
        there = next((score for score in reversed(state.dev) if score.step == step), None)
        return Choice([step], f"the end of phase {name}, {why}", _rates(there))
    if (best := state.best) is None:
        return Choice([state.step], "last step; there was no dev score", None)
    candidates = state.best_of(len(state.dev))
    choice = Choice([best.step], "dev WER", _rates(best), _optimism(candidates))
    if config.average_best is None:
        return choice
    # of one phase: other phases train other parameters
    steps = [score.step for score in state.best_of(config.average_best) if score.phase == best.phase]
    if len(steps) == 1:
        return choice
    averaged = trainer.score_average(steps)
    optimism = _optimism([*candidates, averaged])
    if averaged.wer >= best.wer:
        return replace(choice, optimism=optimism)
    return Choice(steps, f"dev WER, averaged over {len(steps)} checkpoints", _rates(averaged), optimism)


def _rates(score: DevRates | None) -> DevRates | None:
    """A score's rates alone."""
    return None if score is None else DevRates(wer=score.wer, cer=score.cer)


def warning_of(untrained: DevRates | None, chosen: DevRates | None) -> str | None:
    """That the model was better on dev before it trained; None where it was not, or where it is not known."""
    if untrained is None or chosen is None or chosen.wer <= untrained.wer:
        return None
    return (
        f"on dev the model had a WER of {shown_pct(untrained.wer)} before its first step and the result has "
        f"{shown_pct(chosen.wer)}: training made it worse there"
    )


def _optimism(scores: Sequence[DevRates]) -> Optimism | None:
    """How much too good the lowest WER of some dev scores is; None where one does not say what its folds are."""
    folds = [score.folds for score in scores if score.folds]
    return optimism_of(folds) if len(folds) == len(scores) else None
