"""Settings of the label stage."""

import math
from typing import Literal

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config

LETTERS = (0.0, 0.05, 0.15, 0.30)  # limits on the share of letters in which two hearers differ
SURPRISE = (0.5, 1.0, 2.0)  # nats a token: by how much less likely one finds the text than what it heard itself
NUM_LIMITS = len(LETTERS) + len(SURPRISE)
LEVEL = 0.95  # of the bounds of all limits together


def clips_needed(max_false_accept_pct: float) -> int:
    """With fewer clips no limit can show so few false accepts, even where every clip passes and none is one."""
    return math.ceil(math.log((1 - LEVEL) / NUM_LIMITS) / math.log(1 - max_false_accept_pct / 100))


class LabelConfig(Config):
    """Who writes texts for audio, who listens to them again, and how much of what they agree on may train."""

    writer: str | None = None  # a model of a family that trains; it writes texts; null: `models.base`
    # A second model that hears the same audio, as for `audit.recogniser`; null: `audit.recogniser`
    listener: str | None = None
    # Whose texts train. better: the listener's in each domain in which known texts show that it hears better and writes
    # as they do, elsewhere the writer's; writer: the writer's
    texts_of: Literal["better", "writer"] = "better"
    # Recordings are cut at pauses into pieces of at most this many seconds
    max_piece_s: float = Field(15.0, gt=1, le=30)
    # Share of words; a text that passes and differs from the truth in more of them is a false accept
    max_wer: float = Field(0.2, ge=0, lt=1)
    # Most false accepts among the texts that pass, in percent, by the upper end of the interval
    max_false_accept_pct: float = Field(5.0, gt=0, lt=50)
    # Clips with a known text, each heard as it is and damaged once, which calibrate the limit of agreement
    calibration_clips: int = Field(300, ge=40)
    # Hours of pieces with a model's text divided by the hours with texts of their own, at most
    max_labelled_share: float = Field(1.0, gt=0)
    # Utterances of `data.train` that the audit flagged are heard again: they are taken back where the writer reads what
    # the text says, corrected where both models read alike and the text says otherwise, else dropped.
    flagged: bool = False
    # Utterances longer than `prepare.max_duration_s` are heard again by the writer, and cut by what it hears where that
    # is more of the text than the audit's recogniser heard; those of dev are cut as usual.
    recut: bool = False
    # Share of letters in which the two models may differ for their text to replace one that came with the data; this
    # holds beside the calibrated limit.
    max_corrected_disagreement: float = Field(0.05, ge=0, lt=1)
    # Share of the utterances of `data.train` whose text may be replaced, at most
    max_corrected_share: float = Field(0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _clips_can_show_it(self) -> "LabelConfig":
        if self.calibration_clips < (needed := clips_needed(self.max_false_accept_pct)):
            raise RecipeError(
                f"label.calibration_clips is {self.calibration_clips:,}, and to show at most "
                f"{self.max_false_accept_pct:g}% false accepts (label.max_false_accept_pct) takes {needed:,} at least"
            )
        return self
