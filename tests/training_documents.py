"""Documents of a training that tests put into run folders, whole, with what a test cares about in its place."""

from collections.abc import Mapping

from shibolet.records.documents.plan import (
    CostPlan,
    GpuPlan,
    ModelPlan,
    PartPlan,
    PhasePlan,
    Plan,
    PrecisionPlan,
    StepPlan,
    TrainingSet,
)
from shibolet.records.documents.training import StepRow, Timing, TrainResult


def step_row(step: int, **changes) -> StepRow:
    timing = Timing(step_s=0.4, data_s=0.0, device_s=0.3, checkpoint_s=0.0, utterances_per_s=40.0, audio_s_per_s=120.0)
    values = {
        "phase": "B", "phase_index": 0, "step_in_phase": step, "epoch": 0.5, "loss": 1.0, "lr": {}, "grad_norm": 1.0,
        "grad_norm_by_part": {}, "skipped": None, "utterances": 16, "audio_s": 48.0, "tokens": 900, "targets": 300,
        "numbers": {},
        "timing": timing, "memory": None,
    }  # fmt: skip
    return StepRow(step=step, **values | changes)


def phase_plan(name: str, *, epochs: float, steps: int, lr_by_part: Mapping[str, float]) -> PhasePlan:
    parts = [PartPlan(part=part, parameters=1000, tensors=1, peak_lr=lr) for part, lr in lr_by_part.items()]
    return PhasePlan(
        name=name, epochs=epochs, steps=steps, warmup_steps=10, schedule="constant", highest_lr_factor=1.0, parts=parts,
        trainable=612_000, trainable_pct=26.4, frozen=1_706_000, gib={"weights": 0.1}, total_gib=0.1,
        peak_tensors_gib=0.1, fullest_pack_tokens=4096, margin_gib=None, utilisation_pct=None, encoder_kept=False,
        largest_pack_tokens=None, step_s=None, hours=None,
    )  # fmt: skip


def training_plan(*phases: PhasePlan) -> Plan:
    arithmetic = "512 utterances = 32 x 16 + 0 -> 32 steps an epoch"
    return Plan(
        training_set=TrainingSet(utterances=512),
        step=StepPlan(utterances=16, steps_per_epoch=32, arithmetic=arithmetic, world_size=1, pack_tokens=4096),
        phases=phases,
        steps=sum(phase.steps for phase in phases),
        model=ModelPlan(parameters=2_318_000, head="untied"),
        precision=PrecisionPlan(weights_and_compute="fp32", masters="the weights themselves", moments="float32"),
        gpu=GpuPlan(name=None, memory_gib=None, number=1),
        cost=CostPlan(hours=None, usd=None, price_per_gpu_hour_usd=None, specified_usd=None),
        encoder_cache_gib=0.0,
        notes=(),
    )


def train_result(**changes) -> TrainResult:
    values = {
        "fingerprint": {}, "earlier": (), "steps": 1, "utterances_seen": 16, "through": "A", "chosen_step": 1,
        "chosen_by": "dev WER", "chosen_dev": None, "optimism": None, "averaged_steps": (), "warning": None, "dev": (),
        "events": (), "dropped": 0, "num_threads": 1,
    }  # fmt: skip
    return TrainResult(**values | changes)
