"""The plan of a round in the terminal: its training in detail, then every stretch with time and cost."""

from collections import defaultdict
from collections.abc import Sequence

from shibolet.cli.terminal import OUT, facts, in_time, table
from shibolet.records.documents.plan import PhasePlan, Plan
from shibolet.records.documents.round_plan import RoundCase, RoundPlan, Stretch

_MARKS = "abcdefghijklmnopqrstuvwxyz"


def show_round_plan(plan: RoundPlan) -> None:
    """Steps, parts and bytes by phase; then hours and dollars of the round, for each count of rows in full."""
    _show_training(plan.training)
    sources = list(dict.fromkeys(one.rate_from for case in plan.cases for one in case.stretches if one.rate_from))
    for case in plan.cases:
        OUT.print()
        _show_case(case, plan, sources)
    lines = [(f"rate {_MARKS[number]}", source) for number, source in enumerate(sources)]
    price = plan.price_per_gpu_hour_usd
    if plan.num_gpus and price is None:
        lines.append(("cost", "the recipe names no price (train.price_per_gpu_hour_usd)"))
    elif plan.num_gpus:
        lines.append(("cost", f"{plan.num_gpus} GPUs at ${price:.2f} an hour each, predicted"))
    if specified := plan.training.cost.specified_usd:
        lines.append(("specified", ", ".join(f"${usd:.0f} ({machine})" for machine, usd in specified.items())))
    OUT.print()
    facts(lines + [("note", note) for note in plan.notes])


def _show_case(case: RoundCase, plan: RoundPlan, sources: Sequence[str]) -> None:
    """A row for each stretch whose time is known; those that are not known for one reason are one line."""
    rows = "an unknown number of" if case.rows is None else f"{case.rows:,}"
    title = f"The round on {rows} rows, {plan.machine}"
    timed, lines, unknown = [], [], defaultdict(list)
    for one in case.stretches:
        if one.seconds is None:
            unknown[_how(one)].append(one.name)
        else:
            timed.append(one)
    if timed:
        has_cost = case.usd is not None
        table(title, ["", " time", *([" cost"] if has_cost else []), "", "how"], _rows(timed, has_cost, sources))
        total = f"{'at least ' if case.at_least else ''}{in_time(3600 * case.hours)}"
        lines.append(("in all", f"{total}, ${case.usd:.2f}" if has_cost else total))
    else:
        OUT.print(title, style="bold", markup=False)
    lines += [("not known", f"{', '.join(names)}: {reason}") for reason, names in unknown.items()]
    facts([*lines, ("rows", case.rows_from)])


def _rows(timed: Sequence[Stretch], has_cost: bool, sources: Sequence[str]) -> list[tuple[str, ...]]:
    def cost(one: Stretch) -> tuple[str, ...]:
        if not has_cost:
            return ()
        return ("?" if one.usd is None else f"${one.usd:.2f}",)

    return [
        (one.name, in_time(one.seconds), *cost(one), _MARKS[sources.index(one.rate_from)] if one.rate_from else "",
         _how(one))
        for one in timed
    ]  # fmt: skip


def _how(one: Stretch) -> str:
    return "; ".join(filter(None, (one.arithmetic, one.missing)))


def _show_training(plan: Plan) -> None:
    """Steps, parts and bytes by phase, then what they are of."""
    for phase in plan.phases:
        rows = [(part.part, f"{part.parameters:,}", f"{part.peak_lr:g}") for part in phase.parts]
        rows.append(("all that trains", f"{phase.trainable:,}", f"{phase.trainable_pct:.1f}%"))
        steps = "steps not known" if phase.steps is None else f"{phase.steps:,} steps"
        title = f"Phase {phase.name}: {phase.epochs:g} epochs, {steps}, warm-up {phase.warmup_steps}"
        table(title, ["part", " weights", " peak rate"], rows)
        facts(_memory_of(phase, plan.gpu.memory_gib))
        OUT.print()
    precision = plan.precision
    kept = f"masters {precision.masters}, moments {precision.moments}"
    utterances = plan.training_set.utterances
    number = "" if utterances is None else f"{utterances:,} utterances, "
    lines = [
        ("training set", f"{number}{plan.training_set_from}"),
        ("step", plan.step.arithmetic),
        ("precision", f"{precision.weights_and_compute} weights and compute, {kept}"),
        ("head", plan.model.head),
        ("model", plan.model_from),
    ]
    if plan.encoder_cache_gib:
        lines.append(("disk", f"{plan.encoder_cache_gib:.1f} GiB for the encoder's kept output"))
    if plan.teacher_cache_gib:
        lines.append(("disk", f"{plan.teacher_cache_gib:.2f} GiB for what the teacher expects (train.distil.top_k)"))
    facts(lines + [("note", note) for note in plan.notes])


def _memory_of(phase: PhasePlan, gpu_gib: float | None) -> list[tuple[str, str]]:
    digits = 1 if phase.total_gib >= 1 else 3
    terms = ", ".join(f"{name} {size:.{digits}f}" for name, size in phase.gib.items() if size)
    lines = [("GiB", f"{phase.total_gib:.{digits}f}: {terms}")]
    if gpu_gib is None:
        return lines
    room = f"{phase.utilisation_pct:.0f}% of {gpu_gib:g} GiB, margin {phase.margin_gib:.1f} GiB"
    lines.append(("room", f"{room}; packs of up to {phase.largest_pack_tokens:,} tokens fit"))
    if phase.graphs_gib is not None:
        lines.append(("graphs", _graphs_of(phase, gpu_gib)))
    return lines


def _graphs_of(phase: PhasePlan, gpu_gib: float) -> str:
    if not phase.graphs_gib:
        return "none: less than a quarter of the GPU is free before a step, so layers are launched one by one"
    most_gib = min(gpu_gib, phase.total_gib + phase.graphs_gib)
    return f"up to {phase.graphs_gib:.1f} GiB more, {most_gib:.1f} in all; given back when memory runs out"
