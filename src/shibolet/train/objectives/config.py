"""What a recipe says of objectives beyond their names; no model is loaded here, and torch is not."""

from typing import Literal

from pydantic import Field

from shibolet.records.config import Config

ObjectiveName = Literal["transcribe", "distil", "on_policy", "min_wer"]  # the names of `registry.OBJECTIVES`
TAUGHT = frozenset({"distil", "on_policy"})  # they learn from `models.teacher`


class DistilConfig(Config):
    """How a student learns from `models.teacher`.

    The objective `distil` uses stored distributions for the references, `on_policy` texts that the student writes.
    """

    # Also train on the teacher's transcripts of the training set, where the audit agrees with them
    texts: bool = False
    # Most likely tokens that are kept for each label; all others share the rest of the probability
    top_k: int = Field(16, gt=0)
    # Temperature of both softmaxes in the divergence on references; a higher one gives less likely tokens more weight.
    temperature: float = Field(2.0, gt=0)
    # Weight of the cross-entropy of the references; the divergence has the rest
    likelihood_weight: float = Field(0.2, ge=0, le=1)
    # Highest WER on dev, in percent, with which a teacher is accepted; null: no limit
    max_teacher_wer_pct: float | None = Field(None, gt=0)
    # Divergence on texts that the student writes: 0 is KL(teacher || student), 1 is KL(student || teacher), between
    # them the generalised Jensen-Shannon divergence (Agarwal et al. 2024, "On-policy distillation of language models").
    jsd_beta: float = Field(1.0, ge=0, le=1)
    sampling_temperature: float = Field(1.0, ge=0)  # temperature at which the student writes; 0: greedily


class MinWerConfig(Config):
    """Expected word errors of what the model writes (MWER; Prabhavalkar et al. 2018)."""

    num_samples: int = Field(4, ge=2)  # texts that are drawn for each utterance, beside the greedy one
    temperature: float = Field(1.0, gt=0)  # temperature at which they are drawn
    # Weight of the reference's cross-entropy, which is added to the expected errors
    likelihood_weight: float = Field(0.05, ge=0)
    # Most errors that a text counts for each word of its reference, so that a loop does not dominate
    max_risk: float = Field(1.0, gt=0)
