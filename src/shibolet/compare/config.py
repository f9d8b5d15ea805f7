"""What a recipe says of the comparison."""

from typing import Any

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config


class CompareConfig(Config):
    """How a candidate is compared with the baseline and what it must show."""

    keep_below_points: float = 0.0  # keep when the interval of the difference in WER ends below; 0: shown to be better
    # Reference lengths that one loop costs, at least: keep allows for as many loops as the sets may have missed. A
    # decoder that may write 25 tokens a second writes about five times the words of speech. 0: no allowance.
    loop_cost: float = Field(5.0, ge=0)
    forget_above_points: float | None = None  # reject when a set in another language is shown to lose more; null: said
    accept_overlap: tuple[str, ...] = ()  # sets that count for keep although they share audio with the training data
    target_points: float = Field(1.0, ge=0)  # WER points the round is meant to gain; under it domains lead the page
    target_domain: str | None = Field(None, min_length=1)  # where it is meant to gain them; null: on all utterances
    expected_points: tuple[float, float] | None = None  # WER points that the plan expects there, said beside the gain
    bootstrap_samples: int = Field(10_000, ge=100)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _no_older_key(cls, given: Any) -> Any:
        if isinstance(given, dict) and "noisy_domain" in given:
            raise RecipeError(
                "compare.noisy_domain is no key any more: whether a domain is noisy is measured now. Leave it out, or "
                "name the domain that the round is meant to improve in compare.target_domain"
            )
        return given

    @model_validator(mode="after")
    def _lower_end_first(self) -> "CompareConfig":
        if (span := self.expected_points) and span[0] > span[1]:
            raise RecipeError(f"compare.expected_points: {span[0]:g} is above {span[1]:g}; the lower end comes first")
        return self
