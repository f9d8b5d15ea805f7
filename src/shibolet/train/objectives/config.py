"""What a recipe says of objectives beyond their names; no model is loaded here, and torch is not."""

from typing import Literal

from pydantic import Field

from shibolet.records.config import Config

ObjectiveName = Literal["transcribe", "distil", "on_policy", "min_wer"]  # the names of `registry.OBJECTIVES`
TAUGHT = frozenset({"distil", "on_policy"})  # they learn from `models.teacher`


class DistilConfig(Config):
    """How a student learns from `models.teacher`; a phase says whether from kept distributions or on its own texts."""

    texts: bool = (
        False  # what the teacher writes of the training set trains beside the references, where the audit agrees
    )
    top_k: int = Field(16, gt=0)  # most likely tokens kept at each label of a reference; the others share one mass
    # Of both softmaxes in the divergence on references: the higher, the more the less likely tokens count.
    temperature: float = Field(2.0, gt=0)
    likelihood_weight: float = Field(0.2, ge=0, le=1)  # of the reference's cross-entropy; the teacher has the rest
    max_teacher_wer_pct: float | None = Field(None, gt=0)  # on dev; a teacher over it is refused
    # Of the texts that the student writes: 0 is KL(teacher || student), 1 KL(student || teacher), between them the
    # generalised Jensen-Shannon divergence (Agarwal et al. 2024, "On-policy distillation of language models").
    jsd_beta: float = Field(1.0, ge=0, le=1)
    sampling_temperature: float = Field(1.0, ge=0)  # at which the student writes; 0: greedily


class MinWerConfig(Config):
    """Expected word errors of what the model writes (MWER; Prabhavalkar et al. 2018)."""

    num_samples: int = Field(4, ge=2)  # texts that are drawn for an utterance beside the greedy one
    temperature: float = Field(1.0, gt=0)  # at which they are drawn
    likelihood_weight: float = Field(0.05, ge=0)  # of the reference's cross-entropy, added to the expected errors
    max_risk: float = Field(1.0, gt=0)  # a text counts at most so many errors a word of its reference: a loop no more
