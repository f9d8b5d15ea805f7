"""Settings of the label stage."""

import math

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config

LIMITS = (0.0, 0.02, 0.05, 0.10, 0.15, 0.20, 0.30)  # of the disagreement
LEVEL = 0.95  # of the bounds of all limits together


def clips_needed(max_false_accept_pct: float) -> int:
    """With fewer clips no limit can show so few false accepts, even where every clip passes and none is one."""
    return math.ceil(math.log((1 - LEVEL) / len(LIMITS)) / math.log(1 - max_false_accept_pct / 100))


class LabelConfig(Config):
    """Who writes texts for audio, who listens to them again, and how much of what they agree on may train."""

    writer: str | None = None  # a model of a family, whose texts are taken; null: models.base
    listener: str | None = None  # hears the same audio by itself, like audit.recogniser; null: that one
    max_piece_s: float = Field(15.0, gt=1, le=30)  # recordings are cut at pauses into pieces of at most this
    # A false accept is a text that was let pass and differs from the truth in more than this share of its words.
    max_wer: float = Field(0.2, ge=0, lt=1)
    max_false_accept_pct: float = Field(5.0, gt=0, lt=50)  # of the texts that pass, by the upper end of its interval
    calibration_clips: int = Field(300, ge=40)  # with a text that is known: each is heard as it is and damaged once
    max_labelled_share: float = Field(1.0, gt=0)  # hours of pieces without text, of the hours with texts of their own
    # Utterances of data.train that the audit flagged are heard again too: taken back where the writer reads what the
    # text says, corrected where both hearers read alike and the text reads otherwise, else dropped as before.
    flagged: bool = False
    # Utterances longer than prepare.max_duration_s are heard again by the writer and cut by what it hears; those of dev
    # are cut as before.
    recut: bool = False
    # A text that came with the data gives way to a machine's only where the hearers differ in at most this share of
    # letters, whatever limit is calibrated.
    max_corrected_disagreement: float = Field(0.05, ge=0, lt=1)
    max_corrected_share: float = Field(0.05, ge=0, lt=1)  # of the utterances of data.train

    @model_validator(mode="after")
    def _clips_can_show_it(self) -> "LabelConfig":
        if self.calibration_clips < (needed := clips_needed(self.max_false_accept_pct)):
            raise RecipeError(
                f"label.calibration_clips is {self.calibration_clips:,}, and to show at most "
                f"{self.max_false_accept_pct:g}% false accepts (label.max_false_accept_pct) takes {needed:,} at least"
            )
        return self
