"""What pages and the model card say of a recipe: the parts of `recipe.yaml` that they name.

The recipe itself is a layer above. The file in a run folder has every default in it, so nothing is decided here.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from shibolet.errors import DataError, RecipeError
from shibolet.records.settings import read_yaml


class _Shown(BaseModel):
    """Some of the settings of a section."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ShownSource(_Shown):
    name: str
    hub: str | None
    split: str | None
    baseline_wer_pct: float | None = None  # of an evaluation set alone


class ShownReplay(_Shown):
    share: float
    sources: tuple[ShownSource, ...]


class ShownData(_Shown):
    train: tuple[ShownSource, ...]
    unlabelled: tuple[ShownSource, ...] = ()
    replay: ShownReplay | None = None

    @property
    def trained(self) -> tuple[ShownSource, ...]:
        """All that training reads: what has texts, what machines wrote texts for, and what is replayed."""
        replayed = self.replay.sources if self.replay and self.replay.share else ()
        return (*self.train, *self.unlabelled, *replayed)


class ShownEvaluate(_Shown):
    sets: tuple[ShownSource, ...]
    beam_size: int = 1
    length_penalty: float = 1.0
    loop_bias: float = 0.0


class ShownModels(_Shown):
    base: str | None  # None: of a round that only audits so far
    baseline: str | None
    baseline_title: str
    teacher: str | None = None


class ShownAudit(_Shown):
    min_coverage: float
    min_confidence: float


class ShownAugment(_Shown):
    spec_augment: Any = None  # None: off


class ShownExpected(_Shown):
    wer_pct: dict[int, float] = {}  # finished epochs -> WER on dev
    loss_at_switch: tuple[float, float] | None = None


class ShownPhase(_Shown):
    name: str
    objective: str | None = None  # None: that of the training


class ShownTrain(_Shown):
    expected: ShownExpected = ShownExpected()
    augment: ShownAugment | None = None
    phases: tuple[ShownPhase, ...] = ()
    objective: str = "transcribe"

    @property
    def objectives(self) -> dict[str, str]:
        """What each phase minimises."""
        return {phase.name: phase.objective or self.objective for phase in self.phases}


class ShownRecipe(_Shown):
    """A round, as far as people read of it."""

    name: str
    title: str
    parent: str | None = None  # run folder of the round before, relative to this one
    language: str
    models: ShownModels | None
    data: ShownData
    audit: ShownAudit
    train: ShownTrain | None  # None: the recipe audits, or scores and compares, and trains nothing
    evaluate: ShownEvaluate

    @classmethod
    def read(cls, path: Path) -> "ShownRecipe":
        """What is in a run folder's `recipe.yaml`; DataError where another version of shibolet wrote it."""
        try:
            return cls.model_validate(read_yaml(path))
        except RecipeError as error:
            raise DataError(f"{error}; it is not a recipe that shibolet wrote: run the round again there") from error
        except ValidationError as error:
            raise DataError(f"{path} was written by another version of shibolet; name another run folder") from error

    @property
    def trains_nothing(self) -> bool:
        return self.models is None or self.train is None
