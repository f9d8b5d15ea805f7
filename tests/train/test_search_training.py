"""A search of real trainings of a tiny model: in one process, in two, and the training that goes on from the trial."""

from pathlib import Path

import pytest
from audit_documents import prepared
from tiny_run import make_rows, outcome, write_shard

from shibolet.recipe import Recipe, load_recipe
from shibolet.records.documents.search import SearchTable
from shibolet.records.documents.training import TrainResult
from shibolet.records.manifest import write_manifest
from shibolet.rounds.search.stage import Asked, do_search
from shibolet.rounds.search.writing import write_found
from shibolet.rounds.shared import open_round
from shibolet.rounds.stages import begin_training, do_train

PHASES = (
    "train.phases=[{name: B, num_epochs: 1, lr_by_part: {head: 1.0e-3, lora: 1.0e-3}}, "
    "{name: A, num_epochs: 3, lr_by_part: {head: 1.0e-6, lora: 1.0e-6}}]"
)
ONE_PHASE = "train.phases=[{name: A, num_epochs: 4, lr_by_part: {'encoder.layers[2:6]': 1.0e-6, lora: 1.0e-6}}]"
NUM_TRAIN, NUM_DEV = 64, 32
FOUR = Asked(proposals="halton", num_trials=4, budget=1.6)


def tiny_recipe(base: Path, phases: str = PHASES) -> Recipe:
    names = [f"models.base={base}", f"models.baseline={base}", phases, "train.num_threads=1", "evaluate.sets=[]"]
    small = ["train.utterances_per_step=8", "train.pack_tokens=256", "train.eval_every_epoch=false"]
    return load_recipe("demo", [*names, *small])


def search(run: Path, base: Path, gpus: int = 1, asked: Asked = FOUR, phases: str = PHASES) -> SearchTable:
    with open_round(tiny_recipe(base, phases), run, "search", lambda sentence: None) as current:
        if not current.folder.finished("prepare"):
            made = current.folder.stage("prepare", {"made": "here"})
            rows = make_rows(NUM_TRAIN + NUM_DEV, seed=1)
            write_shard(current.folder.prepared / "train-00000.parquet", rows[:NUM_TRAIN])
            write_shard(current.folder.prepared / "dev-00000.parquet", rows[NUM_TRAIN:])
            write_manifest(current.folder.prepared / "manifest.jsonl", [])
            summary = prepared()
            split = summary.train.model_copy(update={"utterances": NUM_TRAIN})
            summary.model_copy(update={"train": split}).write(current.folder.prepared / "summary.json")
            made.finish()
        if phases == PHASES:
            begin_training(current, "B")  # by one rank: two round differently
        current.gpus = gpus
        return do_search(current, asked)


@pytest.mark.slow("search", seconds=90)
def test_trials_are_trainings_and_the_best_one_goes_on(base_dir: Path, tmp_path: Path, monkeypatch):
    """The rates of A are a thousand times too low for noise, so a trial is better; two at once come to the same table.

    What goes on from the trial comes to the weights of a training from the beginning with the found rates.
    """
    monkeypatch.setattr("shibolet.rounds.search.stage.is_admitted", lambda confirmation: (True, ""))
    table = search(tmp_path / "run", base_dir, gpus=1)
    assert table.best != 0 and table.is_shown and table.confirmation.own_wer_pct > 0
    assert table.cost.beginning_steps == 8 and table.cost.trainings <= 1.6
    assert search(tmp_path / "two", base_dir, gpus=2) == table

    found = write_found(tiny_recipe(base_dir), "demo", table, tmp_path / "found.yaml")
    results, told = [], []
    for run in ("run", "two"):
        if run == "two":
            for trials in (tmp_path / run / "search").glob("trials/*/train"):
                trials.rename(trials.with_name("gone"))
        with open_round(found, tmp_path / run, "train", told.append) as current:
            do_train(current)
            results.append(TrainResult.read(current.folder.train_result))
    last = 8 + table.rungs[-1].steps
    assert any(f"goes on from step {last} of the search's trial" in sentence for sentence in told)
    assert [result.steps for result in results] == [32, 32] and not results[0].earlier
    one, whole = (outcome(tmp_path / run / "train") for run in ("run", "two"))
    weights = [name for name in whole if name.startswith("checkpoints/step-00000032/") and "tensors" in name]
    assert weights and not [name for name in weights if one[name] != whole[name]]


@pytest.mark.slow("search", seconds=40)
def test_trials_of_other_ranks_and_layers_are_trained_confirmed_and_gone_on_from(
    base_dir: Path, tmp_path: Path, monkeypatch
):
    """A rank changes the shapes of what is trained: read with the recipe's, a checkpoint would fit no model."""
    monkeypatch.setattr("shibolet.rounds.search.stage.is_admitted", lambda confirmation: (True, ""))
    asked = Asked(proposals="halton", num_trials=8, budget=4.0, parts=("lora",), ranks=(2,), layers=("encoder=1",))
    table = search(tmp_path / "run", base_dir, asked=asked, phases=ONE_PHASE)
    assert all(trial.losses[0] is not None for trial in table.trials)
    alone = [trial for trial in table.trials if sum(factor != 1 for factor in trial.factors.values()) == 1]
    assert any(trial.lora_rank == 2 and trial.lr_by_part == table.trials[0].lr_by_part for trial in alone)
    assert any("encoder.layers[5:6]" in trial.lr_by_part and trial.lora_rank == 8 for trial in alone)
    assert table.cost.times_own != 1, "a step of one layer takes as long as a step of four"

    best = table.trials[table.best]
    assert table.is_shown and table.confirmation.found_wer_pct is not None
    found, told = write_found(tiny_recipe(base_dir, ONE_PHASE), "demo", table, tmp_path / "found.yaml"), []
    assert (found.train.lora.rank, dict(found.train.phases[0].lr_by_part)) == (best.lora_rank, best.lr_by_part)
    with open_round(found, tmp_path / "run", "train", told.append) as current:
        do_train(current)
    assert any(f"goes on from step {table.rungs[-1].steps} of the search's trial" in sentence for sentence in told)
