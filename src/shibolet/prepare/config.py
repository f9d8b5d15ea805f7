"""Settings of the prepare stage."""

from typing import Literal

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config


class PrepareConfig(Config):
    """What may train, what is dropped, how the rest is cut and split."""

    min_duration_s: float = Field(0.5, gt=0)  # shorter utterances are dropped
    max_duration_s: float = Field(15.0, gt=0)  # longer ones are cut at aligned words and pauses
    min_pause_s: float = Field(0.25, ge=0.25)  # a cut wants a pause of this between words; no shorter one is looked for
    min_evidence: float = Field(0.6, ge=0, le=1)  # share of a piece's words that were aligned in order and to speech
    min_heard: float = Field(0.6, ge=0, le=1)  # share of its words of which the recogniser heard half of the letters
    edge_margin_s: float = Field(0.2, ge=0)  # audio kept beside the first and the last word where it is trimmed or cut
    max_letters_per_s: float = Field(30.0, gt=0)  # a text with more cannot be said in its audio and is dropped
    # False (an INVALID instrument): neither verdicts nor word times are believed. Nothing is trimmed or cut, and only
    # what cannot be decoded, has no words, or has an impossible length is dropped.
    drop_low_quality: bool = True
    unheard: Literal["audit", "keep"] = "audit"  # what happens to utterances that the audit's sample left out
    dev_frac: float = Field(0.05, gt=0, lt=0.5)  # share of hours held out for dev, by speaker, recording or file
    max_dev_utterances: int | None = Field(1000, gt=0)  # before cutting; more of a held-out speaker can train nothing
    seed: int | None = Field(
        None, ge=0
    )  # of the split; null: the recipe's. One split lets runs of several seeds share dev
    shard_utterances: int = Field(1000, gt=0)

    @model_validator(mode="after")
    def _durations_in_order(self) -> "PrepareConfig":
        if self.min_duration_s >= self.max_duration_s:
            raise RecipeError(
                f"prepare.min_duration_s is {self.min_duration_s:g} and max_duration_s {self.max_duration_s:g}: "
                "nothing has such a length"
            )
        return self
