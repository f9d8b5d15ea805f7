"""What a recipe says of the comparison."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config
from shibolet.speech.text import Language, get_language


class PartsConfig(Config):
    """What each part of the round gained: training, an average of checkpoints, and each addition to decoding."""

    tune_decoding: bool = True  # measure ways to decode on dev, and score the recommended one on the test sets


class CompareConfig(Config):
    """How a candidate is compared with the baseline and what it must show."""

    # Keep the result if the interval of its WER minus the baseline's ends below this, in points
    keep_below_points: float = 0.0
    # Cost of one loop, at least, in mean words of a reference; `keep` allows for as many loops as the test sets may
    # have missed. A decoder that may write 25 tokens a second writes about five times the words of speech. 0: no
    # allowance.
    loop_cost: float = Field(5.0, ge=0)
    # Language -> WER points: each test set in that language must be shown to lose less. A language without a limit may
    # lose any.
    limits: Mapping[str, Annotated[float, Field(gt=0)]] = {}
    # Run folders of two or more trainings of the candidate with other seeds: then a gain must also be shown for the
    # mean over seeds, with the variance between them.
    candidate_seeds: tuple[Path, ...] = ()
    baseline_seeds: tuple[Path, ...] = ()  # the same for the baseline, if it was trained with several seeds
    # Words a minute that the result may write more than the baseline where nobody speaks; the interval must end below.
    # null: the result is refused only if it is shown to write more.
    max_extra_words_per_minute: float | None = Field(None, gt=0)
    # Names of test sets that count although they share audio with the training data
    accept_overlap: tuple[str, ...] = ()
    # WER points that the round should gain; if it gains less, the report begins with the domains. 0: it need not gain
    # any.
    target_points: float = Field(1.0, ge=0)
    # Domain in which it should gain them; null: over all utterances
    target_domain: str | None = Field(None, min_length=1)
    # Lowest and highest WER points that the author expects to gain; the report shows them. null: none
    expected_points: tuple[float, float] | None = None
    bootstrap_samples: int = Field(10_000, ge=100)  # bootstrap samples of each interval
    seed: int = 0  # seed of the bootstrap

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
