"""What an objective takes beyond a pass over the references: a teacher's weights, texts of its own, disk."""

from collections.abc import Sequence
from typing import Any

from shibolet.model.blueprint import Blueprint, Parameters
from shibolet.model.outline import CACHE_FRAC, Outline, offline_config, outline_of
from shibolet.records.documents.plan import GpuPlan
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.memory import GIB, MODEL_SHARE, Sizes, gpu_named
from shibolet.train.objectives.config import DistilConfig, MinWerConfig

WRITING_SHARE = 0.25  # of the memory that rows may take where nothing trains beside them
RECOMPUTED = 4 / 3  # of a forward and backward pass where activations are computed again: three forwards and one more


def teacher_blueprint(name: str | None) -> Blueprint | None:
    """The teacher of a recipe as names and shapes; of a published one that is not on this machine by its name."""
    if name is None:
        return None
    config, _ = offline_config(name)
    return outline_of(config).blueprint(config)


def teacher_weights(config: TrainConfig, phase: PhaseConfig, teacher: Parameters | None) -> int:
    """Weights of the teacher that stays beside the student through a phase; one that distils keeps its words alone."""
    if teacher is None or config.objective_of(phase) != "on_policy":
        return 0
    return sum(weight.numel() for _, weight in teacher.named_parameters())


def writes_texts(config: TrainConfig, phase: PhaseConfig) -> bool:
    """Whether the model writes texts of its own in every step of a phase."""
    return config.objective_of(phase) in ("on_policy", "min_wer")


def passes_of(config: TrainConfig, phase: PhaseConfig) -> float:
    """Passes of a step, the one over its references counting 1; as many texts as are drawn, all of them different."""
    if not writes_texts(config, phase):
        return 1.0
    objective = config.objective_of(phase)
    own: Any = _distil(config) if objective == "on_policy" else _min_wer(config)
    texts = 1 if objective == "on_policy" else 1 + own.num_samples
    return (own.likelihood_weight > 0) + RECOMPUTED * texts


def asks_once(config: TrainConfig) -> bool:
    """Whether a phase learns what a teacher expects on the references, which is computed once and kept."""
    return any(config.objective_of(phase) == "distil" for phase in config.phases)


def teacher_gib(config: TrainConfig, sizes: Sequence[Sizes], count: int | None) -> float | None:
    """GiB of the tokens kept of `count` utterances, by the mean of those of `sizes`; None: none, or not known."""
    if not (asks_once(config) and count):
        return None
    labels = count * sum(size[2] for size in sizes) / len(sizes)
    return round(cache_bytes(round(labels), _distil(config).top_k, count) / GIB, 3)


def teacher_pass_s(
    config: TrainConfig, teacher: Parameters | None, sizes: Sequence[Sizes], count: int | None, gpus: GpuPlan
) -> float | None:
    """Seconds of the one forward pass, as steps are predicted; None: there is none, or nobody can say."""
    if not (asks_once(config) and teacher and count and gpus.name):
        return None
    cost = outline_of(teacher.config).cost(teacher, [], 2)  # nothing of it trains
    operations = cost.operations(cost.size_of(sizes)) * count / len(sizes)
    return round(operations / (gpu_named(gpus.name).bf16_tflops * 1e12 * MODEL_SHARE * gpus.number), 1)


def cache_bytes(num_targets: int, top_k: int, num_utterances: int) -> int:
    """Disk that a teacher's top tokens take: ids in 4 bytes, probabilities in 2, the others' mass with them."""
    return num_targets * (top_k * 4 + (top_k + 1) * 2) + num_utterances


def notes_on_objectives(config: TrainConfig, family: Outline) -> list[str]:
    """What the predicted times and memory of the phases, and the training, leave out, in sentences."""
    notes = []
    for phase in config.phases:
        objective = config.objective_of(phase)
        if objective == "distil":
            notes.append(
                f"phase {phase.name}: the teacher hears the training set once before the first step, which is not in "
                "the hours of the phase"
            )
        elif writes_texts(config, phase):
            missing = "writing them and what the teacher says of them are" if objective == "on_policy" else "writing is"
            notes.append(
                f"phase {phase.name}: the model writes texts of its own in every step; {missing} not in the predicted "
                f"time. The rows in which it writes take up to {100 * CACHE_FRAC * WRITING_SHARE:.0f}% of the GPU's "
                "memory, which is not in the predicted memory"
            )
    by_family = (family.previous_text_frac, config.previous_text_frac), (family.timestamps_frac, config.timestamps_frac)
    if notes and any(usual and own is None for usual, own in by_family):
        notes.append(
            f"a {family.title} learns previous texts and timestamps where its data have them, but not in this "
            "training: its objectives know each utterance in one prompt and one text"
        )
    return notes


def _distil(config: TrainConfig) -> DistilConfig:
    return config.distil or DistilConfig()


def _min_wer(config: TrainConfig) -> MinWerConfig:
    return config.min_wer or MinWerConfig()
