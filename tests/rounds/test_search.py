"""`shibolet search`: what is admitted and what is not, kills, the recipe it writes, and the training that goes on."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from audit_documents import prepared

from shibolet.cli.tables import show_search
from shibolet.errors import DataError, RecipeError
from shibolet.prepare.pieces import Piece
from shibolet.prepare.shards import ShardWriter
from shibolet.recipe import Recipe, load_recipe
from shibolet.records.documents.search import Confirmation, LossDifference, SearchTable
from shibolet.records.manifest import write_manifest
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds.branches import branch_of
from shibolet.rounds.search import stage
from shibolet.rounds.search.confirming import divide_dev, is_admitted
from shibolet.rounds.search.dimensions import dimensions_of, phase_at
from shibolet.rounds.search.halving import Measured
from shibolet.rounds.search.stage import Asked, do_search
from shibolet.rounds.search.trials import SearchJob
from shibolet.rounds.search.writing import write_found
from shibolet.rounds.shared import Round, open_round
from shibolet.speech.audio import encode_flac
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.config import PhaseConfig
from shibolet.train.fingerprint import settings_of
from shibolet.train.state import TrainState

PHASE = "{name: A, num_epochs: 6, warmup_steps: 4, lr_by_part: {projector: 1.0e-4, head: 1.0e-4, lora: 1.0e-4}}"
BEST = {"projector": 3e-4, "head": 1e-4, "lora": 2e-5}
HEARS = LossDifference(difference=-2.0, interval=(-2.5, -1.5))
GAIN = Confirmation(
    own_wer_pct=20.0, found_wer_pct=15.0, points=-5.0, interval_points=(-8.0, -2.0), counted="6 speakers", control=HEARS
)
ASKED = Asked(proposals="halton", num_trials=6)


def losses_of(job: SearchJob) -> Measured:
    """A formula of the rates, a little different for each utterance."""
    rates = job.train.phases[-1].lr_by_part
    far = sum(math.log10(rates[part] / best) ** 2 for part, best in BEST.items())
    return Measured(tuple((id, 10 * (far + 0.01 * place), 10) for place, id in enumerate(job.choosing)))


class World:
    """A run folder with a dev split; trials are a formula, and their folders have a checkpoint."""

    def __init__(self, path: Path, monkeypatch) -> None:
        self.path, self.confirmation, self.trained, self.die = path, GAIN, [], lambda: None
        self.jobs: list[SearchJob] = []
        monkeypatch.setattr(stage, "carry_out_all", self.carry_out_all)
        monkeypatch.setattr(stage, "confirm", lambda own, found, rows, config: self.confirmation)
        monkeypatch.setattr(Round, "make_way", lambda self: 0)
        monkeypatch.setattr(Round, "identity", lambda self, model: f"hash of {model}")
        self.told: list[str] = []

    def carry_out_all(self, jobs: Sequence[SearchJob], at_once: int, on_gpus: bool):
        for place, job in enumerate(jobs):
            self.die()
            settings = settings_of(job.train)
            state = TrainState(step=job.until_step, step_in_phase=job.until_step, fingerprint=settings)
            CheckpointStore(job.out_dir / "checkpoints").save(job.until_step, state.to_json(settings), {})
            self.trained.append(job.until_step)
            self.jobs.append(job)
            yield place, losses_of(job)

    def search(self, asked: Asked = ASKED, changes: Sequence[str] = (), num_dev: int = 24) -> SearchTable:
        recipe = load_recipe("demo", [f"train.phases=[{PHASE}]", *changes])
        with open_round(recipe, self.path / "run", "search", self.told.append) as current:
            if not current.folder.finished("prepare"):
                prepare(current, num_dev)
            table = do_search(current, asked)
        self.searched = recipe, table
        return table

    @property
    def recipe(self) -> Recipe:
        """The recipe that was written."""
        recipe, table = self.searched
        path = self.path / f"found-{len(list(self.path.glob('*.yaml')))}.yaml"
        return write_found(recipe, "demo", table, path)


def plain_inputs(recipe) -> dict[str, Any]:
    """As `do_train` makes them; the run folder's own `prepare` is taken from the search's marker."""
    return {
        "base": f"hash of {recipe.models.base}", "prepared": None, "train": recipe.train.identity(),
        "language": recipe.language, "seed": recipe.seed,
    }  # fmt: skip


def prepare(current: Round, num_dev: int) -> None:
    marker = current.folder.stage("prepare", {"made": "here"})
    current.folder.prepared.mkdir(parents=True)
    made = []
    for split, count in (("train", 40), ("dev", num_dev)):
        writer = ShardWriter(current.folder.prepared, split, 1000)
        for i in range(count):
            utterance = Utterance(
                id=f"{split}{i}", audio=AudioRef(path=""), text="אחת שתיים", duration_s=0.1, source="here",
                speaker=f"{split}{i // 2}",
            )  # fmt: skip
            flac = encode_flac(np.full(1600, 0.1, np.float32))
            made.append(writer.add(Piece.whole(utterance, flac), flac))
        writer.close()
    write_manifest(current.folder.prepared / "manifest.jsonl", made)
    summary = prepared()
    split = summary.train.model_copy(update={"utterances": 320})
    summary.model_copy(update={"train": split}).write(current.folder.prepared / "summary.json")
    marker.finish()


@pytest.fixture
def world(tmp_path: Path, monkeypatch) -> World:
    return World(tmp_path, monkeypatch)


def test_rates_that_are_shown_to_be_better_go_into_the_recipe(world: World, capsys):
    """And nothing is run twice; the table is what a person reads in 80 columns."""
    table = world.search()
    assert table.is_shown and table.recommended == table.best != 0
    best = table.trials[table.best]
    assert world.recipe.train.phases[0].lr_by_part == best.lr_by_part
    assert best.losses[-1] < table.trials[0].losses[-1]
    assert table.cost.trainings <= 1.2 and table.cost.training_steps == 6 * 320 / 16
    num = len(world.trained)
    assert num == sum(rung.trials for rung in table.rungs)
    assert world.search() == table and len(world.trained) == num
    capsys.readouterr()
    show_search(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_trials_are_asked_in_the_styles_of_the_recipe(world: World):
    """Rates would be chosen for a training that nobody runs, and another style would get the old table."""
    for style in ("lower case", "upper case"):
        num = len(world.jobs)
        world.search(changes=[f"data.train.0.style={style}"])
        assert {job.styles["synthetic"] for job in world.jobs[num:]} == {style}
    with open_round(world.recipe, world.path / "run", "train", lambda sentence: None) as current:
        plain = {**plain_inputs(current.recipe), "prepared": current.folder.verified("prepare")}
        assert branch_of(current, plain)[1] is None, "a training without a style is another one"
        assert branch_of(current, {**plain, "styles": {"synthetic": "upper case"}})[1] is not None


SHOWS_NOTHING = {
    "includes 0": {"interval_points": (-8.0, 0.1)},
    "no interval": {"interval_points": None},
    "the texts are of other audio": {"control": LossDifference(difference=-0.01, interval=(-0.1, 0.08))},
    "a control without an interval": {"control": LossDifference(difference=-2.0, interval=None)},
}


@pytest.mark.parametrize("name", SHOWS_NOTHING)
def test_what_is_not_shown_leaves_the_recipes_own_rates(world: World, name: str):
    """The lowest loss of many trials is always lower than the recipe's own: by itself it shows nothing."""
    world.confirmation = GAIN.model_copy(update=SHOWS_NOTHING[name])
    table = world.search()
    assert table.best != 0 and table.recommended == 0 and "The recipe's own rates stay." in table.sentence
    assert world.recipe.train == load_recipe("demo", [f"train.phases=[{PHASE}]"]).train


def test_with_one_group_in_dev_nothing_is_admitted(world: World):
    table = world.search(num_dev=2)
    assert table.confirmation is None and not table.is_shown and table.confirming_utterances == 0


def test_a_search_without_anything_better_says_so(world: World, monkeypatch):
    monkeypatch.setattr("test_search.BEST", dict.fromkeys(BEST, 1e-4))
    table = world.search()
    assert table.best == 0 and table.confirmation is None
    after = f"after {table.rungs[-1].steps} of the phase's 120 steps"
    assert table.sentence == f"No trial has a lower loss {after} than the recipe's own rates, which stay."


@pytest.mark.parametrize("seed", [None, 7])
def test_a_search_begins_from_no_training_that_was_made_with_another_seed(world: World, monkeypatch, seed: int | None):
    """Its settings of `train` are the same, so its checkpoints were taken, and each trial refused to begin at them."""
    phases = f"train.phases=[{PHASE.replace('name: A, num_epochs: 6', 'name: B, num_epochs: 1')}, {PHASE}]"
    trained: list[int] = []

    def train(current: Round) -> None:
        trained.append(current.recipe.seed)
        inputs = {**plain_inputs(current.recipe), "prepared": current.folder.verified("prepare")}
        current.folder.stage("train", inputs)
        settings = settings_of(current.recipe.train)
        state = TrainState(
            step=20, step_in_phase=20, phase_ended=True, phase_end_steps=[20], fingerprint=settings
        )  # fmt: skip
        CheckpointStore(current.folder.checkpoints).save(20, state.to_json(settings), {})

    monkeypatch.setattr("shibolet.rounds.stages.begin_training", lambda current, through: train(current))
    recipe = load_recipe("demo", [phases, *([f"seed={seed}"] if seed else [])])
    with open_round(recipe, world.path / "run", "train", lambda sentence: None) as current:
        prepare(current, 24)
        train(current)
    assert world.search(changes=[phases]).cost.beginning_steps == 20
    assert trained == ([7, 0] if seed else [0])


def test_what_is_shown_is_a_gain_after_a_part_of_the_phase(world: World, capsys):
    """Else low rates look better than they are: a gain after few steps may be none at the end."""
    table = world.search()
    after = f"after {table.rungs[-1].steps} of the phase's 120 steps"
    assert after in table.sentence and table.sentence.endswith("A gain at the end of the phase is not shown by that.")
    assert world.recipe.train.phases[0].lr_by_part == table.trials[table.recommended].lr_by_part
    text = (world.path / "found-0.yaml").read_text(encoding="utf-8")
    assert f"compared {after}.\n  # A gain at the end of the phase is not shown by that.\n" in text
    show_search(table)
    printed = " ".join(capsys.readouterr().out.split())
    assert "for losses; the confirmation comes on top" in printed, "the cost is not all that a search takes"
    assert f"6 speakers, {after}" in printed and "by steps of 120" in printed
    whole = table.model_copy(update={"phase_steps": table.rungs[-1].steps})
    assert whole.is_whole and whole.reached == f"after all {whole.phase_steps} steps of the phase"


class Killed(BaseException):
    """As by SIGKILL: nothing of ours catches it."""


def test_killed_ten_times_at_random_it_comes_to_the_same_table(world: World, tmp_path: Path, monkeypatch):
    asked = Asked(proposals="halton", num_trials=12)
    whole = world.search(asked)
    other, rng, kills = World(tmp_path / "killed", monkeypatch), random.Random(1), 0
    other.path.mkdir()

    def die() -> None:
        nonlocal kills
        if kills < 10 and rng.random() < 0.5:
            kills += 1
            raise Killed

    other.die = die
    while True:
        try:
            found = other.search(asked)
            break
        except Killed:
            continue
    assert kills == 10 and found == whole and len(other.trained) == len(world.trained)


def test_training_the_found_recipe_goes_on_from_the_trial(world: World):
    """The winner's steps are the training's own; those of all others are deleted."""
    table = world.search()
    with open_round(world.recipe, world.path / "run", "train", lambda sentence: None) as current:
        plain = {**plain_inputs(world.recipe), "prepared": current.folder.verified("prepare")}
        _, fill = branch_of(current, plain)
        assert fill(world.path / "new") == f"goes on from step {table.rungs[-1].steps:,} of the search's trial"
        assert CheckpointStore(world.path / "new" / "train" / "checkpoints").steps()[-1] == table.rungs[-1].steps
        assert branch_of(current, {**plain, "prepared": "other data"})[1] is None
    kept = list((world.path / "run" / "search" / "trials").glob("*/train"))
    assert [path.parent.name[:3] for path in kept] == [f"{table.recommended:03d}"]


def test_the_written_recipe_has_all_settings_of_the_trial_that_is_recommended(world: World):
    """Rates for a phase that diverged, too: else training begins anew, and a retry is faster than the first try."""
    slow = PHASE.replace("}}", "}, lr_if_diverged: {lora: 1.0e-5}}")
    table = world.search(changes=[f"train.phases=[{slow}]"])
    factor = table.trials[table.recommended].factors["lora"]
    assert factor != 1 and world.recipe.train.phases[0].lr_if_diverged == {"lora": pytest.approx(1e-5 * factor)}
    with open_round(world.recipe, world.path / "run", "train", lambda sentence: None) as current:
        plain = {**plain_inputs(world.recipe), "prepared": current.folder.verified("prepare")}
        assert "of the search's trial" in branch_of(current, plain)[1](world.path / "new")


def test_dev_rows_that_cannot_be_trained_on_are_left_out_and_counted(world: World, monkeypatch):
    """One of them ended the search in a ValueError after all trials; groups are looked up by id, not by place."""
    formula = losses_of
    monkeypatch.setattr("test_search.losses_of", lambda job: Measured(formula(job).losses[2:]))
    table = world.search()
    assert (table.choosing_utterances, table.left_out_utterances) == (10, 2) and table.is_shown
    assert any("10 dev utterances; 2 more cannot be trained on" in sentence for sentence in world.told)
    assert all(trial.interval for trial in table.trials[1:])


@pytest.mark.parametrize("from_rung", [0, 1])
def test_where_the_recipes_own_rates_diverge_nothing_is_admitted_and_it_is_said(
    world: World, monkeypatch, from_rung: int
):
    """The confirmation read the last checkpoint of a trial without one: IndexError, at each run.

    In a later phase it took the checkpoint that all begin at for a model of the recipe's own rates.
    """
    formula, steps = losses_of, []

    def measure(job: SearchJob) -> Measured:
        steps.append(job.until_step)
        is_own = set(job.train.phases[-1].lr_by_part.values()) == {1e-4}
        return Measured((), "diverged") if is_own and job.until_step >= min(steps) << from_rung else formula(job)

    monkeypatch.setattr("test_search.losses_of", measure)
    table = world.search()
    assert table.confirmation is None and table.recommended == 0 != table.best
    assert table.trials[0].losses[from_rung] is None and table.choosing_utterances == 12
    assert table.sentence.startswith("The recipe's own rates diverge") and f"trial {table.best} (" in table.sentence
    assert world.recipe.train == load_recipe("demo", [f"train.phases=[{PHASE}]"]).train


def test_where_every_trial_diverges_it_is_not_said_that_the_own_rates_are_best(world: World, monkeypatch):
    monkeypatch.setattr("test_search.losses_of", lambda job: Measured((), "diverged"))
    assert world.search().sentence.startswith("The recipe's own rates diverge, and so does every trial")


def test_what_cannot_be_searched_is_one_sentence(world: World):
    with pytest.raises(RecipeError, match="trains no such part; did you mean 'head'"):
        world.search(Asked(proposals="halton", parts=("haed",)))
    with pytest.raises(RecipeError, match="--phase C: there is no such phase"):
        world.search(Asked(proposals="halton", phase="C"))
    with pytest.raises(RecipeError, match="raise --budget, or give fewer --trials"):
        world.search(Asked(proposals="halton", budget=0.1))


def test_without_dev_there_is_nothing_to_choose_on(world: World):
    with pytest.raises(DataError, match="no dev split to choose on"):
        world.search(num_dev=0)


def test_a_tower_stands_for_its_parts_and_a_factor_of_one_changes_nothing():
    phase = PhaseConfig(
        name="A", num_epochs=1, warmup_steps=10,
        lr_by_part={"encoder.conv": 3e-4, "encoder.layers[0:6]": 1e-4, "head": 1e-4, "lora": 0.5},
        lr_if_diverged={"head": 1e-5},
    )  # fmt: skip
    found = dimensions_of(phase, (), warmup=True)
    assert found == {"encoder": ("encoder.conv", "encoder.layers[0:6]"), "head": ("head",), "lora": ("lora",),
                     "warmup": ()}  # fmt: skip
    assert phase_at(phase, found, dict.fromkeys(found, 1.0)) == phase
    moved = phase_at(phase, found, {"encoder": 0.1, "head": 3.16, "lora": 10.0, "warmup": 0.316})
    assert moved.lr_by_part == {"encoder.conv": 3e-5, "encoder.layers[0:6]": 1e-5, "head": 3.16e-4, "lora": 1.0}
    assert moved.lr_if_diverged == {"head": 3.16e-5} and moved.warmup_steps == 3
    assert dimensions_of(phase, ("encoder.conv", "head"), warmup=False) == {
        "encoder.conv": ("encoder.conv",), "head": ("head",)
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"'encoder.conv' is in two of the parts"):
        dimensions_of(phase, ("encoder", "encoder.conv"), warmup=False)


def test_no_group_both_chooses_and_confirms(tmp_path: Path):
    """A speaker who chose the rates would flatter them."""
    from shibolet.evaluate.dev import DevRow

    rows = [
        DevRow(Utterance(id=f"u{i}", audio=AudioRef(path=""), text="a", duration_s=1.0 + i % 3, source="dev",
                         speaker=f"s{i % 7}"), b"") for i in range(70)
    ]  # fmt: skip
    parts = divide_dev(rows, seed=0)
    speakers = [{row.utterance.speaker for row in part} for part in (parts.choosing, parts.confirming)]
    assert not speakers[0] & speakers[1] and len(speakers[0] | speakers[1]) == 7
    assert len(parts.choosing) + len(parts.confirming) == 70 and min(map(len, speakers)) >= 3
    assert divide_dev(rows, seed=0) == parts


def test_the_reason_why_nothing_is_admitted_is_named():
    assert is_admitted(GAIN) == (True, "")
    assert "no likelier with their own audio" in is_admitted(
        GAIN.model_copy(update=SHOWS_NOTHING["the texts are of other audio"])
    )[1]  # fmt: skip


def job_in(prepared_dir: Path) -> SearchJob:
    return SearchJob(
        prepared_dir=prepared_dir, out_dir=prepared_dir, base="", train=load_recipe("demo").train, language="Hebrew",
        seed=0, num_threads=None, source=prepared_dir, shared_step=0, until_step=1, shares_cache=False, choosing=(),
    )  # fmt: skip


@pytest.mark.slow("search", seconds=60)
def test_a_dev_set_whose_texts_were_shuffled_admits_nothing_and_the_right_one_is_heard(tmp_path: Path):
    """There every word is wrong, and the model that writes least has the lowest WER: an interval alone would admit it.

    With the shipped Round 1 on synthetic speech, the texts as they are and shuffled.
    """
    pytest.importorskip("espeakng_loader")
    from shibolet.demo.corpus import CorpusConfig, build_corpus
    from shibolet.evaluate.dev import read_dev
    from shibolet.model.family import load_recogniser
    from shibolet.records.files import read_jsonl
    from shibolet.rounds.search.confirming import hears_its_texts

    build_corpus(tmp_path / "corpus", 5, CorpusConfig(num_train=4, num_long=0, num_test=32, recording_utterances=2))
    rows = read_jsonl(tmp_path / "corpus" / "test_clean" / "manifest.jsonl")
    loaded, texts = load_recogniser("builtin:round1"), [row["text"] for row in rows]
    for name, said in (("right", texts), ("shuffled", random.Random(0).sample(texts, len(texts)))):
        (tmp_path / name).mkdir()
        writer = ShardWriter(tmp_path / name, "dev", 1000)
        for row, text in zip(rows, said, strict=True):
            path = tmp_path / "corpus" / "test_clean" / row["audio"]
            samples, _ = soundfile.read(path, dtype="float32")
            utterance = Utterance(
                id=row["id"], audio=AudioRef(path=""), text=text, duration_s=len(samples) / 16000, source="here",
                speaker=row["speaker"],
            )  # fmt: skip
            flac = encode_flac(samples)
            writer.add(Piece.whole(utterance, flac), flac)
        writer.close()
        found = hears_its_texts(loaded, job_in(tmp_path / name), read_dev(tmp_path / name))
        admitted, why = is_admitted(GAIN.model_copy(update={"control": found}))
        assert admitted == (name == "right"), (found, why)
