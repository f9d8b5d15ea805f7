"""Which training a start goes on from: protects from steps paid for twice, and from a result under a false recipe."""

from collections.abc import Callable
from pathlib import Path

import pytest
from training_documents import train_result, training_plan

from shibolet.errors import RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.documents.training import TrainResult
from shibolet.records.files import write_bytes, write_json
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import rank
from shibolet.rounds.shared import Round, open_round
from shibolet.rounds.stages import do_train
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.fingerprint import settings_of
from shibolet.train.state import TrainState

LOWER = "train.phases.1.lr_by_part.head=1e-5"
LOWEST = "train.phases.1.lr_by_part.head=1e-6"
Start = Callable[..., tuple[list[int], str]]


def carry_out(job: rank.TrainJob, taken: list[int]) -> None:
    """Two phases of 64 steps (two epochs of 32) each, with a checkpoint every 32; the steps that had to be taken."""
    store, settings = CheckpointStore(job.out_dir / "checkpoints"), settings_of(job.train)
    newest = store.latest()
    state = TrainState.from_json(newest.state, newest.path) if newest else TrainState(fingerprint=settings)
    state.require_same_run(settings, store.root)
    for step in range(state.step + 32, 129, 32):
        state.step, state.phase_index, state.phase_ended = step, (step - 1) // 64, step % 64 == 0
        state.step_in_phase = step - 64 * state.phase_index
        state.phase_end_steps += [step] * state.phase_ended
        store.save(step, state.to_json(settings), {})
        taken.append(step)
    training_plan().write(job.out_dir / "plan.json")
    write_json(job.out_dir / "final" / "model.json", [settings, [part.sentence for part in state.earlier]])
    train_result(fingerprint=settings, earlier=state.earlier, steps=state.step).write(job.out_dir / "result.json")


@pytest.fixture
def start(tmp_path: Path, monkeypatch) -> Start:
    """`shibolet train` on the demo's recipe with changes; gives the steps it took and what it said."""
    taken: list[int] = []
    monkeypatch.setattr(rank, "carry_out", lambda job, send: carry_out(job, taken))
    monkeypatch.setattr(Round, "identity", lambda self, model: f"hash of {Path(model).name}")

    def start(*changes: str, from_step: int | None = None, run: str = "run") -> tuple[list[int], str]:
        told: list[str] = []
        taken.clear()
        recipe = load_recipe("demo", ["train.phases.1.num_epochs=2", *changes])
        with open_round(recipe, tmp_path / run, "train", told.append) as current:
            if not current.folder.finished("prepare"):
                stage = current.folder.stage("prepare", {})
                write_bytes(current.folder.prepared / "train-00000.parquet", b"rows")
                stage.finish()
            current.from_step = from_step
            do_train(current)
        return list(taken), "\n".join(told)

    return start


def result(tmp_path: Path, run: str = "run") -> TrainResult:
    return TrainResult.read(RunFolder(tmp_path / run).train_result)


def final(tmp_path: Path, run: str = "run") -> bytes:
    return (RunFolder(tmp_path / run).final / "model.json").read_bytes()


def test_a_changed_phase_a_does_not_train_b_again_and_the_old_result_comes_back(start: Start, tmp_path: Path):
    assert start() == ([32, 64, 96, 128], "")
    first = final(tmp_path)
    taken, told = start(LOWER)
    assert taken == [96, 128]
    assert "train: train.phases.1.lr_by_part.head changed; steps 1 to 64 are kept, with the end of phase B" in told
    assert "what was there is now in .aside/train-" in told
    assert start(LOWER, run="whole")[0] == [32, 64, 96, 128] and final(tmp_path) == final(tmp_path, "whole")
    assert start(LOWER)[0] == [] and not result(tmp_path).earlier
    taken, told = start()
    assert taken == [] and final(tmp_path) == first and "taken back from .aside" in told
    taken, told = start("train.optimizer.eps=1e-6")
    assert taken == [32, 64, 96, 128] and "train: train.optimizer.eps changed; what was there is now in" in told


def test_going_on_from_a_step_is_done_once_and_stays_until_the_recipe_changes(start: Start, tmp_path: Path):
    start()
    taken, told = start(LOWER, from_step=96)
    assert taken == [128] and "train: goes on from step 96, with the recipe as it is now; steps 65 to 96" in told
    begun = final(tmp_path)
    for again in (None, 96):  # the same command, and one without the option
        taken, told = start(LOWER, from_step=again)
        assert (taken, final(tmp_path)) == ([], begun) and "the training that --from-step 96 began" in told
    [part] = result(tmp_path).earlier
    assert (part.first_step, part.last_step, part.settings) == (65, 96, {"train.phases.1.lr_by_part.head": "0.0001"})
    assert start(LOWER, run="whole")[0] == [32, 64, 96, 128] and begun != final(tmp_path, "whole")
    assert start(LOWEST)[0] == [96, 128] and not result(tmp_path).earlier, "from the end of B, by the recipe alone"
    taken, told = start(LOWEST, from_step=96)  # nothing changed: it trains again from there
    assert taken == [128] and not result(tmp_path).earlier


def test_a_step_that_cannot_be_gone_on_from_moves_nothing(start: Start, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"--from-step 96: there is no training in .*run to go on from"):
        start(from_step=96)
    start()
    before = final(tmp_path)
    with pytest.raises(RecipeError, match=r"there are 32 \(in B\), 64 \(the end of B\), 96 \(in A\), 128"):
        start(LOWER, from_step=95)
    with pytest.raises(RecipeError, match="--from-step 96: seed changed since the checkpoints in"):
        start(LOWER, "seed=3", from_step=96)
    assert final(tmp_path) == before and not (tmp_path / "run" / ".aside").exists() and start()[0] == []
