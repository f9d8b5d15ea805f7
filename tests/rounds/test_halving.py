"""Successive halving and its proposals, on losses that are a formula: budget, order, kills, Optuna."""

import math
import random
from pathlib import Path

import pytest

from shibolet.errors import RecipeError
from shibolet.rounds.search import proposals
from shibolet.rounds.search.halving import OWN, Measured, Results, Rungs, Trial, best_of, halve, plan_rungs, survivors
from shibolet.rounds.search.proposals import Space, halton, proposer, suggestions

SPACE = Space(("encoder", "decoder", "head"), 10.0)
BEST = {"encoder": 0.1, "decoder": 1.0, "head": 3.0}  # where the formula has its lowest loss


def loss_of(trial: Trial, rung: int) -> float:
    far = sum(math.log10(trial.point[name] / BEST[name]) ** 2 for name in BEST)
    return far + 1 / (1 + rung)


def search(folder: Path, sampler: str, num_trials: int = 16, die=lambda: None, order: random.Random | None = None):
    """A search of the formula; gives its trials and how many losses were measured."""
    measured, results = [], Results(folder / "trials")

    def work(rung, trials):
        trials = list(trials)
        if order:
            order.shuffle(trials)
        for trial in trials:
            die()
            measured.append((trial.number, rung))
            yield trial, Measured((("u", loss_of(trial, rung), 1),))
            die()

    rungs = plan_rungs(num_trials, most_steps=500, budget_steps=1000, steps_per_loss=1, fewest_steps=4)
    trials = halve(
        rungs,
        proposer(SPACE, num_trials, suggestions(sampler, folder, SPACE, 7)),
        lambda rung, trials: results.measured(rung, trials, lambda missing: work(rung, missing)),
    )  # fmt: skip
    return trials, measured


SAMPLERS = ["halton", "optuna"]


@pytest.fixture(params=SAMPLERS)
def sampler(request) -> str:
    if request.param == "optuna":
        pytest.importorskip("optuna")
    return request.param


@pytest.mark.parametrize("num_trials", [2, 3, 4, 5, 11, 16, 24])
@pytest.mark.parametrize("budget", [37, 100, 266, 5000])
def test_what_is_trained_stays_within_the_budget_and_uses_it(num_trials: int, budget: int):
    """Protects from a search that costs more than it says, and from one that leaves half of its budget."""
    rungs = plan_rungs(num_trials, most_steps=10**6, budget_steps=budget, steps_per_loss=0.5, fewest_steps=1)
    if rungs is None:
        assert budget < 2 * (num_trials * 4)
        return
    trained, longer = rungs.trained_steps, Rungs(tuple(2**i * (rungs.ends[0] + 1) for i in range(9)), rungs.sizes)
    losses = 0.5 * sum(rungs.sizes)
    assert trained + losses <= budget < longer.trained_steps + losses
    assert rungs.sizes[0] == num_trials and rungs.sizes[-1] == 2


def test_no_trial_is_longer_than_the_phase():
    """The schedule of rates is the training's own: there are no steps after its last."""
    rungs = plan_rungs(8, most_steps=40, budget_steps=10**6, steps_per_loss=0, fewest_steps=1)
    assert rungs.ends == (10, 20, 40)
    assert plan_rungs(8, most_steps=40, budget_steps=10**6, steps_per_loss=0, fewest_steps=11) is None


def test_the_recipes_own_goes_through_every_rung_and_a_diverged_trial_through_none():
    """Without it there is nothing to compare with; a loss that is no number must not sort before others."""
    trials = [Trial(n, {}, (loss,)) for n, loss in enumerate([9.0, math.nan, 0.5, math.inf, 0.4, 0.6])]
    assert [trial.number for trial in survivors(trials, 3)] == [OWN, 2, 4]
    assert best_of(trials).number == 4


def test_the_search_finds_what_is_better_than_the_recipes_own(tmp_path: Path, sampler: str):
    trials, measured = search(tmp_path, sampler)
    assert [len([t for t in trials if len(t.losses) > rung]) for rung in range(4)] == [16, 8, 4, 2]
    assert sorted(measured) == sorted({(t.number, r) for t in trials for r in range(len(t.losses))})
    best = best_of(trials)
    assert best.number != OWN and best.losses[-1] < trials[OWN].losses[-1] - 0.5
    assert len({t.key for t in trials}) == 16 and all(0.1 <= f <= 10 for t in trials for f in t.point.values())


def test_each_dimension_is_tried_alone(tmp_path: Path):
    """What the picture of one part shows is of that part and of no other."""
    trials, _ = search(tmp_path, "halton")
    assert trials[4].point == dict.fromkeys(SPACE.dimensions, 3.16), "all raised together"
    alone = [t.point for t in [*trials[1:4], *trials[5:9]]]
    assert trials[OWN].point == SPACE.own()
    assert [sum(f != 1 for f in point.values()) for point in alone] == [1] * 7
    assert [max(point, key=lambda name: point[name] != 1) for point in alone[:3]] == list(SPACE.dimensions)
    assert {f for point in alone[:3] for f in point.values()} == {1.0, 0.1}
    assert {f for point in alone for f in point.values()} == {1.0, 0.1, 0.316, 3.16}


def test_with_few_trials_each_dimension_is_lowered_alone(tmp_path: Path):
    """A few random points of five rates changed four that were right with the one that was wrong, and found nothing."""
    trials, _ = search(tmp_path, "halton", num_trials=4)
    assert [t.point for t in trials] == [SPACE.own(), *(SPACE.own() | {name: 0.1} for name in SPACE.dimensions)]


class Killed(BaseException):
    """As by SIGKILL: nothing of ours catches it."""


def test_killed_at_random_it_comes_to_the_same_table(tmp_path: Path, sampler: str):
    """At any moment, ten times, with trials in any order: no loss twice, no other proposals."""
    whole, _ = search(tmp_path / "whole", sampler)
    rng, kills = random.Random(3), 0

    def die() -> None:
        nonlocal kills
        if kills < 10 and rng.random() < 0.2:
            kills += 1
            raise Killed

    while True:
        try:
            found, measured = search(tmp_path / "killed", sampler, die=die, order=rng)
            break
        except Killed:
            continue
    assert kills == 10 and found == whole
    assert len(measured) < 30, "the last start must have found results of those before it"


def test_optuna_keeps_a_study_that_its_own_tools_read(tmp_path: Path):
    optuna = pytest.importorskip("optuna")
    trials, _ = search(tmp_path, "optuna")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    kept = optuna.load_study(study_name="search", storage=storage).trials
    assert len(kept) >= 11 and [one.user_attrs["key"] for one in kept] == [t.key for t in trials[: len(kept)]]
    assert [one.value for one in kept] == [t.losses[0] for t in trials[: len(kept)]]


def test_without_optuna_the_sentence_names_the_extra(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(proposals.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'shibolet\[search\]'.*--proposals halton"):
        suggestions("optuna", tmp_path, SPACE, 0)


def test_the_sequence_goes_on_where_it_was(tmp_path: Path):
    """Protects from the same points in a later wave."""
    draw = halton(SPACE, 1)
    first, later = draw([], 4), draw([Trial(n, {}) for n in range(4)], 4)
    assert draw([], 8) == first + later
