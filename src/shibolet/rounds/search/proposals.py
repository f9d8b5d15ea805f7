"""Which points of the space are tried: the recipe's own, each dimension alone, then what their losses suggest.

The points of a wave are a function of the seed and of the losses before it. So a search that was killed proposes the
same again, whether Optuna proposes (Akiba et al. 2019; its tree of Parzen estimators) or a quasi-random sequence.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from shibolet.errors import RecipeError
from shibolet.rounds.search.halving import OWN, Point, Trial

Sampler = Literal["optuna", "halton"]
_JOURNAL, _KEY = "optuna.journal", "key"


@dataclass(frozen=True, slots=True)
class Space:
    """Factors on a log scale, from 1/`most` to `most` in each dimension that has no `choices`."""

    dimensions: tuple[str, ...]
    most: float
    choices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # dimension -> its factors in order

    def own(self) -> Point:
        """The recipe as it is."""
        return dict.fromkeys(self.dimensions, 1.0)

    def alone(self) -> list[Point]:
        """Each dimension alone, the others as they are: all the way down, since rates that are too high do the most
        harm; then half of the way down, and half of the way up. Before them of those with choices each of these.
        """
        found = [
            self.own() | {name: factor}
            for power in (-1.0, -0.5, 0.5)
            for name in sorted(self.dimensions, key=lambda name: name not in self.choices)
            for factor in self.choices.get(name, (self._factor(power),))
            if factor != 1
        ]
        return [point for place, point in enumerate(found) if point not in found[:place]]

    def raised(self) -> Point:
        """All that has no choices half of the way up: a recipe whose rates are too low altogether."""
        return {name: 1.0 if name in self.choices else self._factor(0.5) for name in self.dimensions}

    @property
    def num_named(self) -> int:
        """Points of `alone` that were named one by one."""
        return sum(factor != 1 for factors in self.choices.values() for factor in factors)

    def at(self, places: Sequence[float]) -> Point:
        """The point of places in [0, 1], one a dimension."""
        return {name: self._at(name, place) for name, place in zip(self.dimensions, places, strict=True)}

    def places(self, point: Point) -> dict[str, float]:
        """The other way round."""
        return {name: self._place(name, point[name]) for name in self.dimensions}

    def _at(self, name: str, place: float) -> float:
        if own := self.choices.get(name):
            return own[min(len(own) - 1, int(place * len(own)))]
        return self._factor(2 * place - 1)

    def _place(self, name: str, factor: float) -> float:
        if own := self.choices.get(name):
            return (own.index(factor) + 0.5) / len(own)
        return (math.log(factor, self.most) + 1) / 2

    def _factor(self, power: float) -> float:
        return float(f"{self.most**power:.3g}")  # what a person can write


class Suggest(Protocol):
    """Proposes so many points after these trials."""

    def __call__(self, trials: Sequence[Trial], num: int) -> list[Point]: ...


def proposer(space: Space, num_trials: int, suggest: Suggest):
    """What `halve` asks: in the first wave the own and dimensions alone, then in two waves what is suggested.

    Half of the trials are of the first wave, or more where it takes more to have each dimension in it, each value that
    was named, and all rates raised together.
    """
    in_each = space.num_named + sum(name not in space.choices for name in space.dimensions)
    most, alone = max(num_trials // 2 + 1, 2 + in_each), space.alone()
    first = [space.own(), *alone[:in_each], space.raised(), *alone[in_each:]][: min(most, num_trials)]
    first = [point for place, point in enumerate(first) if point not in first[:place]]

    def propose(trials: Sequence[Trial]) -> list[Point]:
        if not trials:
            return first
        return suggest(trials, max(1, math.ceil((num_trials - len(first)) / 2)))

    return propose


def halton(space: Space, seed: int) -> Suggest:
    """A scrambled Halton sequence (Owen 2017), whatever the losses are."""
    from scipy.stats import qmc

    def suggest(trials: Sequence[Trial], num: int) -> list[Point]:
        drawn = qmc.Halton(len(space.dimensions), scramble=True, rng=seed).fast_forward(len(trials)).random(num)
        return [space.at(row.tolist()) for row in drawn]

    return suggest


def require_optuna(sampler: Sampler) -> None:
    """RecipeError where Optuna is asked for and not installed."""
    if sampler == "optuna" and importlib.util.find_spec("optuna") is None:
        raise RecipeError(
            "search: optuna proposes the trials, and it is not installed; pip install 'shibolet[search]', or do "
            "without it: --proposals halton"
        )


class OptunaStudy:
    """Proposals of Optuna; its study is a journal in the folder of the search, which its own tools read.

    The journal gets a trial once its first loss is known, in one entry. Proposals are asked of a copy in memory: an
    Optuna trial that a kill left half begun would change those after it.
    """

    def __init__(self, folder: Path, space: Space, seed: int) -> None:
        require_optuna("optuna")
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._seed = optuna, space, seed
        self._distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in space.dimensions}
        folder.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / _JOURNAL)))
        self._kept = optuna.create_study(study_name="search", storage=storage, load_if_exists=True)

    def __call__(self, trials: Sequence[Trial], num: int) -> list[Point]:
        self.tell(trials)
        sampler = self._optuna.samplers.TPESampler(
            seed=self._seed + len(trials), n_startup_trials=0 if trials else num, multivariate=True, constant_liar=True
        )
        study = self._optuna.create_study(sampler=sampler)
        study.add_trials([self._told(trial) for trial in trials])
        asked = [study.ask(self._distributions) for _ in range(num)]
        return [self._space.at([one.params[name] for name in self._space.dimensions]) for one in asked]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Keep those that the journal does not have."""
        known = {trial.user_attrs.get(_KEY) for trial in self._kept.get_trials(deepcopy=False)}
        for trial in trials:
            if trial.key not in known:
                self._kept.add_trial(self._told(trial))

    def _told(self, trial: Trial) -> Any:
        """A trial as Optuna knows it: its loss after the first rung, which all trials have."""
        loss = trial.losses[0]
        states = self._optuna.trial.TrialState
        return self._optuna.trial.create_trial(
            state=states.COMPLETE if math.isfinite(loss) else states.FAIL,
            value=loss if math.isfinite(loss) else None,
            params={name: min(1.0, max(0.0, place)) for name, place in self._space.places(trial.point).items()},
            distributions=self._distributions,
            user_attrs={_KEY: trial.key, "own": trial.number == OWN},
        )


def suggestions(sampler: Sampler, folder: Path, space: Space, seed: int) -> Suggest:
    """Who proposes, by name."""
    return OptunaStudy(folder, space, seed) if sampler == "optuna" else halton(space, seed)
