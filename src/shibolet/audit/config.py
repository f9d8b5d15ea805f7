"""Settings of the audit stage."""

from pathlib import Path

from pydantic import Field, field_validator

from shibolet.audit.domains import DEFAULT_DOMAIN_RULES, DomainRule
from shibolet.audit.sampling import SampleConfig
from shibolet.records.config import Config


class SelfTestConfig(Config):
    """The instrument's test on damaged copies of the data it judges; the gate says what it must show."""

    num_clips: int = Field(240, ge=10)  # clips that are copied and damaged
    min_words: int = Field(6, ge=1)  # recall counts clips of at least this many words, where there are 20 or more


class CalibrateConfig(Config):
    """How much is heard to make a calibration file from clean clips."""

    max_utterances: int = Field(600, ge=40)  # drawn by a hash of their ids
    copies_per_row: int = Field(200, ge=20)  # about so many of each kind and level of damage, in each half
    seed: int = 0


class AuditConfig(Config):
    """What listens, to how much, and what counts as low quality."""

    aligner: str | None = "Qwen/Qwen3-ForcedAligner-0.6B"  # none: words have the recogniser's times, if it gives any
    # decides: a family's model, a Whisper of transformers or CTranslate2, any CTC model, or a .jsonl file of hypotheses
    # null: nobody audits, and the recipe scores and compares alone
    recogniser: str | None = None
    second_gate_recogniser: str | None = None  # judges what prepare kept; None: the same again, and the report says so
    calibration: Path | None = None  # a file of `shibolet calibrate`; None: the judged clips' own copies calibrate
    sample: SampleConfig = SampleConfig()
    domain_rules: tuple[DomainRule, ...] = DEFAULT_DOMAIN_RULES
    selftest: SelfTestConfig = SelfTestConfig()
    min_confidence: float = Field(0.5, ge=0, le=1)  # under it: low quality; 5% of good clips and copies are under 0.5
    min_coverage: float = Field(0.6, ge=0, le=1)  # words with evidence / expected words; under it: a reason, no verdict
    max_length_ratio: float = Field(1.3, gt=1)  # letters heard against letters written, either way: a reason too
    # Seconds that a Whisper pads a clip to; None: 10 where a trial on some of the clips finds it as good, else 30.
    window_s: float | None = Field(None, gt=1, le=30)
    aligner_max_s: float = Field(
        180.0, gt=1
    )  # longer clips are aligned in pieces, cut where the recogniser hears a pause
    # Heard and put on disk together, at most, and of audio at most; with a GPU up to 16 times as much.
    chunk_utterances: int = Field(128, gt=0)
    chunk_audio_s: float = Field(900.0, gt=0)
    num_workers: int | None = Field(
        None, ge=0
    )  # processes that decode, for prepare too; None: all cores but two, 0: none
    # Plus a tenth of its duration. A clip that takes longer is tried twice more, with two and four times as much; one
    # that still takes longer is a failure.
    decode_timeout_s: float = Field(60.0, gt=0)

    @field_validator("aligner")
    @classmethod
    def _none_in_words(cls, name: str | None) -> str | None:
        return None if name is None or name.lower() == "none" else name
