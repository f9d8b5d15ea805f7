"""Settings of the gate, and the exit codes of what it can say."""

from typing import Literal

from pydantic import model_validator

from shibolet.errors import EXIT_CAUTION, EXIT_INVALID, EXIT_STOP, RecipeError
from shibolet.records.documents.gate import Decision, GateLimits

EXIT_CODES: dict[Decision, int] = {"PROCEED": 0, "CAUTION": EXIT_CAUTION, "STOP": EXIT_STOP, "INVALID": EXIT_INVALID}


class GateConfig(GateLimits):
    """The limits of the gate, and what `run` does on a verdict."""

    on_caution: Literal["continue", "stop"] = "continue"  # after CAUTION the round continues, or it ends
    # After STOP the round ends, or it hears all the rest, drops what is bad and asks the gate again
    on_stop: Literal["stop", "repair"] = "stop"
    accept: tuple[Literal["INVALID"], ...] = ()  # verdicts that do not end the round; every later artefact says so

    @model_validator(mode="after")
    def _lines_in_order(self) -> "GateConfig":
        low, high = self.proceed_below_pct, self.stop_above_pct
        if low > high:
            raise RecipeError(f"gate: proceed_below_pct {low:g} is over stop_above_pct {high:g}; swap them")
        return self

    @property
    def limits(self) -> GateLimits:
        """What decides, without what happens then."""
        return GateLimits(**self.model_dump(include=set(GateLimits.model_fields)))
