"""The objectives that a recipe can name; `TrainConfig.objective` lists the same names."""

from collections.abc import Callable

from shibolet.train.objective import Objective
from shibolet.train.objectives.transcribe import Transcribe

OBJECTIVES: dict[str, Callable[..., Objective]] = {"transcribe": Transcribe}  # name -> (family, fast=...)
