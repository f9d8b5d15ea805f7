"""Successive halving (Jamieson and Talwalkar, 2016): many short trials, of which the better half goes on, and again.

What a trial is, who proposes its point and how its loss is measured are given as functions. A loss that was measured
is in a file: a search that was killed goes on with those that are missing, and comes to the same table.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shibolet.records.files import hash_json, write_json
from shibolet.records.reading import read_as

OWN = 0  # the trial that changes nothing: it takes part in every rung, and all others are compared with it
FEWEST_TRIALS = 4
_REMEDY = "delete it, and it is measured again"

Point = Mapping[str, float]  # dimension -> factor


@dataclass(frozen=True, slots=True)
class Rungs:
    """How many trials are trained how far."""

    ends: tuple[int, ...]  # steps of a trial at the end of each rung
    sizes: tuple[int, ...]  # trials in each rung

    @property
    def trained_steps(self) -> int:
        """Of all trials together."""
        starts = (0, *self.ends)
        return sum(size * (end - start) for size, start, end in zip(self.sizes, starts, self.ends))


@dataclass(frozen=True, slots=True)
class Trial:
    """A point, and the loss at the end of each rung that it took part in."""

    number: int
    point: Point
    losses: tuple[float, ...] = ()  # infinite: it diverged

    @property
    def key(self) -> str:
        """The name of its folder: a point that is proposed differently after an update is another trial."""
        return f"{self.number:03d}-{hash_json(dict(self.point))[:8]}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a trial came to at the end of a rung."""

    losses: tuple[tuple[str, float, int], ...]  # dev utterance, nats summed over its labels, labels; none: it diverged
    why: str = ""  # there are none
    step_s: float | None = None  # the median step of its training; None: it diverged

    @property
    def loss(self) -> float:
        """Nats a label; infinite for a trial that diverged."""
        if not self.losses:
            return math.inf
        return math.fsum(loss for _, loss, _ in self.losses) / sum(labels for _, _, labels in self.losses)


Propose = Callable[[Sequence[Trial]], Sequence[Point]]  # trials with their losses -> points of the next wave
Work = Callable[[Sequence[Trial]], Iterable[tuple[Trial, Measured]]]
Run = Callable[[int, Sequence[Trial]], Sequence[float]]  # rung, trials -> the loss of each at the end of it


def rung_sizes(num_trials: int) -> tuple[int, ...]:
    """Half go on, rounded up, until the recipe's own and one other are left."""
    sizes = [num_trials]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return tuple(sizes)


def plan_rungs(
    num_trials: int, *, most_steps: int, budget_steps: float, steps_per_loss: float, fewest_steps: int
) -> Rungs | None:
    """The longest rungs that a budget of steps holds, each twice as long as all before it together.

    A trial may have `most_steps`; measuring a loss costs as much as `steps_per_loss`. None where the first rung would
    have less than `fewest_steps`.
    """
    sizes = rung_sizes(num_trials)
    times_first = sizes[0] + sum(size << max(0, rung - 1) for rung, size in enumerate(sizes) if rung)
    left = budget_steps - steps_per_loss * sum(sizes)
    first = min(math.floor(left / times_first), most_steps >> (len(sizes) - 1))
    if first < max(1, fewest_steps):
        return None
    return Rungs(tuple(first << rung for rung in range(len(sizes))), sizes)


def survivors(trials: Sequence[Trial], num: int) -> list[Trial]:
    """So many with the lowest last losses, in the order of their numbers; the recipe's own is always one of them."""
    others = sorted((t for t in trials if t.number != OWN), key=lambda t: (_comparable(t.losses[-1]), t.number))
    kept = {OWN, *(trial.number for trial in others[: num - 1])}
    return [trial for trial in trials if trial.number in kept]


def best_of(trials: Sequence[Trial]) -> Trial:
    """Of those that came furthest the one with the lowest loss; of equal ones the first."""
    furthest = max(len(trial.losses) for trial in trials)
    return min(
        (t for t in trials if len(t.losses) == furthest), key=lambda t: (_comparable(t.losses[-1]), t.number)
    )  # fmt: skip


def halve(rungs: Rungs, propose: Propose, run: Run) -> list[Trial]:
    """Every trial with the losses that it came to.

    Points are asked for in waves: those of a later wave follow from the losses that the earlier ones have after the
    first rung. Within a wave and within a rung, trials may run in any order or at once.
    """
    trials: list[Trial] = []
    while (missing := rungs.sizes[0] - len(trials)) > 0:
        points = list(propose(trials))[:missing]
        wave = [Trial(len(trials) + place, point) for place, point in enumerate(points)]
        trials += _with_losses(wave, run(0, wave))
    alive = trials
    for rung, size in enumerate(rungs.sizes[1:], start=1):
        alive = survivors(alive, size)
        done = {trial.number: trial for trial in _with_losses(alive, run(rung, alive))}
        trials = [done.get(trial.number, trial) for trial in trials]
        alive = [trial for trial in trials if trial.number in done]
    return trials


def _with_losses(trials: Sequence[Trial], losses: Sequence[float]) -> list[Trial]:
    return [replace(t, losses=(*t.losses, loss)) for t, loss in zip(trials, losses, strict=True)]


def _comparable(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


class Results:
    """What trials came to, a file for each trial and rung, whole or not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, trial: Trial) -> Path:
        """The folder of a trial."""
        return self._folder / trial.key

    def read(self, trial: Trial, rung: int) -> Measured:
        """What was kept; DataError where nothing was."""
        return read_as(self._path(trial, rung), Measured, _REMEDY)

    def measured(self, rung: int, trials: Sequence[Trial], work: Work) -> list[float]:
        """The loss of each; `work` makes the results that are missing, in any order, and each is kept at once."""
        missing = [trial for trial in trials if not self._path(trial, rung).exists()]
        for trial, made in work(missing) if missing else ():
            write_json(self._path(trial, rung), asdict(made))
        return [self.read(trial, rung).loss for trial in trials]

    def _path(self, trial: Trial, rung: int) -> Path:
        return self.place(trial) / f"rung-{rung}.json"
