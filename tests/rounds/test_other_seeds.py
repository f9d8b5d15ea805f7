"""Protects the verdict of a round from runs that are named as other seeds of its training and are not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.compare.config import CompareConfig
from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.listen.engine import Engine, Written
from shibolet.recipe import load_recipe
from shibolet.records.files import write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import scoring
from shibolet.rounds.flow import run_round
from shibolet.rounds.seeds import require_seeds, with_other_seeds
from shibolet.rounds.shared import Round, open_round

TEXTS = [f"{word} {other}" for word in ("שלום", "ילד") for other in ("טוב", "גדול", "קטן", "חדש", "ישן")]


class Says(Engine):
    """Hears, of a clip whose first sample is i / 100, the i-th text with its second word for the first so many."""

    clips_at_once = 4

    def __init__(self, right: int) -> None:
        self.right = right

    def write(self, clips):
        heard = [int(100 * clip[0] + 0.5) for clip in clips]
        return [Written(TEXTS[i] if i < self.right else TEXTS[i].split()[0], "end") for i in heard]


def trained(path: Path, seed: int, data: str = "d", lr: float = 1.0, **inputs) -> Path:
    """A run folder with a training of that seed."""
    folder = RunFolder(path)
    path.mkdir()
    folder.recipe.write_text(f"name: demo\nseed: {seed}\n")
    folder.stage("prepare", {"data": data, "seed": seed}).finish()
    stage = folder.stage("train", {"train": {"lr": lr}, "seed": seed, "prepared": path.name, **inputs})
    folder.final.mkdir(parents=True)
    (folder.final / "config.json").write_text("{}")
    stage.finish()
    return path


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """The verdict of a round of seed 0 whose set has ten utterances; `right` has how many each label hears whole."""
    rows = []
    for i in range(10):
        sf.write(tmp_path / f"{i}.wav", np.full(16000, i / 100, np.float32), 16000, subtype="FLOAT")
        rows.append({"audio": f"{i}.wav", "text": TEXTS[i], "id": f"u{i}", "recording": f"r{i}"})
    write_jsonl(tmp_path / "set.jsonl", rows)
    changes = [
        "evaluate.audit_sets=false", "compare.loop_cost=0", "compare.bootstrap_samples=200",
        f"evaluate.sets=[{{name: held, manifest: {tmp_path}/set.jsonl}}]",
    ]  # fmt: skip
    monkeypatch.setattr(Round, "identity", lambda self, model: f"hash of {Path(model).parent.parent}")
    trained(tmp_path / "run", 0)

    def run(right: dict[str, int], *more: str):
        monkeypatch.setattr(Round, "transcriber", lambda self, model, label, language, context=None: Says(right[label]))
        with open_round(load_recipe("demo", [*changes, *more]), tmp_path / "run", "run", lambda said: None) as current:
            scoring.do_evaluate(current, with_other_seeds(current, scoring.candidates_of(current)))
            return scoring.do_compare(current)

    return run


def test_other_seeds_are_scored_and_decide_with_the_rounds_own(compared, tmp_path):
    """Protects from a recipe that names seeds and a verdict that does not look at them."""
    right = {"round1": 2, "round2": 8, "round2seed1": 7, "round2seed2": 9}
    others = [trained(tmp_path / f"run{seed}", seed) for seed in (1, 2)]
    made = compared(right, f"compare.candidate_seeds=[{others[0]}, {others[1]}]")
    assert made.seeds.candidate.wer_pct == (10.0, 15.0, 5.0) and made.seeds.baseline.wer_pct == (40.0,)
    assert made.is_kept and "Over 3 seeds of Round 2" in made.sentence
    trained(tmp_path / "run3", 3)
    unlucky = right | {"round2seed3": 0}
    made = compared(unlucky, f"compare.candidate_seeds=[{others[0]}, {tmp_path / 'run3'}]")
    assert not made.is_kept and made.refusals[0].limit == "seeds"


def test_the_same_file_of_scores_gives_the_same_verdict_after_a_restart(compared, tmp_path):
    """Protects from a stage that does not know the seeds it was made from: it would keep the verdict of others."""
    right = {"round1": 2, "round2": 8, "round2seed1": 7, "round2seed2": 9}
    others = [trained(tmp_path / f"run{seed}", seed) for seed in (1, 2)]
    named = f"compare.candidate_seeds=[{others[0]}, {others[1]}]"
    assert compared(right, named) == compared(right, named)
    assert compared(right).seeds is None


def test_another_training_is_no_other_seed(compared, tmp_path):
    """Protects from a variance between recipes that passes for one between seeds."""
    right = {"round1": 4, "round2": 16}
    same, rate, data = (
        trained(tmp_path / "same", 1), trained(tmp_path / "rate", 2, lr=2.0), trained(tmp_path / "data", 3, data="e")
    )  # fmt: skip
    for wrong, why in ((rate, "its train differ"), (data, "its data differ")):
        with pytest.raises(RecipeError, match=why):
            compared(right, f"compare.candidate_seeds=[{same}, {wrong}]")
    twin = trained(tmp_path / "twin", 0)
    with pytest.raises(RecipeError, match="both have the seed 0"):
        compared(right, f"compare.candidate_seeds=[{same}, {twin}]")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="stage 'train' is not done"):
        compared(right, f"compare.candidate_seeds=[{same}, {tmp_path / 'empty'}]")


def test_a_round_asks_for_the_other_seeds_before_it_trains(tmp_path):
    """Protects from a training that is paid for before a wrong path is told."""
    done = trained(tmp_path / "done", 1)
    config = load_recipe("demo", [f"compare.candidate_seeds=[{done}, {tmp_path / 'none'}]"])
    with open_round(config, tmp_path / "run", "run", lambda said: None) as current:
        current.recipe = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"sets": ()})})
        with pytest.raises(DataError, match="none: stage 'train' is not done"):
            run_round(current)


def test_a_round_refuses_seeds_of_another_training_before_it_trains(tmp_path):
    """Protects from a training that is paid for before its seeds are found to be of other settings."""
    changes = ["train.utterances_per_step=8", "evaluate.sets=[]"]
    same = load_recipe("demo", changes).train.identity()
    runs = [trained(tmp_path / f"run{seed}", seed, train=same, language="Hebrew") for seed in (1, 2)]
    named = f"compare.candidate_seeds=[{runs[0]}, {runs[1]}]"

    def begin(*more: str) -> None:
        with open_round(load_recipe("demo", [*changes, named, *more]), tmp_path / "own", "run", print) as current:
            require_seeds(current)

    begin()
    with pytest.raises(RecipeError, match=r"run1 is another training than .*own: its train differ"):
        begin("train.utterances_per_step=4")
    with pytest.raises(RecipeError, match=r"run2 and .*own both have the seed 2"):
        begin("seed=2")


def test_the_seed_is_that_of_the_training_and_not_of_a_recipe_that_changed_since(compared, tmp_path):
    """Protects from a seed that counts twice: a later command with `--set seed=1` writes recipe.yaml anew."""
    others = [trained(tmp_path / f"run{seed}", seed) for seed in (1, 2)]
    RunFolder(others[1]).recipe.write_text("name: demo\nseed: 1\n")
    named = f"compare.candidate_seeds=[{others[0]}, {others[1]}]"
    right = {"round1": 2, "round2": 8, "round2seed1": 7, "round2seed2": 9}
    assert compared(right, named).seeds.candidate.wer_pct == (10.0, 15.0, 5.0)


def test_a_baseline_of_no_run_folder_has_no_seeds(compared, tmp_path):
    """Protects from seeds of a model of which nobody knows how it was trained."""
    others = [trained(tmp_path / f"run{seed}", seed) for seed in (1, 2)]
    with pytest.raises(RecipeError, match=r"Round 1 \(builtin:round1\) is not the model that a run folder has trained"):
        compared({}, f"compare.baseline_seeds=[{others[0]}, {others[1]}]")


def test_other_seeds_and_parts_are_asked_and_told_as_the_model_they_belong_to(tmp_path, monkeypatch):
    """Protects from a difference between seeds, or a step of `parts`, that is that of a prompt with names in it."""
    (terms := tmp_path / "names.txt").write_text("דנה", encoding="utf-8")
    runs = [str(trained(tmp_path / f"run{seed}", seed)) for seed in (1, 2)]
    of = {}
    for told in ("baseline", "candidate"):
        config = load_recipe("demo").model_copy(update={
            "evaluate": EvaluateConfig(
                context={"file": terms, "baseline": told == "baseline", "candidate": told == "candidate"},
                styles={told: "lower case"},
            ),
            "compare": CompareConfig(baseline_seeds=runs, candidate_seeds=runs),
        })  # fmt: skip
        monkeypatch.setattr("shibolet.listen.open.open_engines", lambda executor, model, language, **given: given)
        with open_round(config, tmp_path / told, "run", lambda said: None) as current:
            labels = [own.label for own in current.names]
            labels += [one.label for others in current.seeds for one in others.values()]
            asked = {one: current.transcriber("model", one, "Hebrew") for one in (*labels, "round2-single")}
        of[told] = [label for label, given in asked.items() if (given["context"], given["style"]) != ("", "")]
        assert all(asked[label]["context"] == "דנה" and asked[label]["style"] == "lower case" for label in of[told])
    assert of["baseline"] == ["round1", "round1seed1", "round1seed2"]
    assert of["candidate"] == ["round2", "round2seed1", "round2seed2", "round2-single"]


def test_a_server_has_no_other_seeds(tmp_path):
    """Protects from seeds that are all transcribed by the one model of a server, and so have no variance."""
    seeds = f"[{tmp_path / 'a'}, {tmp_path / 'b'}]"
    for who in ("baseline", "candidate"):
        served = f"evaluate.servers.{who}={{url: 'http://localhost:1'}}"
        with pytest.raises(RecipeError, match=f"compare.{who}_seeds: a server has one model"):
            load_recipe("demo", [f"compare.{who}_seeds={seeds}", served])
