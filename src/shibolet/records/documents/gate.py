"""`gate.json`: the verdict of the gate on a data set, and what stands behind it."""

from typing import ClassVar, Literal

from pydantic import Field

from shibolet.records.config import Config
from shibolet.records.documents.base import Document, Part

Decision = Literal["PROCEED", "CAUTION", "STOP", "INVALID"]
JudgedBy = Literal["text and audio", "text side only"]
Target = Literal["data_set", "new_recordings"]


class GateLimits(Config):
    """The lines of the gate and what the instrument must show before it is believed."""

    proceed_below_pct: float = Field(10.0, ge=0, le=100)  # the whole interval under this: PROCEED
    stop_above_pct: float = Field(15.0, ge=0, le=100)  # the whole interval over this: STOP
    rate: Literal["apparent", "corrected"] = "apparent"  # held against the lines: the detector's, or less its errors
    # Whose rate: of the data set that was drawn from, or of new recordings from its sources (30 or more must be heard).
    target: Target = "data_set"
    confidence_level: float = Field(0.95, gt=0, lt=1)  # of the two-sided interval
    min_scored_frac: float = Field(0.80, ge=0, le=1)  # share of the heard utterances that the instrument could score
    selftest_kinds: tuple[str, ...] = ("swapped", "silent")  # kinds of damage that must be found
    text_side_kinds: tuple[str, ...] = ("swapped", "text_halved")  # ... by hypotheses that come from a file
    min_selftest_recall: float = Field(0.90, ge=0, le=1)  # of each of these kinds
    min_selftest_contrast: float = Field(0.10, ge=0, le=1)  # each recall less the flagged share of untouched clips
    max_untouched_flagged_frac: float = Field(0.40, ge=0, le=1)  # over it somebody has to say that the texts are wrong
    max_harmless_changed_frac: float = Field(0.05, ge=0, le=1)  # of the verdicts on harmless copies


class Interval(Part):
    """A rate and its interval, in percent."""

    rate: float
    lower: float
    upper: float


class CountedRate(Interval):
    """... and the counts behind them."""

    num_heard: int
    num_low_quality: int  # of those heard
    num_population: int
    num_recordings: int  # heard; utterances of unknown recordings count as one each


class StratumRate(CountedRate):
    """... of a stratum, and the verdict that it would have by itself."""

    decision: Decision


class GateDecision(Part):
    """The verdict and its reasons, in words."""

    decision: Decision
    recommendation: str
    reasons: tuple[str, ...]  # sentences
    warnings: tuple[str, ...]  # sentences: what speaks against this decision
    straddles_pct: tuple[float, ...]  # lines of the gate inside the interval
    more_clips_needed: int | None  # about so many more would leave no line inside; None: nothing to settle
    literal_point_verdict: Decision  # the specification's: the sample's unweighted rate, without an interval


class GateVerdict(GateDecision, Document):
    """`gate.json`."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet gate RECIPE' makes it anew"

    exit_code: int
    accepted: bool  # INVALID, and the recipe goes on all the same
    next: Literal["continue", "stop", "repair"]  # what `shibolet run` does
    level_pct: float  # of the intervals
    target: Target
    low_quality_pct: CountedRate
    sample_low_quality_pct: float  # unweighted
    hours_low_quality_pct: float | None  # None: a stratum has hours and none were heard
    corrected_low_quality_pct: Interval | None  # None: not known
    corrected_from: str  # what it is known from, or why it is not known
    judged_by: JudgedBy
    num_scored: int
    failures: dict[str, int]  # why the others could not be scored
    strata: dict[str, StratumRate]
    notes: tuple[str, ...]  # sentences
    config: GateLimits
