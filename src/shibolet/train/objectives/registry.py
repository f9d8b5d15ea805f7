"""The objectives that a recipe can name; `TrainConfig.objective` lists the same names."""

from shibolet.train.objective import Objective
from shibolet.train.objectives.transcribe import Transcribe

OBJECTIVES: dict[str, type[Objective]] = {"transcribe": Transcribe}
