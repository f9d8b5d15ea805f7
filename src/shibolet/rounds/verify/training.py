"""Some steps in each phase through the train stage itself, cut off once: losses, what moved, what steps took."""

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import torch

from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.dev import ScoreDev, dev_scorer, read_dev
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.parts import trainable_names
from shibolet.model.protocols import Prompt
from shibolet.prepare.pieces import Piece
from shibolet.prepare.shards import ShardWriter
from shibolet.records.documents.plan import PhasePlan, Plan
from shibolet.records.documents.training import DevRates, StepRow
from shibolet.rounds.verify.subject import FEWEST, Clip, Outcome, mean_loss, outcome, tell
from shibolet.speech.audio import encode_flac
from shibolet.train.config import TrainConfig
from shibolet.train.phases import add_adapters
from shibolet.train.stage import run_train

AFTER_CHECKPOINT = 3  # steps that are trained, lost and trained again
LEARNED = 0.05  # nats a token: less cannot be expected to fall
REPEATED = 1e-3  # by which the loss of a repeated step may differ on a GPU, whose sums have no fixed order
MOST_MEMORY, LEAST_MEMORY, MOST_TIME = 1.15, 0.6, 1.5  # times the plan's figure
WARM_STEPS = 5  # of a phase, whose times are not counted


def free() -> None:
    """Give a GPU's memory back, and measure its peak from here."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class CutOff(Exception):
    """Ends a training in the middle, as a crash would."""


@dataclass(frozen=True, slots=True)
class PhaseEnd:
    """The model where a phase ends."""

    loss: float  # of the clips' texts, nats a token
    trainable: set[str]
    moved: set[str]  # weights that are not those of the base


@dataclass
class Trial:
    """What a training showed while it ran."""

    base: LoadedModel  # on the CPU, with adapters, as it was before
    language: str
    clips: Sequence[Clip]
    score: ScoreDev
    rows: list[StepRow] = field(default_factory=list)
    lost: list[StepRow] = field(default_factory=list)  # of steps that the cut undid
    ends: list[PhaseEnd] = field(default_factory=list)

    def score_dev(self, live: LoadedModel, when: str) -> DevRates:
        """Look at the model at the end of a phase (`when` says so), and score it on dev as a round does."""
        ids = live.family.targets(live.tokenizer, Prompt(self.language)).encode([clip.text for clip in self.clips])
        told = tell(live, self.language, [clip.samples for clip in self.clips], ids)
        weights, trainable = dict(self.base.model.named_parameters()), trainable_names(live.model)
        moved = {
            name
            for name, weight in live.model.named_parameters()
            if not torch.equal(weight.detach().cpu(), weights[name])
        }
        self.ends.append(PhaseEnd(mean_loss(told), trainable, moved))
        scores = self.score(live)
        free()  # what scoring took is not what a step takes
        return DevRates(wer=scores.wer.rate, cer=scores.cer.rate, folds=scores.folds)


def prepare_clips(clips: Sequence[Clip], language: str, out_dir: Path) -> None:
    """Shards as `prepare` writes them: all clips train, the first ones are dev too."""
    for split, some in (("train", clips), ("dev", clips[:FEWEST])):
        writer = ShardWriter(out_dir, split, shard_utterances=len(clips))
        for clip in some:
            flac = encode_flac(clip.samples)
            writer.add(Piece.whole(clip.as_piece(language), flac), flac)
        writer.close()


def train(
    model: str, config: TrainConfig, clips: Sequence[Clip], language: str, seed: int, work_dir: Path,
    tell_step: Callable[[int, int], None], loss_before: float,
) -> dict[str, Outcome]:  # fmt: skip
    """The checks `training`, `resume` and `plan`; the model is then in `<work_dir>/train/final`."""
    prepared, out = work_dir / "prepared", work_dir / "train"
    prepared.mkdir(parents=True)
    prepare_clips(clips, language, prepared)
    base = load_recogniser(model, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[config.precision])
    add_adapters(base.model, config, seed)
    trial = Trial(base, language, clips[:FEWEST], dev_scorer(read_dev(prepared), language, EvaluateConfig()))
    cut_at = config.checkpoint_every_steps + AFTER_CHECKPOINT
    total = 2 * config.checkpoint_every_steps * len(config.phases)

    def start(on_step: Callable[[StepRow], None]) -> None:
        run_train(
            prepared_dir=prepared, out_dir=out, base=model, config=config, language=language, seed=seed,
            score_dev=trial.score_dev, release_dev=trial.score.release, about={}, on_step=on_step,
        )  # fmt: skip

    def until_cut(row: StepRow) -> None:
        trial.lost.append(row)
        tell_step(row.step, total)
        if row.step == cut_at:
            raise CutOff

    def to_the_end(row: StepRow) -> None:
        trial.rows.append(row)
        tell_step(row.step, total)

    free()
    with suppress(CutOff):
        start(until_cut)
    free()
    start(to_the_end)
    first = trial.rows[0].step
    rows = [row for row in trial.lost if row.step < first] + trial.rows
    plan = Plan.read(out / "plan.json")
    return {
        "training": _training(trial, config, rows, loss_before),
        "resume": _resume(trial, cut_at),
        "plan": _plan(plan, config, rows),
    }


def _training(trial: Trial, config: TrainConfig, rows: Sequence[StepRow], loss_before: float) -> Outcome:
    """Losses fall, what is frozen stays bit for bit, what trains moves."""
    family, faults, numbers = trial.base.family, [], {"loss_before": loss_before}
    trained: set[str] = set()
    for phase, end in zip(config.phases, trial.ends, strict=True):
        own = [row for row in rows if row.phase == phase.name]
        numbers[f"loss_after_{phase.name}"] = end.loss
        numbers[f"first_step_losses_{phase.name}"] = _mean_loss(own[:5])
        numbers[f"last_step_losses_{phase.name}"] = _mean_loss(own[-5:])
        numbers[f"trainable_tensors_{phase.name}"] = len(end.trainable)
        trained |= end.trainable
        if thawed := sorted(end.moved - trained):
            faults.append(
                f"phase {phase.name}: {len(thawed)} frozen weights have changed (first: '{thawed[0]}'); report it with "
                "this file"
            )
        still = {family.part_of(name) for name in end.trainable} - {
            family.part_of(name) for name in end.moved & end.trainable
        }
        if still:
            part, layer = sorted(still, key=str)[0]
            where = part if layer is None else f"{part}[{layer}]"
            faults.append(
                f"phase {phase.name}: no weight of {where} has moved, though it trains; report it with this file"
            )
        if skipped := [row.step for row in own if row.skipped]:
            faults.append(
                f"phase {phase.name}: {len(skipped)} steps had no finite loss or gradient (first: {skipped[0]})"
            )
    after = trial.ends[-1].loss
    if not (after < loss_before or after < LEARNED):
        faults.append(
            f"the loss of the texts that were trained on was {loss_before:.3f} a token before and is {after:.3f} after "
            f"{len(rows)} steps: training does not learn; report it with this file"
        )
    losses = ", ".join(
        f"{end.loss:.3f} after {phase.name}" for phase, end in zip(config.phases, trial.ends, strict=True)
    )
    good = (
        f"{len(rows)} steps; loss of the texts {loss_before:.3f} before, {losses}; in each phase frozen weights stayed "
        "bit for bit and every part that trains moved"
    )
    return outcome(faults, [], good, numbers)


def _mean_loss(rows: Sequence[StepRow]) -> float:
    losses = [row.loss for row in rows if row.loss is not None]
    return mean(losses) if losses else math.nan


def _resume(trial: Trial, cut_at: int) -> Outcome:
    """Steps that were trained twice, before a cut and after it."""
    again = {row.step: row.loss for row in trial.rows}
    pairs = [
        (row.loss, again[row.step]) for row in trial.lost if row.loss is not None and again.get(row.step) is not None
    ]
    if not pairs:
        return Outcome("failed", (f"the training did not go on from its checkpoint before step {cut_at}",))
    largest = max(abs(before - after) / max(abs(before), 1e-12) for before, after in pairs)
    numbers = {"repeated_steps": len(pairs), "max_relative_difference": largest}
    on_cpu = trial.rows[0].memory is None
    if largest > (0.0 if on_cpu else REPEATED):
        return outcome(
            [f"steps that were trained again after a cut have other losses (by {largest:.2g})"], [], "", numbers
        )
    exactly = "the same losses bit for bit" if largest == 0 else f"the same losses within {largest:.1g}"
    return outcome(
        [], [], f"cut off after step {cut_at}; {len(pairs)} steps were trained again with {exactly}", numbers
    )


def _plan(plan: Plan, config: TrainConfig, rows: Sequence[StepRow]) -> Outcome:
    """Memory and time of a step against what the plan said of this GPU."""
    timing = {f"step_{phase.name}": _step_s(rows, phase.name) for phase in config.phases}
    if rows[0].memory is None:
        return Outcome("not done", ("there is no plan of memory and time for a CPU",), {}, timing)
    faults, notes, said, numbers = [], [], [], {}
    for phase in plan.phases:
        peak = max(row.memory.allocated_peak_gib for row in rows if row.phase == phase.name)
        step_s, planned = timing[f"step_{phase.name}"], phase.peak_tensors_gib + phase.gib["workspace"]
        numbers |= {f"peak_gib_{phase.name}": peak, f"planned_peak_gib_{phase.name}": planned}
        if phase.step_s is not None:
            timing[f"planned_step_{phase.name}"] = phase.step_s
        said.append(_against(phase, peak, planned, step_s))
        if peak > MOST_MEMORY * planned:
            faults.append(
                f"{said[-1]}: more memory than planned; lower train.pack_tokens, and report it with this file"
            )
        elif peak < LEAST_MEMORY * planned:
            notes.append(f"{said[-1]}: less memory than planned, so packs could be larger")
        if phase.step_s is not None and step_s > MOST_TIME * phase.step_s:
            notes.append(f"{said[-1]}: slower than planned; is the GPU shared, throttled, or waiting for data?")
    found = outcome(faults, notes, "; ".join(said), numbers)
    return Outcome(found.state, found.sentences, numbers, timing)


def _step_s(rows: Sequence[StepRow], phase: str) -> float:
    times = [row.timing.step_s for row in rows if row.phase == phase]
    return round(median(times[WARM_STEPS:] or times), 4)


def _against(phase: PhasePlan, peak_gib: float, planned_gib: float, step_s: float) -> str:
    planned = "not planned for this GPU" if phase.step_s is None else f"planned {phase.step_s:.2f} s"
    return (
        f"phase {phase.name}: {peak_gib:.1f} GiB of tensors at most (planned {planned_gib:.1f}), "
        f"{step_s:.2f} s a step ({planned})"
    )
