"""Settings of the prepare stage."""

from typing import Literal

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config


class PrepareConfig(Config):
    """What may train, what is dropped, how the rest is cut and split."""

    min_duration_s: float = Field(0.5, gt=0)  # seconds; shorter utterances are dropped
    max_duration_s: float = Field(15.0, gt=0)  # seconds; longer utterances are cut at aligned words and pauses
    # Seconds; an utterance is cut only in pauses between words that are at least this long
    min_pause_s: float = Field(0.25, ge=0.25)
    min_evidence: float = Field(0.6, ge=0, le=1)  # share of a piece's words that must be aligned in order and to speech
    # Share of a piece's words of which the recogniser must hear half of the letters
    min_heard: float = Field(0.6, ge=0, le=1)
    # Seconds of audio that are kept before the first and after the last word when trimming or cutting
    edge_margin_s: float = Field(0.2, ge=0)
    # Letters per second; a text with more cannot be said in its audio and is dropped
    max_letters_per_s: float = Field(30.0, gt=0)
    # Whether utterances of low quality are dropped. false, as after an INVALID gate: no verdict and no word time is
    # believed. Nothing is trimmed or cut, and only what cannot be decoded, has no words, or has an impossible length is
    # dropped.
    drop_low_quality: bool = True
    # Utterances that the audit's sample left out: `audit` hears them too, `keep` takes them after the cheap checks
    unheard: Literal["audit", "keep"] = "audit"
    # Share of the hours that is held out for dev, by speaker, recording or file
    dev_frac: float = Field(0.05, gt=0, lt=0.5)
    # Most utterances of dev, before cutting; further ones of the same speakers are not trained on either. null: no
    # limit
    max_dev_utterances: int | None = Field(1000, gt=0)
    # Seed of the split; null: the recipe's. With one split, rounds with different seeds share their dev set
    seed: int | None = Field(None, ge=0)
    shard_utterances: int = Field(1000, gt=0)  # utterances in each Parquet file that is written

    @model_validator(mode="after")
    def _durations_in_order(self) -> "PrepareConfig":
        if self.min_duration_s >= self.max_duration_s:
            raise RecipeError(
                f"prepare.min_duration_s is {self.min_duration_s:g} and max_duration_s {self.max_duration_s:g}: "
                "nothing has such a length"
            )
        return self
