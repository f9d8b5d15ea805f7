"""A round whose recipe has `parts`: one command, and its page says which part gave what, with intervals."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_round import RECIPE, must, write_corpus

from shibolet.errors import RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.documents.comparison import Waterfall
from shibolet.records.documents.training import TrainResult
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import parts, stages
from shibolet.rounds.shared import open_round
from shibolet.rounds.tuning import GREEDY

CODEC = {"codec": {"share": 0.5, "channels": ["telephone"]}}
TRAIN = {**RECIPE["train"], "encoder_cache": False, "augment": CODEC, "average_best": 2, "eval_every_steps": 1}


@pytest.mark.slow("artefacts", seconds=40)
def test_the_page_of_a_round_shows_what_each_part_gave(tmp_path: Path, monkeypatch):
    """Training with codecs, average, decoding: nobody asks for the chain, and a second start scores nothing again.

    What dev recommends is given, and that the result is an average: a dev set of four utterances shows neither.
    """
    pytest.importorskip("espeakng_loader")
    tune, beams = parts.do_tune_decoding, GREEDY.model_copy(update={"beam_size": 2})
    monkeypatch.setattr(parts, "do_tune_decoding", lambda own: tune(own).model_copy(update={"recommended": beams}))
    monkeypatch.setattr("shibolet.rounds.tuning.Grid.settings", lambda self, with_ngram=False: [GREEDY, beams])
    averaged = lambda path: TrainResult.read(path).model_copy(update={"averaged_steps": (1, 2)})  # noqa: E731
    monkeypatch.setattr(parts, "TrainResult", SimpleNamespace(read=averaged))
    audit = {"aligner": None, "recogniser": str(tmp_path / "heard.jsonl"), "selftest": {"num_clips": 10}}
    gate = {"stop_above_pct": 100, "accept": ["INVALID"]}
    recipe = write_corpus(tmp_path, 24, 6, audit={**audit, "num_workers": 0}, gate=gate, train=TRAIN, parts={})
    rows = read_jsonl(tmp_path / "run" / "corpus" / "train" / "manifest.jsonl")
    write_jsonl(tmp_path / "heard.jsonl", [{"id": row["id"], "hypothesis": row["text"]} for row in rows])
    run = RunFolder(tmp_path / "run")
    must("run", recipe, "-o", run.path)

    made = Waterfall.read(run.waterfall)
    assert list(made.systems) == ["round1", "round2-single", "round2", "round2-decoded"]
    assert made.whole.titles == ("Round 1", "Round 2, beam size 2 with length penalty 1")
    assert all(step.overall.wer.interval_points for step in made.steps)
    page = run.report.read_text(encoding="utf-8")
    assert "Which part gave what" in page and "Round 2, beam size 2 with length penalty 1" in page
    assert load_recipe(run.recipe).evaluate.beam_size == 1, "the round's own settings stay"

    before = run.waterfall.stat().st_mtime_ns
    assert "parts: The whole chain" in must("run", recipe, "-o", run.path).said
    assert run.waterfall.stat().st_mtime_ns == before


def test_parts_and_other_seeds_do_not_outlive_the_training_that_they_are_of(tmp_path):
    """Their scores would stay on the page beside a result that they are no parts of."""
    gone = [
        "evaluate/round2/clean", "evaluate/round2-single/clean", "evaluate/round2-decoded/clean",
        "evaluate/round2seed3/clean", "doubtful/round2-single/clean", "non-speech/round2seed3", "parts/single",
        "compare",
    ]  # fmt: skip
    stay = ["evaluate/round1/clean", "evaluate/round1seed3/clean", "evaluate/mine/clean", "non-speech/round1"]
    with open_round(load_recipe("demo"), tmp_path / "run", "train", print) as current:
        for name in (*gone, *stay):
            current.folder.stage(name, {"model": "of before"}).finish()
        stages._retire_of_others(current)
        assert [name for name in (*gone, *stay) if current.folder.finished(name)] == stay


def test_parts_that_cannot_be_told_apart_are_refused_before_anything_runs():
    """With beams for both rounds the decoding is no step, and a waterfall would say that it gave nothing."""
    with pytest.raises(RecipeError, match="names a way to decode, which both rounds have"):
        load_recipe("demo", ["parts={}", "evaluate.beam_size=4"])
    with pytest.raises(RecipeError, match="a server has one model"):
        load_recipe("demo", ["parts={}", "evaluate.servers.candidate={url: http://localhost:8000}"])
    assert load_recipe("demo", ["parts={tune_decoding: false}", "evaluate.beam_size=4"]).parts
