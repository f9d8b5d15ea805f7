"""`shibolet search`: the stage that finds learning rates by part, its table, and the recipe that it writes."""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.dev import read_dev
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.search import (
    Confirmation,
    SearchCost,
    SearchedTrial,
    SearchRung,
    SearchTable,
    part_of_phase,
)
from shibolet.records.files import write_json
from shibolet.records.reading import read_own
from shibolet.rounds.replay import replay_inputs, replay_of, replay_reads
from shibolet.rounds.search.confirming import DevParts, confirm, divide_dev, is_admitted, loss_difference
from shibolet.rounds.search.dimensions import dimensions_of, layer_choices, rank_choices, training_at
from shibolet.rounds.search.halving import (
    FEWEST_TRIALS,
    OWN,
    Measured,
    Results,
    Rungs,
    Trial,
    best_of,
    halve,
    plan_rungs,
)
from shibolet.rounds.search.proposals import Sampler, Space, proposer, require_optuna, suggestions
from shibolet.rounds.search.trials import SearchJob, carry_out_all
from shibolet.rounds.shared import Round
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.label_loss import LabelLoss
from shibolet.train.packing import steps_per_epoch
from shibolet.train.schedule import phase_steps

STAGE, TABLE, CONFIRMED, TRIALS = "search", "search.json", "confirmed.json", "trials"
NUM_TRIALS = (24, 16, 12, 8, 6, FEWEST_TRIALS)  # the most that the budget gives enough steps are taken
MIN_STEPS = 4  # of the shortest trial, which gets through its warm-up too
FORWARD_FRAC = 1 / 3  # of a step: a loss has no backward pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a search is asked for."""

    parts: tuple[str, ...] = ()  # empty: a dimension for each tower of the phase
    warmup: bool = False
    ranks: tuple[int, ...] = ()  # of adapters, beside the recipe's
    layers: tuple[str, ...] = ()  # "encoder=4": so many layers thawed, beside the recipe's span
    phase: str | None = None  # None: the last one
    num_trials: int | None = None  # None: as many as the budget gives enough steps
    most: float = 10.0  # factors lie between 1/most and most
    budget: float = 1.2  # trainings, the beginning that all share included
    proposals: Sampler = "optuna"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A search before any trial has run."""

    index: int  # of the phase
    phase: PhaseConfig
    dimensions: dict[str, tuple[str, ...]]
    space: Space
    rungs: Rungs
    shared_step: int
    training_steps: int
    phase_steps: int
    steps_per_loss: float
    dev: DevParts


def do_search(current: Round, asked: Asked) -> SearchTable:
    """Every trial, and whether the rates of the best one are shown to be better than the recipe's."""
    require_optuna(asked.proposals)
    recipe, folder = current.recipe, current.folder
    inputs = {
        "format": SearchTable.FORMAT,
        "base": current.identity(recipe.models.base),
        "prepared": folder.verified("prepare"),
        "train": recipe.train.identity(),
        "language": recipe.language,
        "seed": recipe.seed,
        **({"styles": recipe.styles} if recipe.styles else {}),
        **replay_inputs(current),
        "evaluate": recipe.evaluate.model_dump(mode="json", include={"max_new_tokens_per_s"}),
        "asked": asdict(asked),
    }
    stage = current.begin(STAGE, inputs, reads=("prepare", *replay_reads(current)))
    path = folder.path / STAGE / TABLE
    if not stage.done:
        plan = _plan(current, asked)
        table = SearchTable.read(path) if path.exists() else _Search(current, asked, plan).table()
        table.write(path)
        _keep_only(folder.path / STAGE / TRIALS, table)
        current.finish(stage)
    return SearchTable.read(path)


def _plan(current: Round, asked: Asked) -> _Plan:
    train, prepared = current.recipe.train, Prepared.read(current.folder.prepared / "summary.json")
    names = [phase.name for phase in train.phases]
    if asked.phase is not None and asked.phase not in names:
        raise RecipeError(f"--phase {asked.phase}: there is no such phase in train.phases; they are {', '.join(names)}")
    index = names.index(asked.phase) if asked.phase else len(names) - 1
    phase = train.phases[index]
    ranks, (layers, thawed) = rank_choices(train, index, asked.ranks), layer_choices(train, index, asked.layers)
    choices = ranks | thawed
    dimensions = dimensions_of(phase, asked.parts, warmup=asked.warmup) | dict.fromkeys(ranks, ()) | layers
    if not (rows := read_dev(current.folder.prepared, with_source=bool(current.recipe.styles))):
        raise DataError("there is no dev split to choose on: prepare held nothing out; raise prepare.dev_frac")
    dev = divide_dev(rows, current.recipe.seed)
    by_epoch = steps_per_epoch(prepared.train.utterances, current.recipe.own_per_step)
    of_phases = [phase_steps(one, by_epoch) for one in train.phases]
    planned = _Plan(
        index, phase, dimensions, Space(tuple(dimensions), asked.most, choices), Rungs((), ()),
        shared_step=sum(of_phases[:index]), training_steps=sum(of_phases), phase_steps=of_phases[index],
        steps_per_loss=FORWARD_FRAC * len(dev.choosing) / train.utterances_per_step, dev=dev,
    )  # fmt: skip
    budget = asked.budget * planned.training_steps - planned.shared_step
    fewest = max(MIN_STEPS, phase.warmup_steps)
    for num in _numbers_of_trials(asked, 1 + planned.space.num_named):
        rungs = plan_rungs(
            num, most_steps=of_phases[index], budget_steps=budget, steps_per_loss=planned.steps_per_loss,
            fewest_steps=fewest,
        )  # fmt: skip
        if rungs:
            return replace(planned, rungs=rungs)
    raise RecipeError(
        f"search: {asked.budget:g} trainings leave {budget:,.0f} steps for {num} trials of phase '{phase.name}', and "
        f"each needs {fewest} steps and more; raise --budget, or give fewer --trials"
    )


def _numbers_of_trials(asked: Asked, least: int) -> Sequence[int]:
    """The numbers that may be tried, the most first; RecipeError where a value that was named would be in none."""
    if asked.num_trials is None:
        return [num for num in NUM_TRIALS if num >= least] or [least]
    if asked.num_trials < least:
        raise RecipeError(
            f"--trials {asked.num_trials}: the recipe as it is and each value of --rank and --layers are {least} "
            "trials; give as many or more, or name fewer values"
        )
    return [asked.num_trials]


class _Search:
    """A search on its way."""

    def __init__(self, current: Round, asked: Asked, plan: _Plan) -> None:
        self._current, self._asked, self._plan = current, asked, plan
        self._folder = current.folder.path / STAGE
        self._results = Results(self._folder / TRIALS)
        self._shared_step = self._begin()
        self._ids = tuple(row.utterance.id for row in plan.dev.choosing)

    def table(self) -> SearchTable:
        """Run what is missing, and say what it came to."""
        asked, plan = self._asked, self._plan
        num_gpus, num = self._current.make_way(), plan.rungs.sizes[0]
        if num_gpus and self._current.gpus > num_gpus:
            raise RecipeError(f"--gpus {self._current.gpus}: there are {num_gpus} GPUs here")
        suggest = suggestions(asked.proposals, self._folder, plan.space, self._current.recipe.seed)
        with self._current.track("search", "trials") as progress:
            done = 0

            def run(rung: int, trials: Sequence[Trial]) -> list[float]:
                nonlocal done
                work = lambda missing: self._work(rung, missing, bool(num_gpus))  # noqa: E731
                losses = self._results.measured(rung, trials, work)
                done += len(trials)
                progress(done, sum(plan.rungs.sizes))
                return losses

            trials = halve(plan.rungs, proposer(plan.space, num, suggest), run)
        best = best_of(trials)
        # The checkpoint of rates that diverged is the one that all begin at: no model to compare a trial with.
        can_confirm = best.number != OWN and plan.dev.confirming and math.isfinite(trials[OWN].losses[-1])
        confirmation = self._confirmed(trials[OWN], best) if can_confirm else None
        return self._written(trials, best, confirmation)

    def _begin(self) -> int:
        """The step that all trials begin at; trains the phases before, which are the training's own."""
        from shibolet.rounds.branches import changed_beside_train
        from shibolet.rounds.stages import begin_training, train_inputs
        from shibolet.train.branch import unchanged

        current, plan = self._current, self._plan
        if plan.index == 0:
            return 0
        before = current.recipe.train.phases[plan.index - 1].name
        asked = dict.fromkeys(plan.dimensions, 0.5)  # any other rates: what they leave of a training is what is shared
        other = training_at(current.recipe.train, plan.index, plan.dimensions, asked)
        for has_trained in (False, True):
            is_ours = not changed_beside_train(current, train_inputs(current))  # data, base, seed and the like
            found = unchanged(current.folder.train, other) if is_ours else None
            ends = [s.step for s in found.states if s.phase_ended and s.phase_index == plan.index - 1] if found else []
            if ends:
                return ends[-1]
            if not has_trained:
                begin_training(current, before)
        raise DataError(
            f"search: the training in {current.folder.train} has no checkpoint at the end of phase '{before}'"
        )

    def _job(self, trial: Trial, rung: int) -> SearchJob:
        recipe, folder = self._current.recipe, self._current.folder
        return SearchJob(
            prepared_dir=folder.prepared,
            out_dir=self._results.place(trial) / "train",
            base=recipe.models.base,
            train=_training(recipe.train, self._plan, trial),
            language=recipe.language,
            seed=recipe.seed,
            num_threads=recipe.num_threads,
            source=folder.train,
            shared_step=self._shared_step,
            until_step=self._shared_step + self._plan.rungs.ends[rung],
            shares_cache=self._current.gpus == 1,
            choosing=self._ids,
            styles=recipe.styles,
            replay=replay_of(recipe, folder),
        )

    def _work(self, rung: int, trials: Sequence[Trial], on_gpus: bool) -> Iterator[tuple[Trial, Measured]]:
        jobs = [self._job(trial, rung) for trial in trials]
        for place, made in carry_out_all(jobs, self._current.gpus, on_gpus):
            yield trials[place], made

    def _confirmed(self, own: Trial, best: Trial) -> Confirmation:
        """Kept, since the checkpoints that it is made from are not."""
        path = self._folder / CONFIRMED
        if not path.exists():
            last = len(self._plan.rungs.ends) - 1
            self._current.set_threads()
            with self._current.track("confirm on other recordings and speakers"):
                made = confirm(
                    self._job(own, last), self._job(best, last), self._plan.dev.confirming,
                    self._current.recipe.evaluate,
                )  # fmt: skip
            write_json(path, made.model_dump(mode="json"))
        return Confirmation.model_validate(read_own(path, "delete it, and it is made again"))

    def _written(self, trials: Sequence[Trial], best: Trial, confirmation: Confirmation | None) -> SearchTable:
        plan = self._plan
        admitted, why_not = is_admitted(confirmation)
        recommended = best.number if best.number != OWN and admitted else OWN
        first = [self._results.read(trial, 0) for trial in trials]
        shown = [self._searched(trial, made, first[OWN]) for trial, made in zip(trials, first, strict=True)]
        measured = next((len(made.losses) for made in first if made.losses), 0)
        if left_out := len(plan.dev.choosing) - measured if measured else 0:
            self._current.tell(
                f"search: losses are of {measured:,} dev utterances; {left_out:,} more cannot be trained on, for they "
                "are too long for the model or have no text"
            )
        return SearchTable(
            phase=plan.phase.name,
            dimensions=plan.dimensions,
            phase_steps=plan.phase_steps,
            most=self._asked.most,
            proposals=self._asked.proposals,
            rungs=tuple(SearchRung(steps=e, trials=s) for e, s in zip(plan.rungs.ends, plan.rungs.sizes, strict=True)),
            trials=tuple(shown),
            choosing_utterances=measured,
            left_out_utterances=left_out,
            confirming_utterances=len(plan.dev.confirming),
            best=best.number,
            confirmation=confirmation,
            recommended=recommended,
            sentence=_diverged(shown) or _sentence(plan, shown[best.number], confirmation, recommended, why_not),
            cost=_cost(plan, self._shared_step, self._times_own(trials)),
        )

    def _times_own(self, trials: Sequence[Trial]) -> float:
        """The time of all trained steps over that of as many of the recipe's own, where trials train other sizes."""
        if not self._plan.space.choices:
            return 1.0
        last = [(self._plan.rungs.ends[len(t.losses) - 1], self._results.read(t, len(t.losses) - 1)) for t in trials]
        own = last[OWN][1].step_s
        if not own:
            return 1.0
        return sum(steps * (made.step_s or own) for steps, made in last) / (own * sum(steps for steps, _ in last))

    def _searched(self, trial: Trial, made: Measured, own: Measured) -> SearchedTrial:
        there = trial.number != OWN and made.losses and own.losses
        group_of = self._plan.dev.group_of
        groups = [group_of[id] for id, _, _ in made.losses]
        against = loss_difference(_losses(made), _losses(own), groups) if there else None
        train = _training(self._current.recipe.train, self._plan, trial)
        phase = train.phases[self._plan.index]
        return SearchedTrial(
            number=trial.number,
            factors=dict(trial.point),
            lr_by_part=dict(phase.lr_by_part),
            warmup_steps=phase.warmup_steps,
            lora_rank=train.lora.rank if train.lora else None,
            losses=tuple(loss if loss < float("inf") else None for loss in trial.losses),
            difference=against.difference if against else None,
            interval=against.interval if against else None,
        )


def _training(train: TrainConfig, plan: _Plan, trial: Trial) -> TrainConfig:
    return training_at(train, plan.index, plan.dimensions, trial.point)


def _losses(made: Measured) -> list[LabelLoss]:
    return [LabelLoss(*one) for one in made.losses]


def _cost(plan: _Plan, shared_step: int, times_own: float) -> SearchCost:
    trained, losses = plan.rungs.trained_steps, plan.steps_per_loss * sum(plan.rungs.sizes)
    return SearchCost(
        training_steps=plan.training_steps,
        beginning_steps=shared_step,
        trial_steps=trained,
        times_own=times_own,
        loss_steps=losses,
        trainings=(shared_step + trained * times_own + losses) / plan.training_steps,
    )


def _diverged(trials: Sequence[SearchedTrial]) -> str:
    """What is said where the recipe's own rates diverge; empty: they do not. No gain is admitted against them."""
    if trials[OWN].losses[-1] is not None:
        return ""
    kept = [one for one in trials if one.losses[-1] is not None]
    others = sorted(kept, key=lambda one: (-len(one.losses), one.losses[-1]))  # as tables show them
    if not others:
        return "The recipe's own rates diverge, and so does every trial; lower train's rates, then search again."
    named = "; ".join(f"trial {one.number} ({_factors(one)})" for one in others)
    return (
        "The recipe's own rates diverge, so there is no model that a gain could be shown against, and they stay in "
        f"the recipe. These did not diverge in the steps they had: {named}. Write rates of one of them into the "
        "recipe, then search again."
    )


def _factors(trial: SearchedTrial) -> str:
    return ", ".join(f"{name} times {factor:g}" for name, factor in trial.factors.items() if factor != 1)


def _sentence(plan: _Plan, best: SearchedTrial, found: Confirmation | None, recommended: int, why_not: str) -> str:
    steps = plan.rungs.ends[-1]
    after = part_of_phase(steps, plan.phase_steps)
    if best.number == OWN:
        return f"No trial has a lower loss {after} than the recipe's own rates, which stay."
    points = f" changes WER by {found.points:+.2f} points" if found and found.points is not None else ""
    said = f"Trial {best.number} ({_factors(best)}) has the lowest loss {after}"
    if recommended == OWN:
        return f"{said} and{points or ' is not confirmed'}. That is not shown: {why_not}. The recipe's own rates stay."
    low, high = found.interval_points
    shown = f"{said} and{points} ({low:+.2f} to {high:+.2f}) on recordings and speakers that did not choose it."
    return shown if steps >= plan.phase_steps else f"{shown} A gain at the end of the phase is not shown by that."


def _keep_only(trials: Path, table: SearchTable) -> None:
    """Delete what trials have trained, but for the one that is recommended: its training goes on from there."""
    kept = next(trial for trial in table.trials if trial.number == table.recommended)
    for folder in trials.iterdir():
        if folder.name != Trial(kept.number, kept.factors).key:
            shutil.rmtree(folder / "train", ignore_errors=True)
