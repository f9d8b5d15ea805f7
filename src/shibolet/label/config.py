"""Settings of the label stage."""

from pydantic import Field

from shibolet.records.config import Config


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
    # A text that came with the data gives way to a machine's only where the hearers differ in at most this share of
    # letters, whatever limit is calibrated.
    max_corrected_disagreement: float = Field(0.05, ge=0, lt=1)
    max_corrected_share: float = Field(0.05, ge=0, lt=1)  # of the utterances of data.train
