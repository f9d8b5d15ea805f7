"""`audit/calibration.json`: the confidence maps; and `calibration.json`: the maps that `shibolet calibrate` made of
clean clips, with the proof of what they detect."""

from typing import ClassVar

from pydantic import Field

from shibolet.records.documents.base import Document, Part


class Map(Part):
    """Weights of some signals, and the line between good and bad."""

    evidence: tuple[str, ...]
    center: tuple[float, ...]  # of each column of `audit.calibration.columns`
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float


class Reliability(Part):
    """A tenth of the probability: what was said, and what was so."""

    lower: float  # ends of the tenth
    upper: float
    num_clips: int
    share: float  # of the mixture
    probability: float  # mean
    good: float  # share that is good in truth


class Recalibration(Part):
    """A rising curve from the confidence's logit to a probability, and how reliable it was on other recordings."""

    weights: tuple[float, float, float]  # of ln s, of -ln(1 - s) and of 1, where s is the score
    limits: tuple[float, float]  # no clip is wrong or right for certain: where none of n clips was, another may be
    mixture: dict[str, float]  # share of each part
    num_clips: dict[str, int]  # by part: clips and copies that it was fitted on
    table: tuple[Reliability, ...]
    expected_error: float


class Calibration(Document):
    """Fitted confidence maps and the good range of letters per second, bound to the models that listened."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet audit RECIPE' makes it anew, from what was heard before"

    kind: str  # "self", or the name of what it was made of
    identities: tuple[str, ...]  # recogniser, and aligner where there is one
    maps: tuple[Map, ...]  # a clip is judged by the first whose evidence it has; the last needs a hypothesis alone
    letters_per_s: tuple[float, float]  # good range
    num_clean: int  # untouched clips that stood for good
    num_left_out: int  # clips that were taken for damaged and left out
    window_s: float | None = None  # with which the recogniser heard, where it has several
    recalibration: Recalibration | None = None  # None: too few copies


class ErrorRates(Part):
    """The detector's, measured on data that are not being judged."""

    sensitivity: float = Field(ge=0, le=1)
    sensitivity_gross: float | None = None  # of it, to gross damage; None: the clips are too small for any
    sensitivity_mild: float | None = None
    specificity: float = Field(ge=0, le=1)
    num_damaged: int = Field(ge=1)  # clips behind the first, however many copies were made of each
    num_clean: int = Field(ge=1)  # ... behind the second
    measured_on: str


class MadeOf(Part):
    """What was heard: of the half that was fitted, and of the half that was measured."""

    utterances: tuple[int, int]
    recordings: tuple[int, int]
    trials: tuple[int, int]  # clips and copies
    foreign: int  # recordings in another language


class Amount(Part):
    """Clips, copies of them, and hours of audio."""

    clips: int
    copies: int
    hours: float


class Budget(Part):
    """What a time was enough for."""

    minutes: float
    clips_a_half: int
    left_out: Amount
    sentence: str


class Detected(Part):
    """How well confidence tells copies from untouched clips; None: harmless copies, or no clip to tell them from."""

    auroc: float | None = None
    auroc_lower: float | None = None
    auroc_upper: float | None = None
    recall_at_1pct: float | None = None  # at this rate of false alarms
    recall_at_2pct: float | None = None
    recall_at_5pct: float | None = None


class DetectionLine(Detected):
    """A row of the matrix of damage, in a slice of the clips."""

    row: str  # "text_tail_cut:25%"
    harmless: bool
    by: str  # what the clips are sliced by: all, domain, snr_db, words
    slice: str
    num: int
    flagged: float  # share of verdicts
    flagged_literal: float  # ... by the specification's definitions


class LeftOutLine(Detected):
    """A row of the matrix by a map that saw no damage of its family."""

    row: str
    family: str
    num: int


class AblationLine(Part):
    """What maps of other signals detect, by row of the matrix."""

    signals: str
    auroc: dict[str, float]
    recall_at_2pct: dict[str, float]
    mean_auroc: float
    mean_recall_at_2pct: float


class CalibrationFile(Document):
    """`calibration.json` of `shibolet calibrate`."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "run 'shibolet calibrate' again"

    calibration: Calibration
    language: str
    made_of: MadeOf
    budget: Budget | None  # None: everything was heard
    detector: ErrorRates
    table: tuple[DetectionLine, ...]
    left_out: tuple[LeftOutLine, ...]
    ablation: tuple[AblationLine, ...]
    num_lost: int = 0  # clips that were given up, as no fault of theirs
