"""A training that goes on from another one's checkpoints: protects from steps trained twice and from a false origin."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import PHASE_A, PHASE_B, outcome, rows, tiny_config

from shibolet.errors import Preempted, RecipeError
from shibolet.model.family import LoadedModel
from shibolet.records.documents.training import DevRates, TrainResult
from shibolet.train import branch
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.config import OptimizerConfig, PhaseConfig, TrainConfig
from shibolet.train.stage import run_train
from shibolet.train.state import TrainState

B = PhaseConfig(name="B", num_epochs=1, lr_by_part=PHASE_B, warmup_steps=2)
A = PhaseConfig(name="A", num_epochs=1, lr_by_part=PHASE_A, warmup_steps=1)
LOWER = A.model_copy(update={"lr_by_part": {**PHASE_A, "head": 1e-5}})
CONFIG = tiny_config(phases=(B, A), eval_every_steps=1)
WERS = (0.5, 0.2, 0.3, 0.15, 0.14, 0.1)  # by step; the best of B is not its end


class Told:
    """A dev score for each step, from the one after `done`."""

    def __init__(self, wers: tuple[float, ...], done: int = 0) -> None:
        self._wers: Iterator[float] = iter(wers[done:])

    def __call__(self, loaded: LoadedModel, when: str) -> DevRates:
        return DevRates(wer=0.9 if when == "before the first step" else next(self._wers), cer=0.1)


@pytest.fixture(scope="module")
def train(base_dir: Path, prepared_dir: Path):
    def train(out: Path, config: TrainConfig, wers: tuple[float, ...], done: int = 0, on_step=None) -> TrainResult:
        return run_train(
            prepared_dir=prepared_dir, out_dir=out, base=str(base_dir), config=config, language="Hebrew", seed=5,
            score_dev=Told(wers, done), about={}, num_threads=1, on_step=on_step,
        )  # fmt: skip

    return train


@pytest.fixture(scope="module")
def old(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("old")
    assert train(out, CONFIG, WERS).chosen_step == 6
    return out


def with_phases(*phases: PhaseConfig, **changes) -> TrainConfig:
    return CONFIG.model_copy(update={"phases": phases, **changes})


def stop_after(step: int):
    return lambda row: signal.raise_signal(signal.SIGTERM) if row.step == step - 1 else None


def check_same_as_from_the_beginning(
    train, source: Path, tmp_path: Path, config: TrainConfig, wers: tuple[float, ...], done: int
) -> TrainResult:
    """What goes on after step `done` of `source` runs the steps after it, and leaves what one from the start leaves."""
    before, taken = outcome(source), []
    branch.unchanged(source, config).fill(tmp_path / "new")
    result = train(tmp_path / "new", config, wers, done, lambda row: taken.append(row.step))
    assert taken == list(range(done + 1, result.steps + 1))
    train(tmp_path / "whole", config, wers)
    found, whole = outcome(tmp_path / "new"), outcome(tmp_path / "whole")
    assert set(found) == set(whole) and not [name for name in whole if found[name] != whole[name]]
    assert outcome(source) == before and len(found["metrics"]) == result.steps
    return result


CHANGES = {
    "a rate of A": (with_phases(B, LOWER), WERS, 3, 6),
    "A trains nothing better than B": (with_phases(B, LOWER), (0.5, 0.2, 0.3, 0.9, 0.9, 0.9), 3, 2),
    "A is longer": (with_phases(B, A.model_copy(update={"num_epochs": 1.5})), (*WERS, 0.4, 0.05), 3, 8),
    "A is gone": (with_phases(B), WERS[:3], 3, 2),
    "another phase": (with_phases(B, A, LOWER.model_copy(update={"name": "C"})), (*WERS, 0.2, 0.2, 0.09), 6, 9),
}


SLOW = pytest.mark.slow("resume", seconds=5)


@pytest.mark.parametrize(
    "change", [*list(CHANGES)[:2], *(pytest.param(change, marks=SLOW) for change in list(CHANGES)[2:])]
)
def test_a_later_phase_that_changed_goes_on_from_the_last_that_did_not(train, old: Path, tmp_path: Path, change: str):
    config, wers, done, chosen = CHANGES[change]
    result = check_same_as_from_the_beginning(train, old, tmp_path, config, wers, done)
    assert result.chosen_step == chosen and not result.earlier


@pytest.mark.parametrize(("stopped", "done"), [(5, 3), pytest.param(2, 2, marks=SLOW)])
def test_one_that_was_stopped_within_a_phase_keeps_what_holds(train, tmp_path: Path, stopped: int, done: int):
    with pytest.raises(Preempted):
        train(tmp_path / "old", CONFIG, WERS, on_step=stop_after(stopped))
    check_same_as_from_the_beginning(train, tmp_path / "old", tmp_path, with_phases(B, LOWER), WERS, done)


@pytest.mark.parametrize(
    "config",
    [
        with_phases(B.model_copy(update={"warmup_steps": 1}), A), with_phases(A, B), with_phases(LOWER),
        with_phases(B, A, optimizer=OptimizerConfig(eps=1e-6)), with_phases(B, A, patience=2),
    ],
    ids=["B", "order", "no B", "optimizer", "patience"],
)  # fmt: skip
def test_what_every_step_depends_on_leaves_nothing_to_keep(old: Path, config: TrainConfig):
    assert branch.unchanged(old, config) is None


def test_the_sentence_says_what_changed_and_what_is_kept(old: Path):
    assert branch.unchanged(old, with_phases(B, LOWER)).sentence == (
        "train.phases.1.lr_by_part.head changed; steps 1 to 3 are kept, with the end of phase B, and training goes on "
        "from there"
    )


def test_a_broken_checkpoint_is_not_kept(train, tmp_path: Path, caplog):
    train(tmp_path / "old", CONFIG, WERS)
    broken = tmp_path / "old" / "checkpoints" / "step-00000003" / "moments.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    kept = branch.unchanged(tmp_path / "old", with_phases(B, LOWER))
    assert [state.step for state in kept.states] == [2] and "step-00000003: moments.safetensors has" in caplog.text


def test_going_on_from_a_step_says_which_settings_made_the_steps_before(train, old: Path, tmp_path: Path):
    """And once more from there; the recipe alone then still knows that it did not make the model."""
    lower, once_more = with_phases(B, LOWER), tmp_path / "more"
    begun = branch.from_step(old, 5, lower)
    begun.fill(tmp_path / "new")
    taken = []
    result = train(tmp_path / "new", lower, WERS, 5, lambda row: taken.append(row.step))
    assert taken == [6] and [row["step"] for row in rows(tmp_path / "new")] == [1, 2, 3, 4, 5, 6]
    [part] = result.earlier
    assert (part.first_step, part.last_step) == (4, 5)
    assert part.settings == {"train.phases.1.lr_by_part.head": "0.001"}
    assert begun.sentence == (
        "goes on from step 5, with the recipe as it is now; steps 4 to 5 were trained with other settings: "
        "train.phases.1.lr_by_part.head 0.001"
    )
    assert train(tmp_path / "new", lower, ()) == result  # a start without the option finds it done

    longer = with_phases(B, LOWER.model_copy(update={"num_epochs": 2}))
    branch.from_step(tmp_path / "new", 6, longer).fill(once_more)
    result = train(once_more, longer, (*WERS, 0.3, 0.3, 0.3), 6)  # its last phase was over, and is longer now
    assert result.steps == 9 and result.chosen_step == 6
    assert [(part.first_step, part.last_step, sorted(part.settings)) for part in result.earlier] == [
        (4, 5, ["train.phases.1.lr_by_part.head", "train.phases.1.num_epochs"]),
        (6, 6, ["train.phases.1.num_epochs"]),
    ]
    assert branch.unchanged(once_more, longer).states[-1].step == 3, "what other settings made is not kept for it"


def test_a_score_whose_checkpoint_was_left_behind_is_not_the_result(train, tmp_path: Path):
    """The best step before the one that is gone on from may have been deleted since."""
    wers = (0.5, 0.4, 0.3, 0.2, 0.25, 0.1)
    train(tmp_path / "old", CONFIG.model_copy(update={"checkpoint_every_steps": 1}), wers)
    assert CheckpointStore(tmp_path / "old" / "checkpoints").steps() == [3, 5, 6]
    begun = branch.from_step(tmp_path / "old", 5, with_phases(B, LOWER))
    assert begun.states[-1].gone == [4]
    begun.fill(tmp_path / "new")
    result = train(tmp_path / "new", with_phases(B, LOWER), (*wers[:5], 0.22), 5)
    assert result.chosen_step == 6 and [score.wer for score in result.dev] == [0.9, *wers[:5], 0.22]


REFUSED = {
    "there is no checkpoint of that step; there are 2 (in B), 3 (the end of B), 5 (in A), 6": (4, CONFIG),
    "train.lora.rank changed, and the checkpoint is of a model without that change": (
        5, with_phases(B, A, lora=CONFIG.lora.model_copy(update={"rank": 2})),
    ),
    "phases up to there have other names or another order": (5, with_phases(B, A.model_copy(update={"name": "D"}))),
    "phase A now ends after 2 steps and this is its step 2": (
        5, with_phases(B, A.model_copy(update={"num_epochs": 0.5})),
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_step_that_training_cannot_go_on_from_is_refused(old: Path, sentence: str):
    step, config = REFUSED[sentence]
    with pytest.raises(RecipeError) as error:
        branch.from_step(old, step, config)
    assert sentence in str(error.value) and f"--from-step {step}" in str(error.value)


def test_a_copied_checkpoint_is_of_the_new_training_and_the_old_one_stays(train, old: Path, tmp_path: Path):
    """Otherwise a start of either would go on from the other's weights."""
    lower = with_phases(B, LOWER)
    branch.unchanged(old, lower).fill(tmp_path)
    copied, left = (CheckpointStore(path / "checkpoints").at(3) for path in (tmp_path, old))
    states = [TrainState.from_json(checkpoint.state, checkpoint.path) for checkpoint in (copied, left)]
    assert states[0].fingerprint != states[1].fingerprint
    with pytest.raises(RecipeError, match=r"another train\.phases\.1\.lr_by_part\.head"):
        train(tmp_path, CONFIG, WERS)
