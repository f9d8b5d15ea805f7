"""What a round replays: protects from texts in the wrong language, a share of nothing, and tests that are replayed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from made_prepared import make_prepared

from shibolet.errors import DataError, RecipeError
from shibolet.prepare.pieces import Piece
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.documents.prepared import Prepared
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.shards import read_shard
from shibolet.rounds import rank
from shibolet.rounds.plan import make_plan
from shibolet.rounds.rates import PREPARE, Rate, Rates
from shibolet.rounds.replay import do_prepare_replay, replay_inputs
from shibolet.rounds.shared import Round, open_round
from shibolet.rounds.stages import do_train, train_inputs
from shibolet.rounds.stretches import Stretches


@pytest.fixture
def english(tmp_path: Path) -> Path:
    """A manifest of five utterances: three are fit, one is too short, one says nothing."""
    texts = ["Good morning!", "the 3rd river", "a letter", "hi", "[noise]"]
    rows = []
    for number, text in enumerate(texts):
        length = 1600 if text == "hi" else 16_000
        sf.write(tmp_path / f"{number}.wav", np.full(length, 0.01 * (number + 1), np.float32), 16_000)
        rows.append({"id": f"e{number}", "audio": f"{number}.wav", "text": text, "speaker": f"s{number}"})
    write_jsonl(tmp_path / "english.jsonl", rows)
    return tmp_path / "english.jsonl"


def recipe_of(english: Path, *changes: str, share: float = 0.25) -> Recipe:
    source = f"{{name: en, manifest: {english}, language: English}}"
    sets = f"[{{name: test, manifest: {english}, language: English}}]"
    replay = f"data.replay={{share: {share}, sources: [{source}]}}"
    return load_recipe("demo", [replay, f"evaluate.sets={sets}", *changes])


def opened(recipe: Recipe, tmp_path: Path, told: list[str] | None = None):
    return open_round(recipe, tmp_path / "run", "prepare", (told if told is not None else []).append)


def test_a_source_is_made_ready_in_its_own_language_whole_and_once(english, tmp_path, monkeypatch):
    with opened(recipe_of(english), tmp_path) as current:
        (made,) = do_prepare_replay(current)
        place = current.folder.replay("en")
        (shard,) = place.glob("*.parquet")
        rows = list(read_shard(shard, "id", "text", "language", "source"))
    assert shard.name == "train-00000.parquet" and made.language == "English" and made.dev.utterances == 0
    assert rows == [
        ("en/e0", "Good morning!", "English", "en"), ("en/e1", "the 3rd river", "English", "en"),
        ("en/e2", "a letter", "English", "en"),
    ]  # fmt: skip
    assert {line["rule"] for line in read_jsonl(place / "ledger.jsonl")} == {"too_short", "no_words"}
    assert any("nothing is held out of what is replayed" in note for note in made.notes)
    assert any("only text and length were checked" in note for note in made.notes)
    monkeypatch.setattr(Piece, "whole", None)
    before = shard.stat().st_mtime_ns
    with opened(recipe_of(english, share=0.5), tmp_path) as current:
        do_prepare_replay(current)  # another share: the same rows
    assert shard.stat().st_mtime_ns == before


def test_two_seeds_of_a_training_replay_the_same(english, tmp_path):
    """Named as other seeds they would be refused as another training, and a comparison of seeds be impossible."""
    made = []
    for seed in (1, 2):
        with open_round(recipe_of(english, f"seed={seed}"), tmp_path / f"run{seed}", "prepare", print) as current:
            do_prepare_replay(current)
            made.append(replay_inputs(current))
    assert made[0] == made[1] and made[0]["replay"]["sources"]


def test_what_is_not_replayed_any_more_is_put_aside(english, tmp_path):
    """Left there, it would pass as something that this round trained on."""
    told: list[str] = []
    with opened(recipe_of(english), tmp_path) as current:
        do_prepare_replay(current)
    with opened(recipe_of(english, share=0.0), tmp_path, told) as current:
        assert do_prepare_replay(current) == [] and not current.folder.replay("en").exists()
    assert "the recipe does not replay it: prepare-replay/en" in " ".join(told)


def test_a_test_set_that_is_replayed_is_found(english, tmp_path):
    """Its score would be of sentences that the model has trained on."""
    with opened(recipe_of(english), tmp_path) as current:
        make_prepared(current.folder, "שלום עולם", num_dev=5)
        (source,) = current.recipe.evaluate.sets
        assert current.overlap(source, current.folder.prepared).utterances == 0
        current._trained_on.clear()
        do_prepare_replay(current)
        found = current.overlap(source, current.folder.prepared)
    assert found.utterances == 3 and sorted(found.ids) == ["e0", "e1", "e2"]


def test_dev_audio_that_is_replayed_is_refused(english, tmp_path):
    """Under another id and name: a model that has heard it is chosen by it."""
    with opened(recipe_of(english), tmp_path) as current:
        make_prepared(current.folder, "שלום עולם", num_dev=5)
        assert len(do_prepare_replay(current)) == 1
    (shard,) = current.folder.prepared.glob("dev-*.parquet")
    ((_, flac),) = list(read_shard(shard, "id", "audio"))[:1]
    (tmp_path / "dev.flac").write_bytes(flac)
    write_jsonl(tmp_path / "leak.jsonl", [{"id": "x", "audio": "dev.flac", "text": "a letter"}])
    with opened(recipe_of(tmp_path / "leak.jsonl"), tmp_path) as current:
        with pytest.raises(DataError, match=r"data\.replay has the audio of 1 dev utterances \(dev0\)"):
            do_prepare_replay(current)
    kept = load_recipe("demo", [f"data.replay={{share: 0.25, sources: [{{name: kept, parquet: {shard}}}]}}"])
    with opened(kept, tmp_path) as current:
        with pytest.raises(DataError, match=r"data\.replay has the audio of 5 dev utterances"):
            do_prepare_replay(current)
        source = current.folder.prepared / "train-*.parquet"
    kept = load_recipe("demo", [f"data.replay={{share: 0.25, sources: [{{name: kept, parquet: {source}}}]}}"])
    with opened(kept, tmp_path) as current:
        assert do_prepare_replay(current)[0].train.utterances == 30


def test_a_training_is_told_what_it_replays_and_is_another_one_without(english, tmp_path, monkeypatch):
    """A share of 0 is a recipe without the key, in the inputs of the stage byte for byte."""
    jobs: list[rank.TrainJob] = []
    monkeypatch.setattr(Round, "identity", lambda self, model: f"hash of {model}")
    monkeypatch.setattr(rank, "carry_out", lambda job, send: (jobs.append(job), 1 / 0))
    inputs = []
    for recipe in (recipe_of(english), recipe_of(english, share=0.0), load_recipe("demo", [])):
        with opened(recipe, tmp_path) as current:
            if not current.folder.finished("prepare"):
                make_prepared(current.folder, "שלום עולם", num_dev=5)
            do_prepare_replay(current)
            inputs.append(train_inputs(current))
            with pytest.raises(ZeroDivisionError):
                do_train(current)
    assert inputs[0]["replay"]["share"] == 0.25 and inputs[0]["replay"]["sources"][0][0] == "en"
    assert inputs[1] == inputs[2] == {name: value for name, value in inputs[0].items() if name != "replay"}
    (source,) = jobs[0].replay.sources
    assert (source.prepared_dir.name, source.language, jobs[0].replay.share) == ("en", "English", 0.25)
    assert jobs[1].replay is None and jobs[2].replay is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["data.replay.share=0.01"], r"share is 0\.01, which is 0 of the 16 utterances of a step"),
        (["data.replay.sources.0.name=synthetic"], "data.train and data.replay: synthetic named twice"),
        (["data.replay.sources.0.language=Klingon"], "language 'Klingon' is not known"),
        (["data.replay.sources=[]"], "data.replay.sources"),
    ],
)
def test_a_replay_that_cannot_be_is_refused_when_the_recipe_is_read(english, changes, sentence):
    with pytest.raises(RecipeError, match=sentence):
        recipe_of(english, *changes)


def test_the_plan_counts_steps_of_the_trainings_own_data(english, tmp_path):
    """With a quarter replayed, 12 of 16 utterances a step are its own: more steps, not fewer epochs."""
    recipe = recipe_of(english)
    plain, plan = (make_plan(one, tmp_path / "run", 240).training for one in (load_recipe("demo", []), recipe))
    assert (plain.step.steps_per_epoch, plan.step.steps_per_epoch) == (15, 20)
    assert plan.step.arithmetic.endswith("= 20 x 12 + 0 -> 20 steps an epoch, and 4 replayed in each")
    with opened(recipe, tmp_path) as current:
        make_prepared(current.folder, "שלום עולם", num_dev=5)
        before = make_plan(recipe, tmp_path / "run").training
        assert before.training_set_from.endswith("what is replayed is not prepared yet")
        do_prepare_replay(current)
    plan = make_plan(recipe, tmp_path / "run").training
    assert before.steps == plan.steps and before.training_set.replay.utterances is None
    assert plan.training_set.utterances == 30 and plan.training_set.replay.utterances == 3
    assert Prepared.read(current.folder.replay("en") / "summary.json").train.utterances == 3


def test_the_plan_has_the_time_of_what_is_replayed(english, tmp_path):
    """A machine is rented for it too: in steps as they are drawn, at the rates of another round, and in preparing."""
    recipe = recipe_of(english)
    planned = make_plan(recipe, tmp_path / "run", 240, num_gpus=1)
    found = {one.name: one for one in planned.cases[0].stretches}
    assert found["preparing what is replayed"].missing is None or found["preparing"].missing
    rate = Rate(per_s=10.0, unit="utterances", source="a round")
    rates = Rates(machine="one", num_gpus=1, by_stretch={PREPARE: rate}, by_phase={"B": rate})
    stretches = Stretches(
        recipe=recipe, rates=rates, phases=planned.training.phases, rows=240, train=240, dev=None, mean_s=1.0,
        test=None, unknown_sets=(), replay_rows=5,
    )  # fmt: skip
    found = {one.name: one for one in stretches.all()}
    phase = planned.training.phases[0]
    assert found[f"training: {phase.name}"].seconds == pytest.approx(phase.epochs * 320 / 10)
    assert "(240 + 80 replayed) utterances" in found[f"training: {phase.name}"].arithmetic
    assert found["preparing what is replayed"].seconds == pytest.approx(0.5)
