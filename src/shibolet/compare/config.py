"""What a recipe says of the comparison."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config
from shibolet.speech.text import Language, get_language


class PartsConfig(Config):
    """Which part of the round gave what, as a part of the round: the baseline, its result, and what was added to it."""

    tune_decoding: bool = True  # measure ways to decode on dev, and score the one that is recommended on the sets


class CompareConfig(Config):
    """How a candidate is compared with the baseline and what it must show."""

    keep_below_points: float = 0.0  # keep when the interval of the difference in WER ends below; 0: shown to be better
    # Reference lengths that one loop costs, at least: keep allows for as many loops as the sets may have missed. A
    # decoder that may write 25 tokens a second writes about five times the words of speech. 0: no allowance.
    loop_cost: float = Field(5.0, ge=0)
    # Language -> points of WER: each set in it has to be shown to lose less. A language without a limit may lose any.
    limits: Mapping[str, Annotated[float, Field(gt=0)]] = {}
    # Run folders of the same training with other seeds, two or more: then a gain has to be shown of the mean over
    # seeds too, with the variance between them. Those of the candidate, and of a baseline that was trained so.
    candidate_seeds: tuple[Path, ...] = ()
    baseline_seeds: tuple[Path, ...] = ()
    # Words a minute that the result may write more than the baseline where nobody speaks; the interval's end has to lie
    # below. null: it is refused where it is shown to write more.
    max_extra_words_per_minute: float | None = Field(None, gt=0)
    accept_overlap: tuple[str, ...] = ()  # sets that count for keep although they share audio with the training data
    # WER points the round is meant to gain; under it domains lead the page. 0: it is meant to gain none.
    target_points: float = Field(1.0, ge=0)
    target_domain: str | None = Field(None, min_length=1)  # where it is meant to gain them; null: on all utterances
    expected_points: tuple[float, float] | None = None  # WER points that the plan expects there, said beside the gain
    bootstrap_samples: int = Field(10_000, ge=100)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _no_older_key(cls, given: Any) -> Any:
        if isinstance(given, dict) and "noisy_domain" in given:
            raise RecipeError(
                "compare.noisy_domain no longer exists: whether a domain is noisy is measured now. Leave it out, or "
                "name the domain that the round is meant to improve in compare.target_domain"
            )
        if not isinstance(given, dict):
            return given
        known = dict(given)
        if (points := known.pop("forget_above_points", None)) is not None:  # null: as older run folders have it
            raise RecipeError(
                f"compare.forget_above_points no longer exists: write compare.limits: {{English: {points}}} with the "
                "languages of your other sets. A limit holds where a set is shown to lose less than it; before, a set "
                "was refused where it was shown to lose more"
            )
        return known

    @model_validator(mode="after")
    def _lower_end_first(self) -> "CompareConfig":
        if (span := self.expected_points) and span[0] > span[1]:
            raise RecipeError(f"compare.expected_points: {span[0]:g} is above {span[1]:g}; the lower end comes first")
        return self

    @model_validator(mode="after")
    def _one_limit_a_language(self) -> "CompareConfig":
        named = [get_language(name).name for name in self.limits]
        if twice := [name for name in named if named.count(name) > 1]:
            raise RecipeError(f"compare.limits: {twice[0]} has two limits; leave one out")
        return self

    @model_validator(mode="after")
    def _seeds_have_a_variance(self) -> "CompareConfig":
        for key in ("candidate_seeds", "baseline_seeds"):
            if len(getattr(self, key)) == 1:
                raise RecipeError(
                    f"compare.{key} names one run folder: a variance between seeds takes three trainings, so name two "
                    "or more beside the one that is compared"
                )
        return self

    def limit_of(self, language: Language | None) -> float | None:
        """The points of WER that a set in a language may lose; None: any."""
        return next((points for name, points in self.limits.items() if get_language(name) is language), None)
