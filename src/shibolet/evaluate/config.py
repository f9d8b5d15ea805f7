"""Settings of the evaluate stage."""

from pydantic import Field

from shibolet.records.config import Config
from shibolet.speech.sources import DataSource


class EvaluationSet(DataSource):
    """A data set with what Round 1 is said to score on it."""

    round1_wer_pct: float | None = Field(None, ge=0)  # published figure, shown beside the measured one
    optional: bool = False  # left out, with a sentence, where it cannot be had


class EvaluateConfig(Config):
    """Which sets, and how they are transcribed and scored."""

    sets: tuple[EvaluationSet, ...] = ()
    batch_utterances: int = Field(16, gt=0)
    max_piece_s: float = Field(30.0, gt=0)  # longer recordings are transcribed in pieces cut at pauses
    max_new_tokens_per_s: float = Field(25.0, gt=0)  # bounds a repetition loop
    dev_utterances: int | None = Field(256, gt=0)  # of the dev split, always the same, scored in training; null: all
    buckets_s: tuple[tuple[str, float, float], ...] = (("short", 0.5, 5.0), ("medium", 5.0, 15.0), ("long", 15.0, 30.0))
