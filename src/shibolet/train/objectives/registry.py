"""The objectives that a recipe can name; `ObjectiveName` lists the same names."""

from collections.abc import Callable

from shibolet.train.config import PhaseConfig
from shibolet.train.objective import Beginning, Needs, Objective, needs_of
from shibolet.train.objectives.distil import Distil
from shibolet.train.objectives.given import Given
from shibolet.train.objectives.min_wer import MinWer
from shibolet.train.objectives.on_policy import OnPolicy
from shibolet.train.objectives.transcribe import Transcribe

OBJECTIVES: dict[str, Callable[[Given], Objective]] = {
    "transcribe": lambda given: Transcribe(given.family, fast=given.fast, replays=given.replays),
    "distil": Distil,
    "on_policy": OnPolicy,
    "min_wer": MinWer,
}


def objectives_of(given: Given) -> tuple[Callable[[PhaseConfig], Objective], Needs | None]:
    """What begins a phase's objective and gives it, and what the packs of the whole training have to hold."""
    named = dict.fromkeys(map(given.config.objective_of, given.config.phases))
    made = {name: OBJECTIVES[name](given) for name in named}

    def begun(phase: PhaseConfig) -> Objective:
        objective = made[given.config.objective_of(phase)]
        if isinstance(objective, Beginning):
            objective.begin()
        return objective

    return begun, needs_of(made.values())
