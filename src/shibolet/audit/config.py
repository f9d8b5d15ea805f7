"""Settings of the audit stage."""

from pathlib import Path

from pydantic import Field

from shibolet.audit.domains import DEFAULT_DOMAIN_RULES, DomainRule
from shibolet.audit.sampling import SampleConfig
from shibolet.records.config import Config


class SelfTestConfig(Config):
    """The instrument's test on damaged copies of the data it judges; the gate says what it must show."""

    num_clips: int = Field(240, ge=10)  # clips that are copied and damaged
    min_words: int = Field(6, ge=1)  # recall counts clips of at least this many words, where there are ten or more


class CalibrateConfig(Config):
    """How much is heard to make a calibration file from clean clips."""

    max_utterances: int = Field(600, ge=40)  # drawn by a hash of their ids
    copies_per_row: int = Field(200, ge=20)  # about so many of each kind and level of damage, in each half
    seed: int = 0


class AuditConfig(Config):
    """What listens, to how much, and what counts as low quality."""

    aligner: str = "Qwen/Qwen3-ForcedAligner-0.6B"
    recogniser: str  # second opinion: a Qwen3-ASR or any CTC model; decides about wrong text
    second_gate_recogniser: str | None = None  # judges what prepare kept; None: the same again, and the report says so
    calibration: Path | None = None  # a file of `shibolet calibrate`; None: the judged clips' own copies calibrate
    sample: SampleConfig = SampleConfig()
    domain_rules: tuple[DomainRule, ...] = DEFAULT_DOMAIN_RULES
    selftest: SelfTestConfig = SelfTestConfig()
    min_coverage: float = Field(0.6, ge=0, le=1)  # words with evidence / expected words
    min_confidence: float = Field(0.5, ge=0, le=1)  # calibrated probability that the transcript belongs to the audio
    max_uncovered_frac: float = Field(0.2, ge=0)  # of speech that no word covers, and
    max_uncovered_s: float = Field(1.0, ge=0)  # the larger of both counts as a length mismatch
    max_length_ratio: float = Field(1.3, gt=1)  # letters heard against letters written, either way
    aligner_max_s: float = Field(
        180.0, gt=1
    )  # longer clips are aligned in pieces, cut where the recogniser hears a pause
    chunk_utterances: int = Field(64, gt=0)  # heard and put on disk together
