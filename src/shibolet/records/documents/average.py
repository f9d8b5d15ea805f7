"""`average/<name>/average.json`: which models were averaged, what every average came to, and which one was written."""

from typing import ClassVar, Literal

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import Folds, Optimism


class AveragedPart(Part):
    """One of the models that are averaged."""

    title: str  # a folder, a Hub id, or "step 500"
    identity: str  # content hash; of a checkpoint that of its list of files


class AveragedScore(Part):
    """A tried average on one set, and how it differs from the reference."""

    wer_pct: float
    cer_pct: float
    points: float  # of WER, minus the reference
    interval_points: tuple[float | None, float | None]  # None: too few recordings and speakers


class TriedAverage(Part):
    """One way to weigh the parts."""

    name: str  # its folder under scores/
    weights: tuple[float, ...]  # of the parts, in their order; they add up to 1
    identity: str  # content hash of the model that was scored
    dev: AveragedScore
    folds: Folds
    sets: dict[str, AveragedScore]
    beyond: tuple[
        str, ...
    ]  # sets that are not shown to lose less than `compare.limits` allows; such a one is not chosen


class Average(Document):
    """The averages that were tried, the reference first, and the one that `model/` has."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet average' with the same options makes it anew"

    method: Literal["uniform", "greedy", "interpolation"]
    parts: tuple[AveragedPart, ...]
    tried: tuple[TriedAverage, ...]
    chosen: str | None  # the name of one of them; None: each breaks a limit, and no model is written
    level_pct: float  # of one interval, so that all of a set hold together with 95%
    sentence: str
    optimism: Optimism | None  # None: not chosen on dev, or not known
    notes: tuple[str, ...]
