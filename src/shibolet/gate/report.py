"""What the gate reads of `alignment_report.json`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shibolet.scoring.rates import StratumSize


class _Part(BaseModel):
    """What the gate reads of `alignment_report.json`; the report has other keys for other readers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Tally(_Part):
    """`hits` of `total` trials."""

    hits: int = Field(ge=0)
    total: int = Field(ge=0)

    @property
    def frac(self) -> float:
        return self.hits / self.total if self.total else 0.0


class SelfTestTallies(_Part):
    """What the instrument said to damaged, harmless and untouched copies of some of the judged clips."""

    damaged: dict[str, Tally]  # kind of damage -> flagged copies
    harmless: Tally  # harmless copies (gain, speed) with another verdict than their original
    untouched: Tally  # originals that were flagged


class SelfTestSummary(SelfTestTallies):
    """... of all tested clips, and by domain."""

    domains: dict[str, SelfTestTallies] = {}
    untested: dict[str, int] = {}  # domain -> its clips, too few to test it


class ErrorRates(_Part):
    """The detector's, measured on data that are not being judged (a calibration file)."""

    sensitivity: float = Field(ge=0, le=1)
    specificity: float = Field(ge=0, le=1)
    num_damaged: int = Field(ge=1)  # clips behind the first, however many copies were made of each
    num_clean: int = Field(ge=1)  # ... behind the second
    measured_on: str


class Interval(_Part):
    """A rate and its interval, in percent."""

    rate: float
    lower: float
    upper: float


class Forecast(_Part):
    """The interval that so many answers would give, in percent, if they stay what they are."""

    num_answers: int
    lower: float
    upper: float


class ReviewSummary(_Part):
    """What a person's verdicts come to."""

    num_counted: int = Field(ge=0)  # in the random draw
    num_sure: int = Field(0, ge=0)  # of these, good or bad
    corrected_low_quality_pct: Interval | None  # None: too few answers
    forecast: tuple[Forecast, ...] = ()  # by number of answers


class CalibrationSummary(_Part):
    """What the confidence map was made of."""

    kind: str  # "self", or the name of clean data
    num_clean: int
    num_left_out: int


class AuditReport(_Part):
    """The part of `alignment_report.json` that the gate reads."""

    strata: dict[str, StratumSize]  # of the population, before anything was drawn or filtered
    num_scored: int = Field(ge=0)  # heard utterances that the instrument could score
    failures: dict[str, int]  # why the others could not be scored -> how many
    calibration: CalibrationSummary
    judged_by: Literal["text and audio", "text side only"] = "text and audio"
    self_test: SelfTestSummary | None = None  # None: it did not run, which is INVALID
    detector: ErrorRates | None = None  # None: not known
    review: ReviewSummary | None = None
    num_looks: int = Field(
        1, ge=1
    )  # verdicts that were taken on this data, each on a larger sample than the one before
