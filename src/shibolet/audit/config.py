"""Settings of the audit stage."""

from pathlib import Path

from pydantic import Field, field_validator

from shibolet.audit.domains import DEFAULT_DOMAIN_RULES, DomainRule
from shibolet.audit.sampling import SampleConfig
from shibolet.records.config import Config


class SelfTestConfig(Config):
    """The test of the audit on damaged copies of the data that it judges; section `gate` says what it must find."""

    num_clips: int = Field(240, ge=10)  # clips that are copied and damaged
    # Recall is counted on clips with at least this many words, if there are 20 or more of them
    min_words: int = Field(6, ge=1)


class CalibrateConfig(Config):
    """How much `shibolet calibrate` hears to make a calibration file from clean clips."""

    max_utterances: int = Field(600, ge=40)  # clips that are heard at most; they are drawn by a hash of seed and id
    # About how many damaged copies of each kind and level are made, in each of two halves of the clips
    copies_per_row: int = Field(200, ge=20)
    seed: int = 0  # seed of the choice of clips and of the damage


class AuditConfig(Config):
    """Which models hear the data, how much of them, and what counts as low quality."""

    # Model that finds when each word is said; null or none: the recogniser's word times are used, if it gives any
    aligner: str | None = "Qwen/Qwen3-ForcedAligner-0.6B"
    # Model whose hearing decides: one that can be trained here, a Whisper in any layout, a CTC model, or a file of
    # hypotheses (.jsonl, .csv or .tsv). null: nothing can be audited; enough to score and compare.
    recogniser: str | None = None
    # Model that judges what `prepare` kept; null: `recogniser` again, and the report says so
    second_gate_recogniser: str | None = None
    # A file that `shibolet calibrate` wrote; null: damaged copies of the audited clips themselves calibrate
    calibration: Path | None = None
    sample: SampleConfig = SampleConfig()  # how many utterances are heard, and of which domains
    # Rules that give an utterance without a domain one; the first that matches counts
    domain_rules: tuple[DomainRule, ...] = DEFAULT_DOMAIN_RULES
    selftest: SelfTestConfig = SelfTestConfig()  # the self-test: damaged copies of the data, which the audit must find
    # Under this confidence an utterance is of low quality; about 5% of good clips are under 0.5
    min_confidence: float = Field(0.5, ge=0, le=1)
    # Share of the words that have evidence in the audio; less is named as a reason for a low confidence, and decides
    # nothing alone
    min_coverage: float = Field(0.6, ge=0, le=1)
    # Letters heard divided by letters written, or the inverse; more is named as a reason for a low confidence, and
    # decides nothing alone
    max_length_ratio: float = Field(1.3, gt=1)
    # Seconds that a Whisper pads each clip to; null: 10 if a trial on some of the clips finds it as good as 30, else 30
    window_s: float | None = Field(None, gt=1, le=30)
    # Seconds; longer clips are aligned in pieces that are cut where the recogniser hears a pause
    aligner_max_s: float = Field(180.0, gt=1)
    # Utterances that are heard and written to disk together, at most; on a GPU up to 16 times as many
    chunk_utterances: int = Field(128, gt=0)
    # Seconds of audio that are heard and written to disk together, at most; on a GPU up to 16 times as much
    chunk_audio_s: float = Field(900.0, gt=0)
    # Processes that decode audio, also for `prepare`; null: all cores but two, 0: none
    num_workers: int | None = Field(None, ge=0)
    # Seconds that decoding a clip may take, plus a tenth of the clip's duration. A clip that takes longer is tried
    # twice more, with two and four times as long; after that it counts as a failure.
    decode_timeout_s: float = Field(60.0, gt=0)

    @field_validator("aligner")
    @classmethod
    def _none_in_words(cls, name: str | None) -> str | None:
        return None if name is None or name.lower() == "none" else name
