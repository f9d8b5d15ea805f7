"""Settings of the gate, and what it can say."""

from typing import Literal

from pydantic import Field, model_validator

from shibolet.errors import EXIT_CAUTION, EXIT_INVALID, EXIT_STOP, RecipeError
from shibolet.records.config import Config
from shibolet.scoring.rates import Target

Decision = Literal["PROCEED", "CAUTION", "STOP", "INVALID"]
EXIT_CODES: dict[Decision, int] = {"PROCEED": 0, "CAUTION": EXIT_CAUTION, "STOP": EXIT_STOP, "INVALID": EXIT_INVALID}


class GateConfig(Config):
    """The lines of the gate, what the instrument must show before it is believed, and what `run` does on a verdict."""

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
    on_caution: Literal["continue", "stop"] = "continue"
    on_stop: Literal["stop", "repair"] = "stop"
    accept: tuple[Literal["INVALID"], ...] = ()  # does not end the run; every later artefact says so

    @model_validator(mode="after")
    def _lines_in_order(self) -> "GateConfig":
        low, high = self.proceed_below_pct, self.stop_above_pct
        if low > high:
            raise RecipeError(f"gate: proceed_below_pct {low:g} is over stop_above_pct {high:g}; swap them")
        return self
