"""How fast a round goes, stretch by stretch: as measured on a kind of machine, or by a finished round.

A stretch that nobody measured has no rate, and a plan then says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from shibolet.errors import DataError
from shibolet.records.documents.timings import StageTime, TrainTime, read_times
from shibolet.records.runpaths import RunPaths

HEAR, REST, AGAIN, PREPARE = "hear", "rest", "again", "prepare"
START, CHECKPOINT, DEV, END = "start", "checkpoint", "dev", "end"
SETS, SCORE, PAGES = "sets", "score", "pages"
CPU = "CPU"
HEARD_FRAC = 0.9  # of an audit's clips


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """The seconds of a stretch: some whatever its size, the rest by how much is done."""

    start_s: float = 0.0
    per_s: float = inf  # of the unit
    unit: Literal["clips", "audio s", "utterances", "times"] = "times"
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What prepare made of the training data of a finished round."""

    given: int  # utterances
    train: int
    dev: int
    mean_s: float  # of an utterance

    def of(self, rows: int, kept: int) -> int:
        """So many of `rows`, if as large a share stays."""
        return round(rows * kept / self.given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """The rates of one machine."""

    machine: str
    num_gpus: int  # 0: a CPU
    by_stretch: Mapping[str, Rate]
    by_phase: Mapping[str, Rate] | None = None  # of a step, by phase; None: the training plan predicts it
    kept: Kept | None = None  # None: all rows train


_STRETCHES = 'benchmarks/RESULTS.md, "The whole round, stretch by stretch": one H200, 10 h'
_GPU = {
    HEAR: Rate(start_s=23, per_s=313, unit="clips", source=_STRETCHES),
    REST: Rate(per_s=313, unit="clips", source=_STRETCHES),
    AGAIN: Rate(per_s=313, unit="clips", source=_STRETCHES),
    PREPARE: Rate(per_s=9000, unit="audio s", source=_STRETCHES),
    START: Rate(start_s=10.1, source=_STRETCHES),
    CHECKPOINT: Rate(per_s=1 / 0.22, source=_STRETCHES),  # the loop stands still; steps beside the writing are slower
    DEV: Rate(per_s=300, unit="utterances", source=_STRETCHES),
    END: Rate(start_s=14.4, source=_STRETCHES),
    SETS: Rate(per_s=313, unit="clips", source=_STRETCHES),
    SCORE: Rate(start_s=4.2, per_s=700, unit="audio s", source=_STRETCHES),
    PAGES: Rate(start_s=7.1, source=_STRETCHES),
}
_TINY_ON_CPU = 'benchmarks/RESULTS.md, "How fast an audit listens": the tiny models on 2 cores'


_OF_NO_MODEL = (PREPARE, PAGES)


def rates_of(gpu: str, num_gpus: int, is_tiny: bool, is_timed: bool = True) -> Rates:
    """What was measured on a kind of machine.

    `is_tiny`: the model is small enough for a CPU; `is_timed`: it is of the family whose rounds were measured.
    """
    if gpu != CPU:
        by_stretch = {} if is_tiny else {name: _GPU[name] for name in (_GPU if is_timed else _OF_NO_MODEL)}
        return Rates(machine=f"{num_gpus} x {gpu}", num_gpus=num_gpus, by_stretch=by_stretch)
    heard = Rate(per_s=10.4, unit="clips", source=_TINY_ON_CPU)
    by_stretch = {HEAR: heard, REST: heard, SETS: heard} if is_tiny and is_timed else {}
    return Rates(machine=CPU, num_gpus=0, by_stretch=by_stretch)


def rates_from(run_dir: Path, parameters: int) -> Rates:
    """The rates of a finished round; DataError where it kept no times, was cut off, or had a model of another size."""
    path = RunPaths(run_dir).timings
    if not path.is_file():
        raise DataError(f"--rates-from: there is no {path}; name the run folder of a round that was finished")
    lines = [line for line in read_times(path) if line.is_whole]  # the last of a stage counts
    trained = [line for line in lines if line.training]
    if not trained:
        raise DataError(
            f"--rates-from: {run_dir} has no training that ran without a break; take a round that was not cut off"
        )
    times, training = {line.stage: line for line in lines}, trained[-1].training
    if training.parameters != parameters:
        raise DataError(
            f"--rates-from: {run_dir} trained a model of {training.parameters:,} weights, and this recipe's has "
            f"{parameters:,}; take a round of the same model"
        )
    prepared = next((line for line in reversed(lines) if line.stage == PREPARE), None)
    where = f"{training.gpus} GPUs" if training.gpus else f"{trained[-1].cpus} CPU cores"
    source = str(run_dir)
    return Rates(
        machine=f"{where}, as {run_dir} took it",
        num_gpus=training.gpus,
        by_stretch=_of_stages(times, prepared, source) | _of_training(training, source),
        by_phase={
            name: Rate(per_s=phase.utterances / phase.seconds, unit="utterances", source=source)
            for name, phase in training.phases.items()
            if phase.seconds
        },
        kept=_kept(prepared),
    )


def _of_stages(times: Mapping[str, StageTime], prepared: StageTime | None, source: str) -> dict[str, Rate]:
    found: dict[str, Rate] = {}
    for stretch, stage in ((HEAR, "audit"), (REST, "hear-rest"), (AGAIN, "audit-prepared")):
        line = times.get(stage)
        # An audit that found most of it heard says nothing of hearing; that of what was kept always finds some.
        if line and line.done.clips and (stretch == AGAIN or _was_heard(line)):
            found[stretch] = Rate(per_s=line.done.clips / line.seconds, unit="clips", source=source)
    if prepared and prepared.done.utterances:
        found[PREPARE] = Rate(per_s=prepared.done.utterances / prepared.seconds, unit="utterances", source=source)
    if heard := [line for line in _under(times, "audit-sets/") if line.done.clips and _was_heard(line)]:
        num, seconds = sum(line.done.clips for line in heard), sum(line.seconds for line in heard)
        found[SETS] = Rate(per_s=num / seconds, unit="clips", source=source)
    if scored := [line for line in _under(times, "evaluate/") if line.done.utterances]:
        num, seconds = sum(line.done.utterances for line in scored), sum(line.seconds for line in scored)
        found[SCORE] = Rate(per_s=num / seconds, unit="utterances", source=source)
    if pages := [times[name].seconds for name in ("gate", "gate-prepared", "compare", "report") if name in times]:
        found[PAGES] = Rate(start_s=sum(pages), source=source)
    return found


def _under(times: Mapping[str, StageTime], head: str) -> list[StageTime]:
    return [line for stage, line in times.items() if stage.startswith(head)]


def _was_heard(line: StageTime) -> bool:
    return line.done.heard >= HEARD_FRAC * line.done.clips


def _of_training(spent: TrainTime, source: str) -> dict[str, Rate]:
    found = {START: Rate(start_s=spent.start_s, source=source), END: Rate(start_s=spent.end_s, source=source)}
    if spent.checkpoints:
        found[CHECKPOINT] = Rate(per_s=spent.checkpoints / spent.checkpoints_s, source=source)
    if spent.dev_utterances and spent.dev_s:
        found[DEV] = Rate(per_s=spent.dev_utterances / spent.dev_s, unit="utterances", source=source)
    return found


def _kept(line: StageTime | None) -> Kept | None:
    if line is None or not line.done.utterances:
        return None
    done = line.done
    return Kept(given=done.utterances, train=done.train, dev=done.dev, mean_s=done.audio_s / done.utterances)
