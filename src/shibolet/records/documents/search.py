"""`search/search.json`: trials of rates, ranks and layers, and whether others than the recipe's own help."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import Ends


class SearchRung(Part):
    """A rung of successive halving."""

    steps: int  # of a trial, at its end
    trials: int


class SearchedTrial(Part):
    """One set of rates."""

    number: int  # 0: the recipe's own
    factors: dict[str, float]  # by dimension, of the recipe's value
    lr_by_part: dict[str, float]
    warmup_steps: int
    lora_rank: int | None  # None: no adapters
    losses: tuple[float | None, ...]  # nats a label on dev, at the end of each rung it took part in; None: it diverged
    difference: float | None  # nats a label after the first rung, minus the recipe's own
    interval: Ends | None  # None: too few recordings and speakers, or no difference


class LossDifference(Part):
    """How much likelier the labels of some dev texts are in one case than in another."""

    difference: float  # nats a label; below 0: likelier in the first
    interval: Ends | None  # None: too few recordings and speakers


class Confirmation(Part):
    """The best trial against the recipe's own, on the part of dev that chose nothing."""

    own_wer_pct: float | None
    found_wer_pct: float | None
    points: float | None  # of WER, the best trial minus the recipe's own
    interval_points: Ends | None
    counted: str  # what the interval counts as independent
    control: LossDifference  # the texts with their own audio, minus with the audio of other utterances


class SearchCost(Part):
    """What the search took, in steps of the recipe's training, but for the confirmation.

    That transcribes the confirming utterances with two models and measures losses on them, which trains nothing.
    """

    training_steps: int  # of the whole training
    beginning_steps: int  # before the trials, shared by all and by the training
    trial_steps: int
    times_own: float  # time of a step of the trials over that of the recipe's own; 1 where all train the same sizes
    loss_steps: float  # a loss takes a forward pass, a third of a step for as many utterances
    trainings: float  # these three, trials by their time; a training goes on from the trial that is recommended


class SearchTable(Document):
    """Every trial, and the one whose rates to train with."""

    FORMAT: ClassVar[int] = 3
    REMEDY: ClassVar[str] = "'shibolet search RECIPE' makes it anew"

    phase: str
    dimensions: dict[str, tuple[str, ...]]  # name -> the parts whose rates it multiplies, or whose layers it counts
    phase_steps: int  # of the phase as a whole
    most: float  # factors lie between 1/most and most
    proposals: str
    rungs: tuple[SearchRung, ...]
    trials: tuple[SearchedTrial, ...]
    choosing_utterances: int  # of dev, on which losses are measured; 0: every trial diverged
    left_out_utterances: int  # of dev, of the choosing part too, but they cannot be trained on
    confirming_utterances: int  # of dev, from other recordings and speakers
    best: int  # the trial with the lowest loss of those that came furthest
    confirmation: (
        Confirmation | None
    )  # None: no trial is better than the recipe's own, or nothing is left to confirm on
    recommended: int  # the best one where its gain is shown, else the recipe's own
    sentence: str
    cost: SearchCost

    @property
    def is_shown(self) -> bool:
        return self.recommended != 0

    @property
    def is_whole(self) -> bool:
        """Whether trials were compared at the end of the phase."""
        return self.rungs[-1].steps >= self.phase_steps

    @property
    def reached(self) -> str:
        """After how much of the phase trials were compared."""
        return part_of_phase(self.rungs[-1].steps, self.phase_steps)


def part_of_phase(steps: int, phase_steps: int) -> str:
    """`after 208 of the phase's 1,000 steps`."""
    if steps >= phase_steps:
        return f"after all {phase_steps:,} steps of the phase"
    return f"after {steps:,} of the phase's {phase_steps:,} steps"
