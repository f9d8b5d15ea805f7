"""`shibolet search` over ranks of adapters and numbers of thawed layers: values, what is refused, and the cost."""

import pytest

from shibolet.errors import RecipeError
from shibolet.recipe import load_recipe
from shibolet.rounds.search.dimensions import RANK, dimensions_of, layer_choices, rank_choices, training_at
from shibolet.rounds.search.halving import Trial
from shibolet.rounds.search.proposals import Space, halton, proposer
from shibolet.rounds.search.stage import Asked, _numbers_of_trials
from shibolet.train.config import LoraSettings

TRAIN = load_recipe("demo").train  # rank 8 and alpha 16; its last phase thaws encoder.layers[0:6], decoder.layers[2:4]


def test_a_number_of_layers_ends_at_the_recipes_last_one_and_keeps_its_rate():
    """A rate that stayed with the old name would train the old span."""
    layers, choices = layer_choices(TRAIN, 1, ["encoder=2", "encoder=3"])
    assert layers == {"encoder layers": ("encoder.layers[0:6]",)} and choices == {"encoder layers": (2 / 6, 0.5, 1.0)}
    dimensions = dimensions_of(TRAIN.phases[1], ("encoder",), warmup=False) | layers
    found = training_at(TRAIN, 1, dimensions, {"encoder": 0.1, "encoder layers": 2 / 6}).phases[1].lr_by_part
    own = TRAIN.phases[1].lr_by_part
    assert found == {
        "encoder.layers[4:6]" if part == "encoder.layers[0:6]" else part: pytest.approx(
            rate * (0.1 if part.startswith("encoder") else 1)
        )
        for part, rate in own.items()
    }
    assert training_at(TRAIN, 1, dimensions, dict.fromkeys(dimensions, 1.0)) == TRAIN, "the own trial changes nothing"


def test_a_rank_keeps_the_scale_of_the_adapters():
    """Else a larger rank would have a smaller rate, and the two could not be told apart."""
    choices = rank_choices(TRAIN, 0, [32, 4])
    assert choices == {RANK: (0.5, 1.0, 4.0)}
    found = training_at(TRAIN, 0, {RANK: ()}, {RANK: 4.0}).lora
    assert (found.rank, found.alpha) == (32, 64)
    odd = TRAIN.model_copy(update={"lora": LoraSettings(rank=16, alpha=24)})
    assert rank_choices(odd, 0, [6]) == {RANK: (6 / 16, 1.0)}
    with pytest.raises(RecipeError, match=r"--rank 5: .* alpha would be 7\.5, .* give multiples of 2"):
        rank_choices(odd, 0, [5])


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("encoder=7", "give a number from 1 to 6"),
        ("encoder=none", "give a number from 1 to 6"),
        ("decoder=3", r"decoder.layers\[1:4\] would share layers with decoder.layers\[0:2\]"),
        ("projector=1", "name one span of layers of phase 'A'"),
    ],
)
def test_layers_that_cannot_be_thawed_are_one_sentence(asked: str, why: str):
    """Before any trial: training would refuse an adapted layer that is thawed after hours."""
    with pytest.raises(RecipeError, match=why):
        layer_choices(TRAIN, 1, [asked])


def test_another_rank_after_the_first_phase_is_refused():
    """The checkpoint that trials share has adapters of the recipe's rank: no trial could begin at it."""
    with pytest.raises(RecipeError, match="search the rank with --phase B"):
        rank_choices(TRAIN, 1, [4])
    with pytest.raises(RecipeError, match="trains no adapters"):
        rank_choices(TRAIN.model_copy(update={"lora": None}), 0, [4])


def test_only_values_that_were_named_are_proposed_and_each_is_tried_alone():
    """A rank between two of them is one that nobody asked for."""
    space = Space(("head", RANK), 10.0, {RANK: (0.5, 1.0, 4.0)})
    assert [point[RANK] for point in space.alone()] == [0.5, 4.0, 1.0, 1.0, 1.0]
    propose, trials = proposer(space, 24, halton(space, 0)), []
    while len(trials) < 24:
        trials += [Trial(len(trials) + i, point, (1.0,)) for i, point in enumerate(propose(trials))]
    assert {trial.point[RANK] for trial in trials} == {0.5, 1.0, 4.0}
    assert all(space.at(list(space.places(t.point).values()))[RANK] == t.point[RANK] for t in trials)


def test_every_value_that_was_named_is_in_the_first_wave_or_refused():
    """Else the table would say nothing of a rank that the user asked for."""
    space = Space(("encoder", "head", RANK), 10.0, {RANK: (0.25, 0.5, 1.0, 2.0, 4.0)})
    for num in (5, 6, 8):
        first = proposer(space, num, halton(space, 0))([])
        assert {point[RANK] for point in first} == set(space.choices[RANK]) and len(first) == min(num, 8)
    assert _numbers_of_trials(Asked(num_trials=5), 5) == [5] and min(_numbers_of_trials(Asked(), 7)) == 8
    assert _numbers_of_trials(Asked(), 30) == [30]
    with pytest.raises(RecipeError, match=r"--trials 4: .* are 5 trials; give as many or more, or name fewer"):
        _numbers_of_trials(Asked(num_trials=4), 1 + space.num_named)
