"""Where a training run stands: plain data, saved with every checkpoint."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from shibolet.errors import RecipeError
from shibolet.records.differences import differing, first
from shibolet.records.documents.training import DevRates, DevScore, Earlier, Event


class _Changing(BaseModel):
    """Plain data that a training changes as it goes on."""

    model_config = ConfigDict(extra="forbid")


class Losses(_Changing):
    """What the guards remember of the losses; like the weights it goes back with a roll-back."""

    recent: list[float] = []  # finite losses of this phase, the last few hundred
    baseline: float | None = None  # their median before the switch; None: too few to judge by
    recovered: bool = False  # whether the spike after the switch is over
    skipped: list[int] = []  # the last steps (from 0), without a finite loss and gradient


class Decisions(_Changing):
    """What the run decided on its way; a roll-back does not undo it."""

    rollbacks: int = 0
    left_out: list[int] = []  # steps (from 0) that a roll-back found and that are not retaken
    lowered: list[int] = []  # phases in their second try, with `lr_if_diverged`
    fell_back: bool = False  # given up after the phase that ended last: its weights are the result
    pack_tokens: int | None = None  # the largest pack that memory holds; None: as the recipe says
    rungs: list[str] = []  # of the memory ladder, beyond smaller packs
    memory_full: bool = False  # told, and not over yet
    events: list[Event] = []  # all of the above, told


class TrainState(_Changing):
    """Position, dev scores and best step so far; the place in the data follows from `step`."""

    phase_index: int = 0
    step: int = 0  # optimizer steps over the whole run
    step_in_phase: int = 0
    phase_ended: bool = False
    utterances_seen: int = 0
    scores_without_gain: int = 0  # dev scores since the phase's last gain
    dev: list[DevScore] = []
    phase_end_steps: list[int] = []
    losses: Losses = Losses()
    decisions: Decisions = Decisions()
    gone: list[int] = []  # scored on dev, but their checkpoints were left behind: they cannot be the result
    fingerprint: dict[str, str] = {}  # what makes two runs the same run
    earlier: list[Earlier] = []  # steps that other settings made than the fingerprint's

    @property
    def best(self) -> DevScore | None:
        """The dev score after a step with the lowest WER; of equal ones the latest."""
        return next(iter(self.best_of(1)), None)

    def best_of(self, num: int, up_to: int | None = None) -> list[DevScore]:
        """That many dev scores after a step (up to a named one), the lowest WER first; of equal ones the latest."""
        last = self.step if up_to is None else up_to
        scores = [one for one in reversed(self.dev) if 0 < one.step <= last and one.step not in self.gone]
        return sorted(scores, key=lambda score: score.wer)[:num]

    @property
    def untrained(self) -> DevScore | None:
        """The dev score before the first step, which has no checkpoint and is never the best."""
        return next((score for score in self.dev if not score.step), None)

    def next_phase(self, last: int) -> int | None:
        """The phase to go on with; None when the plan, up to its phase `last`, is through or was given up."""
        index = self.phase_index + self.phase_ended
        return None if index > last or (self.phase_ended and self.decisions.fell_back) else index

    def enter_phase(self, index: int) -> None:
        self.phase_index, self.step_in_phase, self.phase_ended, self.scores_without_gain = index, 0, False, 0

    def add_dev_score(self, phase: str, rates: DevRates) -> None:
        """Record what a model has on dev at this step."""
        before = self.best
        self.dev.append(DevScore(step=self.step, phase=phase, **dict(rates)))
        gained = before is None or rates.wer < before.wer
        self.scores_without_gain = 0 if gained else self.scores_without_gain + 1

    def require_same_run(self, fingerprint: dict[str, str], path: Path) -> None:
        """RecipeError when the checkpoint belongs to another model, data set, seed or recipe."""
        if names := differing(self.fingerprint, fingerprint):
            raise RecipeError(
                f"{path} was written by a training with another {first(names)}; delete its folder to "
                "train anew, or choose another run folder"
            )

    def to_json(self, fingerprint: dict[str, str]) -> dict[str, Any]:
        return self.model_dump(mode="json") | {"fingerprint": fingerprint}

    @classmethod
    def from_json(cls, state: dict[str, Any], path: Path) -> Self:
        """The state of a checkpoint's `state.json`; RecipeError when another version of shibolet wrote it."""
        try:
            return cls.model_validate(state)
        except ValidationError as error:
            raise RecipeError(
                f"{path} was written by another version of shibolet, which this one cannot go on from; choose another "
                "run folder, or delete its folder to train anew"
            ) from error
