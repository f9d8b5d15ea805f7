"""What `shibolet plan` prints: what a whole round will take, stretch by stretch, before it is started."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.plan import Plan


class Stretch(Part):
    """A stretch of a round: how its time comes about, and where the rate is from."""

    name: str  # "hearing the sample"
    arithmetic: str  # "71,079 clips / 44.8 a second"
    seconds: float | None  # None: not known
    usd: float | None  # None: neither known without seconds nor without a price
    missing: str | None  # what the seconds leave out, or why there are none
    rate_from: str  # a section of benchmarks/RESULTS.md, a run folder, or the plan's own arithmetic


class RoundCase(Part):
    """The round on so many rows of training data."""

    rows: int | None  # before they are prepared; None: not known
    rows_from: str
    train_utterances: int | None  # that are expected to train
    stretches: tuple[Stretch, ...]
    hours: float  # of the stretches whose seconds are known
    usd: float | None  # None: the recipe names no price
    at_least: bool  # a stretch leaves something out


class RoundPlan(Document):
    """The stretches of a round, with hours and dollars, and its training in detail."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet plan RECIPE --json' makes one"

    machine: str  # "2 x A100"
    num_gpus: int  # that are paid for; 0: a CPU
    price_per_gpu_hour_usd: float | None
    cases: tuple[RoundCase, ...]  # one for each count of rows that is known; the first is the training plan's
    notes: tuple[str, ...]  # what is counted in which way, and why it is so far from what others expect
    training: Plan
