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

    # PROCEED if the whole interval of the rate of low quality lies under this, in percent
    proceed_below_pct: float = Field(10.0, ge=0, le=100)
    # STOP if the whole interval lies over this, in percent; between the two lines: CAUTION
    stop_above_pct: float = Field(15.0, ge=0, le=100)
    # The rate that is compared with the lines: as detected, or corrected for the detector's errors
    rate: Literal["apparent", "corrected"] = "apparent"
    # The rate of this data set, or of new recordings from its sources, which needs 30 heard recordings
    target: Target = "data_set"
    confidence_level: float = Field(0.95, gt=0, lt=1)  # confidence level of the two-sided interval of the rate
    # Share of the heard utterances that must be scored; with less there is no verdict (INVALID)
    min_scored_frac: float = Field(0.80, ge=0, le=1)
    selftest_kinds: tuple[str, ...] = ("swapped", "silent")  # kinds of damage that the self-test must find
    # The same where the hypotheses come from a file, which can only judge damaged texts
    text_side_kinds: tuple[str, ...] = ("swapped", "text_halved")
    # Share of the damaged copies of each of these kinds that must be found
    min_selftest_recall: float = Field(0.90, ge=0, le=1)
    # Least difference between that share and the share of untouched clips that are flagged
    min_selftest_contrast: float = Field(0.10, ge=0, le=1)
    # Flagged share of untouched clips; over it a person has to confirm that the texts are wrong
    max_untouched_flagged_frac: float = Field(0.40, ge=0, le=1)
    # Share of harmless copies that may get another verdict than their original
    max_harmless_changed_frac: float = Field(0.05, ge=0, le=1)


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
