"""The phases that are tried: a recipe's, with spans of layers and lengths that fit this model and a short training."""

import math

from shibolet.model.spans import LayerSpan
from shibolet.train.config import PhaseConfig, TrainConfig

CPU_UTTERANCES = 4  # of a step, where a step of 64 would take minutes
WARMUP_FRAC = 0.1  # of the steps of a phase


def trial_of(
    config: TrainConfig, num_layers: dict[str, int], published: dict[str, int], *, num_utterances: int, steps: int,
    on_gpu: bool,
) -> TrainConfig:  # fmt: skip
    """The settings of `steps` steps in each phase.

    Spans that this model has no layers for are taken to mean the same shares of the `published` model's towers.
    """
    parts = [part for phase in config.phases for part in phase.lr_by_part] + ([config.lora.part] if config.lora else [])
    spans = [span for part in parts if (span := LayerSpan.parse(part))]
    too_long = {span.tower for span in spans if max(span.first + 1, span.last or 0) > num_layers[span.tower]}

    def fitted(part: str) -> str:
        if (span := LayerSpan.parse(part)) is None or span.tower not in too_long:
            return part
        here, there = num_layers[span.tower], published[span.tower]
        last = there if span.last is None else span.last
        return str(LayerSpan(span.tower, round(span.first * here / there), round(last * here / there)))

    per_step = config.utterances_per_step if on_gpu else min(CPU_UTTERANCES, config.utterances_per_step)
    per_step = min(per_step, num_utterances)
    steps_per_epoch = math.ceil(num_utterances / per_step)

    def short(phase: PhaseConfig) -> PhaseConfig:
        rates = {fitted(part): rate for part, rate in phase.lr_by_part.items()}
        return phase.model_copy(
            update={
                "lr_by_part": rates, "lr_if_diverged": {}, "num_epochs": steps / steps_per_epoch,
                "warmup_steps": min(phase.warmup_steps, round(WARMUP_FRAC * steps)),
            }
        )  # fmt: skip

    return config.model_copy(
        update={
            "phases": tuple(map(short, config.phases)),
            "lora": config.lora and config.lora.model_copy(update={"part": fitted(config.lora.part)}),
            "utterances_per_step": per_step, "precision": config.precision if on_gpu else "fp32",
            "eval_every_steps": 10**9, "eval_every_epoch": False, "checkpoint_every_steps": max(1, steps // 2),
            "patience": None, "average_best": None, "augment": None,
        }
    )  # fmt: skip
