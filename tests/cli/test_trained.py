"""What the terminal says of a training: the result, and what the recipe expected of it."""

from pathlib import Path
from types import SimpleNamespace

from training_documents import phase_plan, train_result, training_plan

from shibolet.cli.stages import _trained
from shibolet.recipe import load_recipe
from shibolet.records.documents.training import DevRates, DevScore
from shibolet.records.runfolder import RunFolder


def test_expected_and_measured_wer_and_a_loss_on_dev_are_said(tmp_path: Path):
    """Who reads no page has to see it too; a recipe that expects nothing gets no such line."""
    run = RunFolder(tmp_path)
    run.train.mkdir()
    training_plan(phase_plan("B", epochs=2, steps=64, lr_by_part={})).write(run.plan)
    dev = tuple(DevScore(step=step, phase="B", wer=wer, cer=0.1) for step, wer in ((0, 0.24), (32, 0.15), (50, 0.2)))
    result = train_result(dev=dev, chosen_dev=DevRates(wer=0.25, cer=0.1), warning="on dev it was better before")
    said = {
        name: _trained(result, SimpleNamespace(folder=run, recipe=load_recipe(name))).splitlines()
        for name in ("hebrew-round2", "demo")
    }
    assert said["hebrew-round2"][1:] == [
        "Warning: on dev it was better before.",
        "Dev WER by finished epochs, against what the recipe expects: 0: 24.0% (+2.0 points), 1: 15.0% (-1.0 points)",
    ]
    assert said["demo"] == said["hebrew-round2"][:2]
