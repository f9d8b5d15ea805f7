"""From round to round: protects from a next round that starts elsewhere, hears again, or has another's name."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_scores import SAID, comparison_of

from shibolet.errors import DataError, RecipeError
from shibolet.recipe import load_recipe, write_recipe
from shibolet.records.files import take_over, write_json
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import auditing
from shibolet.rounds.lineage import take_over_evidence, title_after, write_next
from shibolet.rounds.shared import folder_of


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """Round 2 of the small Hebrew recipe, trained."""
    folder = RunFolder(tmp_path / "runs" / "two")
    recipe = load_recipe("hebrew-small", ["data.train.0.manifest=mine.jsonl", "title=Round 2"])
    write_recipe(recipe, folder.recipe)
    stage = folder.stage("train", {"seed": 0})
    for name in ("plan.json", "result.json"):
        write_json(folder.train / name, {})
    (folder.final / "model.safetensors").parent.mkdir()
    (folder.final / "model.safetensors").write_bytes(b"w")
    stage.finish()
    return folder


def test_the_next_round_starts_from_this_ones_model_and_has_to_beat_it(finished, tmp_path) -> None:
    path = tmp_path / "recipes" / "three.yaml"
    recipe = write_next(finished.path, path, force=True)
    assert (recipe.name, recipe.title, recipe.models.baseline_title) == ("three", "Round 3", "Round 2")
    assert recipe.models.base == recipe.models.baseline == str(finished.final)
    assert recipe.parent == finished.path
    assert recipe.models.baseline_trained_on == tuple(one.name for one in recipe.data.train)
    before = load_recipe(finished.recipe)
    same = {"name", "title", "parent", "models"}
    assert recipe.model_dump(exclude=same) == before.model_dump(exclude=same)


def test_comments_of_the_recipe_that_it_is_like_stay(finished, tmp_path) -> None:
    path = tmp_path / "three.yaml"
    recipe = write_next(finished.path, path, source="hebrew-round3", force=True)
    text = path.read_text(encoding="utf-8")
    assert "# the encoder's top half hears the channel" in text and text.startswith("# Round 3, after Round 2:\n")
    assert recipe.train == load_recipe("hebrew-round3", ["models.base=x", "models.baseline=x"]).train
    assert recipe.parent == finished.path


def test_paths_of_a_recipe_elsewhere_still_lead_to_its_data(finished, tmp_path) -> None:
    """Comments are given up where the text, as it stands, would name other files from the new folder."""
    like = tmp_path / "far" / "like.yaml"
    write_recipe(load_recipe(finished.recipe, [f"data.train.0.manifest={tmp_path / 'far' / 'data.jsonl'}"]), like)
    recipe = write_next(finished.path, tmp_path / "near" / "three.yaml", source=str(like), force=True)
    assert recipe.data.train[0].manifest == tmp_path / "far" / "data.jsonl"


def test_a_round_that_is_not_finished_or_not_kept_has_no_next(finished, tmp_path) -> None:
    with pytest.raises(DataError, match="nothing is trained there; 'shibolet run' comes first"):
        bare = RunFolder(tmp_path / "bare")
        write_recipe(load_recipe(finished.recipe), bare.recipe)
        write_next(bare.path, tmp_path / "three.yaml", force=True)
    sets = 'evaluate.sets=[{"name": "one", "manifest": "one.jsonl"}]'  # of a branch the verdict is in .aside/
    write_recipe(load_recipe(finished.recipe, [sets]), finished.recipe)
    with pytest.raises(DataError, match="Round 2 was not compared yet: 'shibolet run' does it; --force"):
        write_next(finished.path, tmp_path / "three.yaml")
    comparison_of(SAID, SAID).write(finished.compare)
    with pytest.raises(DataError, match=r"Round 2 is not kept .*; --force takes it all the same"):
        write_next(finished.path, tmp_path / "three.yaml")
    with pytest.raises(RecipeError, match="'next' itself decides name, title, parent, models; edit the file"):
        write_next(finished.path, tmp_path / "three.yaml", changes=["models.baseline=other"], force=True)
    (tmp_path / "there.yaml").write_text("")
    with pytest.raises(RecipeError, match="exists; name a new file"):
        write_next(finished.path, tmp_path / "there.yaml", force=True)


@pytest.mark.parametrize(
    ("title", "after"), [("Round 2", "Round 3"), ("Runde 9 (klein)", "Runde 10 (klein)"), ("v1.9", "v1.10")]
)
def test_titles_count_on(title: str, after: str) -> None:
    assert title_after(title) == after


def test_a_title_without_a_number_is_asked_for() -> None:
    with pytest.raises(RecipeError, match="name this one with --title"):
        title_after("the first")


def test_what_the_round_before_made_from_the_same_inputs_is_taken_over(finished, tmp_path) -> None:
    stage = finished.stage("prepare", {"data": "x"})
    finished.prepared.mkdir()
    (finished.prepared / "train-00000.parquet").write_bytes(b"rows")
    stage.finish()
    child = RunFolder(tmp_path / "three", finished)
    taken = child.stage("prepare", {"data": "x"})
    assert taken.done and "taken over from" in taken.note
    assert (child.prepared / "train-00000.parquet").read_bytes() == b"rows"
    assert child.verified("prepare") == finished.verified("prepare")
    assert child.stage("prepare", {"data": "x"}).note == "prepare: done before, nothing changed"


@pytest.mark.parametrize("wrong", ["other inputs", "altered", "a table of an audit"])
def test_nothing_else_of_the_round_before_is_taken(finished, tmp_path, wrong: str) -> None:
    name = "audit" if wrong == "a table of an audit" else "prepare"
    stage = finished.stage(name, {"data": "x"})
    made = finished.path / ("audit/alignment_report.json" if name == "audit" else "prepared/train-00000.parquet")
    made.parent.mkdir(exist_ok=True)
    made.write_bytes(b"rows")
    stage.finish()
    if wrong == "altered":
        made.write_bytes(b"swor")
    inputs = {"data": "y" if wrong == "other inputs" else "x"}
    assert RunFolder(tmp_path / "three", finished).stage(name, inputs).state == "new"


def test_evidence_is_taken_over_and_what_is_heard_later_stays_apart(finished, tmp_path) -> None:
    heard = finished.audit() / "heard" / "ears"
    heard.mkdir(parents=True)
    (heard / "a.jsonl").write_text("one")
    child = RunFolder(tmp_path / "three", finished)
    take_over_evidence(child, print)
    assert (child.audit() / "heard" / "ears" / "a.jsonl").read_text() == "one"
    (child.audit() / "heard" / "ears" / "b.jsonl").write_text("two")
    assert not (heard / "b.jsonl").exists()


def test_what_is_taken_over_is_whole_or_absent(tmp_path, monkeypatch) -> None:
    """A file that was cut off half-way would be taken for evidence; two jobs of an array may begin together."""
    source, target = tmp_path / "one" / "a.jsonl", tmp_path / "two" / "a.jsonl"
    source.parent.mkdir()
    source.write_text("one")
    link = os.link

    def too_late(file: Path, place: Path) -> None:
        link(file, place)
        link(file, place)  # another job was first

    monkeypatch.setattr("os.link", too_late)
    take_over(source, target)
    assert target.read_text() == "one" and source.read_text() == "one"
    target.unlink()

    def without_links(file: Path, place: Path) -> None:
        raise OSError("no links on this disk")

    def cut_off(original, copy) -> None:
        copy.write(b"o")
        raise KeyboardInterrupt

    monkeypatch.setattr("os.link", without_links)
    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr("shutil.copyfileobj", cut_off)
        take_over(source, target)
    assert not target.exists()
    take_over(source, target)
    assert target.read_text() == "one" and target.stat().st_ino != source.stat().st_ino


def test_a_parent_that_is_gone_is_told(finished, tmp_path) -> None:
    recipe = load_recipe(finished.recipe, [f"parent={tmp_path / 'gone'}"])
    with pytest.raises(DataError, match="is not a run folder; put it back, or leave 'parent' out"):
        folder_of(recipe, tmp_path / "three")


def test_a_judge_that_was_trained_on_these_data_is_said(finished, tmp_path) -> None:
    """It has learnt their errors too: a clean second audit by the round's own model is no evidence."""
    path, own = tmp_path / "three.yaml", f"audit.recogniser={finished.final}"
    recipe = write_next(finished.path, path, changes=[own], force=True)
    (said,) = auditing._same_model(SimpleNamespace(recipe=recipe), False)
    assert "is the same model as models.base and models.baseline. By models.baseline_trained_on it was trained" in said
    assert f"trained on {recipe.data.train[0].name}, so it has learned the wrong texts among them" in said
    unknown = load_recipe(path, ["models.baseline_trained_on=[]"])
    (said,) = auditing._same_model(SimpleNamespace(recipe=unknown), False)
    assert "If it was trained on these recordings, it has learned" in said
