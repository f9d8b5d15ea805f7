"""The plan of a whole round, from the configuration and no weights: the training in detail, every stretch in time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shibolet.errors import DataError, RecipeError
from shibolet.recipe import Recipe
from shibolet.records.documents.plan import Plan, ReplayPlan
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.round_plan import RoundCase, RoundPlan
from shibolet.records.objects import exists
from shibolet.records.runfolder import RunFolder
from shibolet.rounds.rates import CPU, Rates, rates_from, rates_of
from shibolet.rounds.replay import replay_of
from shibolet.rounds.stretches import Stretches
from shibolet.speech.sources import DataSource
from shibolet.train.memory import GPUS, MEAN_S

SMALL_WEIGHTS = 100e6  # a model of fewer weights trains on a CPU
# What the specification's settings and this training reach on one H200, in audio seconds a second, by phase
# (benchmarks/RESULTS.md, "One H200: training"): batch 2 x 16, activations checkpointed, padded, logits everywhere.
SPECIFIED_AUDIO_S, PACKED_AUDIO_S = {"B": 18.8, "A": 34.8}, {"B": 2803, "A": 2702}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """The training data of a round, as far as they are known."""

    rows: int | None
    rows_from: str
    train: int | None  # utterances that will train, or are expected to
    dev: int | None
    mean_s: float  # of an utterance
    train_from: str  # `rows_from`, or what is said of prepared data
    examples: list | None = None  # that are prepared, with their lengths, and behind them those that are replayed
    replay: ReplayPlan | None = None
    unlabelled_s: float | None = 0.0  # audio without text; None: not known of a source


def make_plan(
    recipe: Recipe, run_dir: Path, num_utterances: int | None = None, num_gpus: int | None = None,
    gpu: str | None = None, gpu_memory_gib: float | None = None, rates_run: Path | None = None,
) -> RoundPlan:  # fmt: skip
    """The plan of a round, of what the run folder has prepared or of every count of rows that is known.

    Lengths are assumed before that, where they cannot be known in tokens, and where a number is given;
    `training_set_from` says which. `rates_run` is a finished round whose rates are taken, with its number of GPUs.
    """
    from shibolet.model.outline import offline_config, outline_of, usual_config
    from shibolet.train import plan as training
    from shibolet.train.objectives.cost import teacher_blueprint
    from shibolet.train.phases import blueprint_of

    config, model_from = (
        offline_config(recipe.models.base) if recipe.models.base else usual_config("no model is named yet")
    )
    model = blueprint_of(config, recipe.train)
    num_weights = sum(weight.numel() for _, weight in model.named_parameters())
    rates = _rates(num_gpus, gpu, rates_run, num_weights, outline_of(config).is_timed)
    is_named = rates_run is None and rates.num_gpus > 0
    data = _data(recipe, RunFolder(run_dir), num_utterances, rates, config)
    plan = training.make_plan(
        recipe.train, model, data[0].examples, num_utterances=data[0].train, world_size=max(1, rates.num_gpus),
        gpu=(gpu or "A100").upper() if is_named else None, gpu_memory_gib=gpu_memory_gib,
        teacher=teacher_blueprint(recipe.models.teacher), replay=data[0].replay or _replay(recipe),
    )  # fmt: skip
    plan = plan.model_copy(update={"training_set_from": data[0].train_from, "model_from": model_from})
    cases = tuple(_case(recipe, rates, plan, one) for one in data)
    return RoundPlan(
        machine=rates.machine,
        num_gpus=rates.num_gpus,
        price_per_gpu_hour_usd=recipe.train.price_per_gpu_hour_usd,
        cases=cases,
        notes=tuple(_notes(recipe, rates, cases, data, gpu)),
        training=plan,
    )


def _rates(num_gpus: int | None, gpu: str | None, rates_run: Path | None, parameters: int, is_timed: bool) -> Rates:
    if rates_run is None:
        is_tiny = parameters < SMALL_WEIGHTS
        name = (gpu or "A100").upper()
        if name == CPU:
            return rates_of(CPU, 0, is_tiny, is_timed)
        if name not in GPUS:
            raise RecipeError(f"--gpu {gpu}: known are {', '.join(GPUS)} and {CPU}")
        return rates_of(name, num_gpus or 1, is_tiny, is_timed)
    if gpu is not None or num_gpus is not None:
        raise RecipeError("--rates-from has the machine of that round: leave out --gpu and --gpus")
    return rates_from(rates_run, parameters)


def _data(recipe: Recipe, folder: RunFolder, given: int | None, rates: Rates, config: Any) -> list[_Data]:
    """What trains, once for every count of rows that is known; the first is what the training plan is of."""
    unlabelled_s = _unlabelled_s(recipe)
    if given is not None:
        return [_expected(recipe, given, "as given", rates, unlabelled_s)]
    folder.intact("prepare")
    if any(folder.prepared.glob("train-*.parquet")):
        return [replace(_prepared(recipe, folder, config), unlabelled_s=unlabelled_s)]
    counted = _counts(recipe.data.train)
    why = f"since nothing is prepared in {folder.path}"
    if counted:
        return [_expected(recipe, rows, f"{by}, {why}", rates, unlabelled_s) for by, rows in counted.items()]
    absent = [str(one.manifest) for one in recipe.data.train if one.manifest is not None and not exists(one.manifest)]
    where = f": there is no {absent[0]}" if absent else ""
    unknown = f"not known before the data are here{where} (--utterances N)"
    return [_Data(rows=None, rows_from=unknown, train=None, dev=None, mean_s=MEAN_S, train_from=unknown)]


def _unlabelled_s(recipe: Recipe) -> float | None:
    """Seconds of audio without text, by the headers of its files; None where a source is not on this machine."""
    from shibolet.records.files import cache_dir
    from shibolet.speech.read import read_source
    from shibolet.speech.readers import table_files

    total = 0.0
    for source in recipe.data.unlabelled:
        if source.parquet:
            is_here = bool(table_files(source))
        else:
            is_here = exists(source.manifest or source.hub)
        if not is_here:
            return None
        utterances, _ = read_source(source, cache_dir(), None, source.language or recipe.language)
        total += sum(utterance.duration_s for utterance in utterances)
    return total


def _expected(recipe: Recipe, rows: int, rows_from: str, rates: Rates, unlabelled_s: float | None) -> _Data:
    """Rows of which as many are kept as in the round that was measured, and else all; and all that may be labelled."""
    if kept := rates.kept:
        train, dev, mean_s = kept.of(rows, kept.train), kept.of(rows, kept.dev), kept.mean_s
        said = f"{kept.train:,} of {kept.given:,} trained in the round that was measured, of {rows:,} rows, {rows_from}"
    else:
        held_out = math.ceil(recipe.prepare.dev_frac * rows)
        train, dev, mean_s, said = rows, min(held_out, recipe.prepare.max_dev_utterances or held_out), MEAN_S, rows_from
    if unlabelled_s:
        labelled = round(min(unlabelled_s / mean_s, recipe.label.max_labelled_share * rows))
        train, said = train + labelled, f"{said}, and as much as {labelled:,} more of audio without text if all passes"
    return _Data(
        rows=rows, rows_from=rows_from, train=train, dev=dev, mean_s=mean_s, train_from=f"{said}; lengths are assumed",
        unlabelled_s=unlabelled_s,
    )  # fmt: skip


def _counts(sources: Sequence[DataSource]) -> Mapping[str, int]:
    """Rows of the training data by who counts them; nothing where one source has no count at all."""
    from shibolet.speech.manifests import count_rows

    named: dict[str, None] = {}
    of_source: list[Mapping[str, int]] = []
    for source in sources:
        most, rows = source.max_utterances or math.inf, source.rows
        if source.manifest is not None and exists(source.manifest):
            if not (count := count_rows(source)):
                raise DataError(f"source '{source.name}': manifest {source.manifest} has no rows")
            rows = {"": count}
        if not rows:
            return {}
        of_source.append({by: min(num, most) for by, num in rows.items()})
        named |= dict.fromkeys(by for by in rows if by)
    first = [next(iter(rows.values())) for rows in of_source]
    if not named:
        return {"rows of the manifests": sum(first)}
    found = {}
    for by in named:
        counts = [rows.get(by, other) for rows, other in zip(of_source, first, strict=True)]
        parts = f" ({' + '.join(f'{count:,}' for count in counts)})" if len(counts) > 1 else ""
        found[f"the {by}'s number{parts}"] = sum(counts)
    return found


def _replay(recipe: Recipe) -> ReplayPlan | None:
    """What is replayed, as far as the recipe alone says."""
    if not recipe.data.replayed:
        return None
    return ReplayPlan(share=recipe.replay_share, per_step=recipe.train.replay_per_step(recipe.replay_share))


def _prepared(recipe: Recipe, folder: RunFolder, config: Any) -> _Data:
    """Prepared utterances with their lengths, or why there are none."""
    from shibolet.model.outline import outline_of
    from shibolet.model.protocols import Prompt
    from shibolet.records.shards import num_rows
    from shibolet.train.context import with_contexts
    from shibolet.train.data import Styles, read_examples
    from shibolet.train.given import Drawing
    from shibolet.train.replay import read_replay

    prepared = folder.prepared
    train, dev = (sum(map(num_rows, prepared.glob(f"{split}-*.parquet"))) for split in ("train", "dev"))
    rows, mean_s = train + dev, MEAN_S
    if (summary := prepared / "summary.json").is_file():
        made = Prepared.read(summary)
        rows = made.utterances.given
        mean_s = 3600 * made.hours.given / rows if rows else MEAN_S
    common = dict(rows=rows, rows_from=f"given to prepare in {prepared}", dev=dev, mean_s=mean_s)
    family = outline_of(config)
    if (tokenizer := family.tokenizer(recipe.models.base)) is None:
        why = f"the tokenizer of {recipe.models.base} is not on this machine, so lengths are assumed"
        return _Data(**common, train=train, train_from=f"prepared in {prepared}; {why}")
    targets = family.targets(tokenizer, Prompt(recipe.language))
    styles = Styles.of(recipe.styles, lambda style: family.targets(tokenizer, Prompt(recipe.language, style=style)))
    drawing, max_tokens = Drawing.of(recipe.train, family, recipe.seed), family.max_tokens(config)
    examples, _ = read_examples(prepared, "train", family, targets, max_tokens, styles, drawing)
    examples = with_contexts(
        examples, recipe.train.context, family=family, tokenizer=tokenizer, language=recipe.language, seed=recipe.seed,
        max_tokens=max_tokens,
    )  # fmt: skip
    train_from = f"prepared in {prepared}, with their lengths"
    replay = replay_of(recipe, folder)
    if replay and not all(any(one.prepared_dir.glob("train-*.parquet")) for one in replay.sources):
        train_from, replay = f"{train_from}; what is replayed is not prepared yet", None
    replayed = read_replay(replay, family, tokenizer, max_tokens, examples, drawing)
    return _Data(
        **common, train=len(examples), train_from=train_from, examples=[*examples, *replayed.examples],
        replay=replayed.plan(recipe.train),
    )  # fmt: skip


def _case(recipe: Recipe, rates: Rates, plan: Plan, data: _Data) -> RoundCase:
    known, unknown = _test_rows(recipe)
    replayed = _counts(recipe.data.replayed)
    stretches = Stretches(
        recipe=recipe, rates=rates, phases=plan.phases, rows=data.rows, train=data.train, dev=data.dev,
        mean_s=data.mean_s, test=known, unknown_sets=tuple(unknown),
        replay_rows=min(replayed.values()) if replayed else None, unlabelled_s=data.unlabelled_s,
        teacher_pass_s=plan.teacher_pass_s and plan.teacher_pass_s / plan.training_set.utterances,
    ).all()  # fmt: skip
    seconds = sum(one.seconds for one in stretches if one.seconds is not None)
    is_priced = recipe.train.price_per_gpu_hour_usd is not None and rates.num_gpus > 0
    return RoundCase(
        rows=data.rows,
        rows_from=data.rows_from,
        train_utterances=data.train,
        stretches=stretches,
        hours=round(seconds / 3600, 4),
        usd=round(sum(one.usd for one in stretches if one.usd is not None), 4) if is_priced else None,
        at_least=any(one.missing is not None for one in stretches),
    )


def _test_rows(recipe: Recipe) -> tuple[int | None, list[str]]:
    """Utterances of the evaluation sets of which they are known, and the names of the others."""
    counted = {one.name: _counts([one]) for one in recipe.evaluate.sets}
    known = [min(rows.values()) for rows in counted.values() if rows]
    return sum(known) if known else None, [name for name, rows in counted.items() if not rows]


def _notes(
    recipe: Recipe, rates: Rates, cases: Sequence[RoundCase], data: Sequence[_Data], gpu: str | None
) -> Iterator[str]:
    """In which way things are counted, and why the cost is what it is."""
    if rates.by_phase is None and rates.num_gpus:
        if (gpu or "A100").upper() == "A100" and rates.by_stretch:
            yield "No A100 was measured: its steps are projected, all else is counted at the rate of an H100 or H200."
        if rates.num_gpus > 1:
            yield (
                "Hearing, preparing and scoring are counted as on one GPU. Two H200s heard 10 hours 1.85 to 2 times as "
                'fast as one (benchmarks/RESULTS.md, "Two GPUs and 64 utterances"); more were not measured.'
            )
    if recipe.parent is not None:
        yield (
            f"What {recipe.parent} heard, prepared and scored of the same data is taken over; this counts it as if it "
            "were done again."
        )
    yield from _why(recipe, rates, cases[0], data[0])


def _why(recipe: Recipe, rates: Rates, case: RoundCase, data: _Data) -> Iterator[str]:
    """Why the round costs so much less, or more, than others expect."""
    specified, price = recipe.train.specified_usd, recipe.train.price_per_gpu_hour_usd
    if not specified or not price or case.usd is None or not case.train_utterances:
        return
    machine, usd = min(specified.items(), key=lambda item: item[1])
    named = f"${usd:g} ({machine}) is {usd / price:.1f} GPU-hours at ${price:.2f}"
    if case.usd >= usd:
        yield f"{named}; {case.rows:,} rows, {case.rows * data.mean_s / 3600:,.0f} h, take more than that."
        return
    audio_s = case.train_utterances * data.mean_s
    own = [(phase.num_epochs * audio_s, SPECIFIED_AUDIO_S.get(phase.name)) for phase in recipe.train.phases]
    if any(rate is None for _, rate in own):
        yield f"{named}; this is {usd / case.usd:.0f} times less."
        return
    hours = sum(amount / rate for amount, rate in own) / 3600
    rates_said = ", ".join(
        f"{PACKED_AUDIO_S[one.name]:,} for {SPECIFIED_AUDIO_S[one.name]:g} in {one.name}" for one in recipe.train.phases
    )
    yield (
        f"{named}; this is {usd / case.usd:.0f} times less. The specification's own settings (2 utterances at a time, "
        f"activations computed twice, padding, logits at every position) would train {hours:.1f} h on one H200. Packed "
        f"steps do the same in {audio_s * _per_audio_s(recipe) / 3600:.1f} h: audio seconds a second there are "
        f'{rates_said} (benchmarks/RESULTS.md, "One H200: training").'
    )


def _per_audio_s(recipe: Recipe) -> float:
    """Seconds of an H200 for a second of audio through all epochs."""
    return sum(phase.num_epochs / PACKED_AUDIO_S[phase.name] for phase in recipe.train.phases)
