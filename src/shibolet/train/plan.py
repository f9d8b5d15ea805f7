"""What a training will do, before it does it: steps, parts and their parameters, rates, bytes, hours, dollars.

Works from the configuration alone: a blueprint has shapes and no weights.
"""

from collections.abc import Sequence
from statistics import mean

from shibolet.model.blueprint import Parameters
from shibolet.model.outline import GRAPHS_FREE_FRAC, outline_of
from shibolet.model.protocols import PackSize
from shibolet.records.documents.plan import (
    CostPlan,
    GpuPlan,
    ModelPlan,
    PartPlan,
    PhasePlan,
    Plan,
    PrecisionPlan,
    ReplayPlan,
    StepPlan,
    TrainingSet,
)
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.train.config import AugmentConfig, PhaseConfig, TrainConfig
from shibolet.train.context import num_told
from shibolet.train.data import TrainExample
from shibolet.train.memory import (
    GIB,
    MEAN_S,
    PACK_TOKENS,
    PhaseMemory,
    Sizes,
    assumed_sizes,
    cache_bytes,
    gpu_named,
    longest_sizes,
    usual_sizes,
)
from shibolet.train.objectives.cost import notes_on_objectives, passes_of, teacher_gib, teacher_pass_s, teacher_weights
from shibolet.train.packing import Draw, packs_of_rank, steps_per_epoch
from shibolet.train.phases import phase_groups
from shibolet.train.schedule import lr_factor, phase_steps

_WEIGHT_BYTES = {"bf16": 2, "fp32": 4}
_ASSUMED_UTTERANCES = 4096  # drawn where there is no training set yet
_FILLED_FRAC = 0.95  # of the GPU, by the largest pack; above it a training warns
_TIMED_STEPS = 16  # steps whose predicted times are averaged


def make_plan(
    config: TrainConfig,
    model: Parameters,
    examples: Sequence[TrainExample] | None,
    *,
    num_utterances: int | None = None,
    world_size: int = 1,
    gpu: str | None = "A100",
    gpu_memory_gib: float | None = None,
    replay: ReplayPlan | None = None,
    teacher: Parameters | None = None,
) -> Plan:
    """The plan; `model` has its adapters and may be a blueprint, and so may the `teacher` of `models.teacher`.

    Before `prepare` has run there are no `examples`: `num_utterances` then gives the steps (without it None), and
    utterances of 0.5 to 15 s are assumed. Of a GPU that is not known (None) no time is predicted. `gpu_memory_gib`:
    packs are planned as large as fit in every phase, or as small as they must be if the recipe gives `pack_tokens`.
    What is replayed comes last in `examples`; `num_utterances` are without it.
    """
    num_replayed = replay.utterances or 0 if replay else 0
    count = len(examples) - num_replayed if examples else num_utterances
    own_per_step = config.utterances_per_step - (replay.per_step if replay else 0)
    per_epoch = steps_per_epoch(count, own_per_step) if count else None
    gpus = GpuPlan(name=gpu, memory_gib=gpu_memory_gib, number=world_size)
    sizes, heard = _sizes(None, examples, model), count and count + num_replayed  # by a teacher
    timed = _timed_steps(config, examples, count, replay)
    pack_tokens, phases = _phases(config, model, examples, timed, per_epoch, gpus, teacher)
    return Plan(
        training_set=_training_set(examples and examples[:count], count, replay),
        step=StepPlan(
            utterances=config.utterances_per_step,
            steps_per_epoch=per_epoch,
            arithmetic=_arithmetic(count, config.utterances_per_step, replay),
            world_size=world_size,
            pack_tokens=pack_tokens,
            **(_packs(config, examples, count, replay, world_size, pack_tokens) if examples else {}),
        ),
        phases=phases,
        steps=sum(phase.steps for phase in phases) if per_epoch else None,
        model=ModelPlan(
            parameters=sum(weight.numel() for _, weight in model.named_parameters()),
            head="tied to the embeddings" if outline_of(model.config).is_tied(model) else "untied",
        ),
        precision=PrecisionPlan(
            weights_and_compute=config.precision,
            masters="float32" if config.precision == "bf16" else "the weights themselves",
            moments="float32",
        ),
        gpu=gpus,
        cost=_cost(config, phases, world_size),
        encoder_cache_gib=_cache_gib(config, model, examples, count),
        teacher_cache_gib=teacher_gib(config, sizes, heard),
        teacher_pass_s=teacher_pass_s(config, teacher, sizes, heard, gpus),
        notes=(
            *_notes(config, model, count, own_per_step, phases),
            *_told(config, examples and examples[:count]),
            *notes_on_objectives(config, outline_of(model.config)),
            *_assumptions(examples),
        ),
    )


def _sizes(
    augment: AugmentConfig | None, examples: Sequence[TrainExample] | None, model: Parameters, *, longest: bool = False
) -> list[Sizes]:
    """Of the utterances, or of some as they are assumed: on average, or as an epoch has them longest."""
    if examples:
        return (longest_sizes if longest else usual_sizes)(examples, augment)
    pauses_s = 0.0
    if augment:
        pauses_s = augment.longest_pauses_s if longest else augment.mean_pauses_s
    return assumed_sizes(outline_of(model.config), _ASSUMED_UTTERANCES, pauses_s)


def operations_per_token(config: TrainConfig, model: Parameters, examples: Sequence[TrainExample]) -> dict[str, float]:
    """Operations of the forward and backward passes by phase, on average over the tokens of these utterances."""
    sizes = usual_sizes(examples, None)  # tokens are counted as the data have them
    num_tokens = sum(size[0] for size in sizes)
    described = {phase.name: _phase(phase, config, model, None, 1, None) for phase in config.phases}
    return {name: memory.operations(sizes) / num_tokens for name, (*_, memory) in described.items()}


def _phases(
    config: TrainConfig, model: Parameters, examples: Sequence[TrainExample] | None, timed: Sequence[Sequence[int]],
    per_epoch: int | None, gpus: GpuPlan, teacher: Parameters | None,
) -> tuple[int, list[PhasePlan]]:  # fmt: skip
    """The longest pack that every phase has room for, and the phases with it; `timed` are utterances of some steps."""
    sizes, at_longest = (_sizes(config.augment, examples, model, longest=longest) for longest in (False, True))
    most, longest = -(-config.utterances_per_step // gpus.number), max(size[0] for size in at_longest)
    described = [_phase(phase, config, model, per_epoch, gpus.number, teacher) for phase in config.phases]
    gib = gpus.memory_gib
    fits = [
        gib and memory.largest_pack_tokens(at_longest, most, gib * GIB * _FILLED_FRAC) for *_, memory in described
    ]  # 0: not even one utterance; None: no GPU is known
    pack_tokens = config.pack_tokens or (PACK_TOKENS if None in fits else max(longest, min(fits)))
    steps_of = [[sizes[u] for u in step] for step in timed]
    phases = []
    for (phase, steps, memory), fit in zip(described, fits, strict=True):
        own_tokens = max(longest, pack_tokens if fit is None else min(pack_tokens, fit))
        fullest = memory.fullest_pack(at_longest, own_tokens, most)
        needs = _memory(memory, fullest, at_longest, most, gib)
        graphs_gib = _graphs_gib(config, model, memory, fullest, gib)
        step_s = hours = None
        if (gpu := gpus.name) is not None:
            step_s = round(mean(memory.step_s(step, own_tokens, gpu_named(gpu)) for step in steps_of), 4)
            hours = round(steps * step_s / 3600, 3) if steps else None
        phases.append(
            PhasePlan(**phase, **needs, graphs_gib=graphs_gib, largest_pack_tokens=fit, step_s=step_s, hours=hours)
        )
    return pack_tokens, phases


def _training_set(examples: Sequence[TrainExample] | None, count: int | None, replay: ReplayPlan | None) -> TrainingSet:
    if not examples:
        return TrainingSet(utterances=count, replay=replay)
    return TrainingSet(
        utterances=count,
        audio_h=round(sum(e.duration_s for e in examples) / 3600, 4),
        tokens=sum(e.num_tokens for e in examples),
        targets=sum(e.num_targets for e in examples),
        longest_tokens=max(e.num_tokens for e in examples),
        replay=replay,
    )


def _arithmetic(count: int | None, per_step: int, replay: ReplayPlan | None) -> str:
    replayed = f", and {replay.per_step} replayed in each" if replay else ""
    if not count:
        return f"{per_step} utterances a step{replayed}; steps follow when the training set is known"
    own_per_step = per_step - (replay.per_step if replay else 0)
    full, rest = divmod(count, own_per_step)
    return (
        f"{count:,} utterances = {full:,} x {own_per_step} + {rest} -> {full + bool(rest):,} steps an epoch{replayed}"
    )


def _draw(config: TrainConfig, examples: Sequence[TrainExample], count: int, replay: ReplayPlan | None) -> Draw:
    """Which utterances make a step, in one of the orders; what is replayed is not there before it is prepared."""
    per_step = replay.per_step if replay else 0
    own_per_step, num_replayed = config.utterances_per_step - per_step, len(examples) - count
    if not num_replayed:
        return Draw(num_own=count, utterances_per_step=own_per_step, seed=0)
    return Draw(
        num_own=count, utterances_per_step=config.utterances_per_step, seed=0, num_replayed=num_replayed,
        replayed_per_step=per_step,
    )  # fmt: skip


def _timed_steps(
    config: TrainConfig, examples: Sequence[TrainExample] | None, count: int | None, replay: ReplayPlan | None
) -> list[list[int]]:
    """Places of the utterances of the steps whose times are predicted.

    What is replayed counts as the training's own until it is prepared.
    """
    if examples and len(examples) > count:
        draw = _draw(config, examples, count, replay)
        return [draw.utterances(step) for step in range(min(_TIMED_STEPS, draw.steps_per_epoch))]
    num, per_step = len(examples) if examples else _ASSUMED_UTTERANCES, config.utterances_per_step
    return [list(range(at, min(num, at + per_step))) for at in range(0, num, per_step)][:_TIMED_STEPS]


def _packs(
    config: TrainConfig, examples: Sequence[TrainExample], count: int, replay: ReplayPlan | None, world_size: int,
    pack_tokens: int,
) -> dict:  # fmt: skip
    """How the steps of an epoch, in one of its orders, fall into packs."""
    draw = _draw(config, examples, count, replay)
    lengths = [size[0] for size in usual_sizes(examples, config.augment)]
    sizes = [
        [sum(lengths[u] for u in pack) for pack in packs_of_rank(
            draw.utterances(step), lengths, rank=rank, world_size=world_size, pack_tokens=pack_tokens,
        )]
        for step in range(draw.steps_per_epoch)
        for rank in range(world_size)
    ]  # fmt: skip
    return {
        "packs_per_rank_and_step": round(sum(map(len, sizes)) / len(sizes), 2),
        "largest_pack_tokens": max(tokens for packs in sizes for tokens in packs),
    }


def _phase(
    phase: PhaseConfig,
    config: TrainConfig,
    model: Parameters,
    per_epoch: int | None,
    world_size: int,
    teacher: Parameters | None,
) -> tuple[dict, int | None, PhaseMemory]:
    """What the plan says of a phase before packs are known, its steps, and the memory that it takes."""
    groups = phase_groups(model, phase)
    parts = [
        PartPlan(part=part, parameters=sum(weight.numel() for weight in group.values()), tensors=len(group),
                 peak_lr=phase.lr_by_part[part])
        for part, group in groups.items()
    ]  # fmt: skip
    total = sum(weight.numel() for _, weight in model.named_parameters())
    trainable = sum(part.parameters for part in parts)
    steps = phase_steps(phase, per_epoch) if per_epoch else None
    names = [name for group in groups.values() for name in group]
    family = outline_of(model.config)
    memory = PhaseMemory(
        cost=family.cost(model, names, _WEIGHT_BYTES[config.precision]), parameters=total, trainable=trainable,
        width=_WEIGHT_BYTES[config.precision], world_size=world_size,
        encoder_kept=config.encoder_cache and not any(family.part_of(name)[0].startswith("encoder.") for name in names),
        teacher=teacher_weights(config, phase, teacher), passes=passes_of(config, phase),
    )  # fmt: skip
    described = dict(
        name=phase.name, epochs=phase.num_epochs, steps=steps, warmup_steps=phase.warmup_steps,
        schedule=phase.schedule,
        highest_lr_factor=max(lr_factor(s, phase, steps) for s in range(steps)) if steps else None,
        parts=parts, trainable=trainable, trainable_pct=round(100 * trainable / total, 2), frozen=total - trainable,
    )  # fmt: skip
    return described, steps, memory


def _memory(memory: PhaseMemory, pack: PackSize, sizes: Sequence[Sizes], most: int, gib: float | None) -> dict:
    """Bytes by purpose with the fullest pack there can be, and what is left of the GPU's."""
    several = pack.tokens < sum(sorted((size[0] for size in sizes), reverse=True)[:most])
    tensors = memory.peak(pack, several)
    terms = tensors | memory.reserve(sum(tensors.values()))
    total = sum(terms.values()) / GIB
    return {
        "gib": {name: round(size / GIB, 3) for name, size in terms.items()},
        "total_gib": round(total, 3),
        "peak_tensors_gib": round(sum(tensors.values()) / GIB, 3),
        "fullest_pack_tokens": pack.tokens,
        "margin_gib": None if gib is None else round(gib - total, 3),
        "utilisation_pct": None if gib is None else round(100 * total / gib, 1),
        "encoder_kept": memory.encoder_kept,
    }


def _cost(config: TrainConfig, phases: Sequence[PhasePlan], world_size: int) -> CostPlan:
    """Predicted hours and dollars of all steps, beside what others expect of the round."""
    hours = sum(phase.hours for phase in phases) if all(phase.hours is not None for phase in phases) else None
    price = config.price_per_gpu_hour_usd
    known = hours is not None and price is not None
    return CostPlan(
        hours=None if hours is None else round(hours, 2),
        usd=round(hours * world_size * price, 2) if known else None,
        price_per_gpu_hour_usd=price,
        specified_usd=dict(config.specified_usd) or None,
    )


def _cache_gib(
    config: TrainConfig, model: Parameters, examples: Sequence[TrainExample] | None, count: int | None
) -> float | None:
    """Disk that the encoder's kept output takes; 0 without it, None while the training set is not known."""
    family, width = outline_of(model.config), _WEIGHT_BYTES[config.precision]
    dim = family.encoder_dim(model)
    if not config.encoder_cache or examples:
        return round(cache_bytes(examples, dim, width) / GIB, 2) if config.encoder_cache else 0.0
    states = family.num_states(family.num_frames(round(MEAN_S * SAMPLE_RATE_HZ)))
    return round(count * states * dim * width / GIB, 2) if count else None


def _assumptions(examples: Sequence[TrainExample] | None) -> list[str]:
    if examples:
        return []
    return [f"no training set yet: utterances of 0.5 to 15 s, {MEAN_S:g} s on average, are assumed"]


def _told(config: TrainConfig, examples: Sequence[TrainExample] | None) -> list[str]:
    if not (config.context and examples):
        return []
    return [
        f"train.context: {num_told(examples):,} of {len(examples):,} utterances can be told terms; the others have a "
        "previous text or timestamps, no term, or no room for a list"
    ]


def _graphs_gib(
    config: TrainConfig, model: Parameters, memory: PhaseMemory, pack: PackSize, gib: float | None
) -> float | None:
    """What is taken while there is room, and so is in no total; none where too little is free before a step."""
    launched = config.precision == "bf16" and config.fast != "off" and outline_of(model.config).launches_graphs
    if gib is None or not launched:
        return None
    return round(memory.graphs(pack) / GIB, 3) if memory.idle < (1 - GRAPHS_FREE_FRAC) * gib * GIB else 0.0


def _notes(
    config: TrainConfig, model: Parameters, count: int | None, own_per_step: int, phases: Sequence[PhasePlan]
) -> list[str]:
    """What a reader of the recipe may not expect."""
    notes = []
    if count and count < own_per_step:
        notes.append(
            f"the training set ({count} utterances) is smaller than a step ({own_per_step}): every step is a whole "
            "epoch"
        )
    for phase in phases:
        if phase.largest_pack_tokens == 0:
            notes.append(f"phase {phase.name}: not even a pack of one utterance fits the GPU")
        if phase.steps and phase.warmup_steps > phase.steps:
            notes.append(
                f"phase {phase.name}: its warm-up of {phase.warmup_steps} steps is longer than its "
                f"{phase.steps} steps; rates reach {phase.highest_lr_factor:.0%} of the peak"
            )
        elif phase.steps and phase.warmup_steps > phase.steps / 2:
            notes.append(
                f"phase {phase.name}: its warm-up of {phase.warmup_steps} steps takes "
                f"{phase.warmup_steps / phase.steps:.0%} of its {phase.steps} steps; a tenth is usual (warmup_steps)"
            )
    if config.fast == "off":
        notes.append("train.fast is off: memory and time are predicted for the faster layers, and will be more")
    if outline_of(model.config).is_tied(model) and any(
        {"head", "embeddings"} & set(phase.lr_by_part) for phase in config.phases
    ):
        notes.append("the head is tied to the embeddings: training it trains the input side too (train.untie_head)")
    return notes
