"""`alignment_report.json`: what the audit found, in total and by domain, and how far its instrument can be believed."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.calibration import ErrorRates, Reliability
from shibolet.records.documents.gate import Decision, Interval, JudgedBy


class StratumSize(Part):
    """One stratum of the population from which the sample was drawn."""

    num_utterances: int
    hours: float


class DomainStatistics(Part):
    """The verdicts on the utterances that were heard of a domain; means are None where nobody measured."""

    count: int
    low_quality_count: int
    low_quality_percentage: float
    mean_coverage: float | None
    median_coverage: float | None
    mean_confidence: float | None
    length_mismatch_percentage: float | None


class FlagStatistics(Part):
    """The verdicts on utterances that people noted something of."""

    count: int
    low_quality_count: int
    low_quality_percentage: float | None
    suspects: dict[str, int]  # what the audit takes the low ones for


class HumanFlags(Part):
    """What people noted of the data, against the audit's verdicts."""

    num_utterances: int  # that people were asked about
    flags: dict[str, FlagStatistics]  # by what they noted
    none: FlagStatistics  # of those with nothing noted


class Tally(Part):
    """`hits` of `total` trials."""

    hits: int = Field(ge=0)
    total: int = Field(ge=0)

    @property
    def frac(self) -> float:
        return self.hits / self.total if self.total else 0.0


class SelfTestTallies(Part):
    """What the instrument said to damaged, harmless and untouched copies of some of the judged clips."""

    damaged: dict[str, Tally]  # kind of damage -> flagged copies
    mild: dict[str, Tally]  # ... of which the gate demands nothing
    harmless: Tally  # harmless copies (gain, speed) with another verdict than their original
    untouched: Tally  # originals that were flagged


class SelfTest(SelfTestTallies):
    """... of all tested clips, and by domain."""

    domains: dict[str, SelfTestTallies]
    untested: dict[str, int]  # domain -> its clips, too few to test it


class CalibrationSummary(Part):
    """What the confidence map was made of."""

    kind: str  # "self", or the name of clean data
    num_clean: int
    num_left_out: int
    models: tuple[str, ...]  # identities of those that listened


class Probability(Part):
    """The probability beside the confidence, and how reliable it is."""

    sentence: str  # what it is the probability of
    num_clips: dict[str, int]  # by part of the mixture
    table: tuple[Reliability, ...]
    expected_error: float


class Answers(Part):
    """How often a person said what."""

    good: int
    bad: int
    unsure: int


class Forecast(Part):
    """The interval that so many answers would give, in percent, if they stay what they are."""

    num_answers: int
    lower: float
    upper: float


class Review(Part):
    """What a person's verdicts say of the audit's; rates are None where there are too few answers."""

    num_answered: int = Field(ge=0)
    num_counted: int = Field(ge=0)  # of these, in the random draw
    num_sure: int = Field(ge=0)  # of these, good or bad
    answers: dict[str, Answers]  # by what the audit had said
    false_discovery_pct: Interval | None  # good among the flagged
    false_omission_pct: Interval | None  # bad among the passed
    corrected_low_quality_pct: Interval | None
    sensitivity: float | None
    specificity: float | None
    forecast: tuple[Forecast, ...]  # by number of answers
    notes: tuple[str, ...]  # sentences
    draw: tuple[str, ...]  # ids to judge, in this order


class Confusion(Part):
    """A word that many texts have where another word is heard."""

    text: str
    heard: str
    count: int = Field(ge=1)  # how often it was heard so
    occurrences: int = Field(ge=1)  # of the word in the texts
    clusters: int = Field(ge=0)  # recordings, or speakers where those are not known; 0: neither is known


class AlignmentReport(Document):
    """`alignment_report.json`; every row of `utterances.parquet` is counted."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet audit RECIPE' makes it anew, from what was heard before"

    decision: Decision | None = None  # the gate's when this was written; `gate.json` has the verdict in force
    recommendation: str | None = None
    low_quality_percentage: float  # of the sample, unweighted
    low_quality_count: int
    total_samples: int
    population: int
    num_scored: int = Field(ge=0)  # heard utterances that the instrument could score
    coverage_distribution: dict[str, float]  # p10 to p90 and mean; empty without an aligner
    domain_statistics: dict[str, DomainStatistics]
    failures: dict[str, int]  # why the others could not be scored -> how many
    suspects: dict[str, int]
    human_flags: HumanFlags | None  # None: nobody was asked
    strata: dict[str, StratumSize]  # of the population, before anything was drawn or filtered
    self_test: SelfTest | None  # None: it did not run, which is INVALID
    calibration: CalibrationSummary
    probability: Probability | None  # None: too few copies to fit it on
    judged_by: JudgedBy
    detector: ErrorRates | None  # None: no calibration file
    notes: tuple[str, ...]  # sentences
    num_looks: int = Field(1, ge=1)  # verdicts taken on these data, each on a larger sample than the one before
    review: Review | None = None  # None: of what prepare kept
    confusions: tuple[Confusion, ...] = ()  # the most frequent first
    confused: Mapping[str, int] = {}  # by domain, utterances that hold one and are not low quality
    num_lost: int = 0  # clips that were given up, as no fault of theirs: the next audit hears them
