"""The page's section of a search: the picture is true to the trials, and a search of other data is not shown."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from shibolet.records.documents.search import (
    Confirmation,
    LossDifference,
    SearchCost,
    SearchedTrial,
    SearchRung,
    SearchTable,
)  # fmt: skip
from shibolet.records.runfolder import RunFolder
from shibolet.report.export import export_figures
from shibolet.report.page import write_report
from shibolet.report.searched import responses

HOSTILE = "<script>"


def trial(number: int, encoder: float, head: float, change: float | None, *losses: float | None) -> SearchedTrial:
    ends = None if change is None else (change - 0.2, change + 0.2)
    return SearchedTrial(
        number=number, factors={"encoder": encoder, HOSTILE: head}, lr_by_part={"encoder.conv": 1e-4 * encoder},
        warmup_steps=5, lora_rank=8, losses=losses, difference=change, interval=ends,
    )  # fmt: skip


TRIALS = (
    trial(0, 1, 1, None, 0.9, 0.8), trial(1, 0.316, 1, -0.3, 0.6, 0.5), trial(2, 3.16, 1, 5.0, 5.9),
    trial(3, 1, 0.1, 0.1, 1.0), trial(4, 10, 0.1, None, None),
)  # fmt: skip


def table(**changes) -> SearchTable:
    found = Confirmation(
        own_wer_pct=20.0, found_wer_pct=15.0, points=-5.0, interval_points=(-8.0, -2.0), counted="6 speakers",
        control=LossDifference(difference=-2.0, interval=None),
    )  # fmt: skip
    values = {
        "phase": "A", "dimensions": {"encoder": ("encoder.conv",), HOSTILE: ()}, "phase_steps": 80,
        "most": 10.0, "proposals": "halton",
        "rungs": (SearchRung(steps=10, trials=5), SearchRung(steps=20, trials=2)), "trials": TRIALS,
        "choosing_utterances": 40, "left_out_utterances": 3,
        "confirming_utterances": 50, "best": 1, "confirmation": found, "recommended": 1,
        "sentence": "Trial 1 has the lowest loss.",
        "cost": SearchCost(
            training_steps=100, beginning_steps=20, trial_steps=70, times_own=1.0, loss_steps=7.0, trainings=0.97
        ),
    }  # fmt: skip
    return SearchTable(**values | changes)


def test_every_trial_is_a_mark_inside_the_frame_at_its_factor():
    """A trial that is far worse stands at the edge and not outside; a name is text."""
    known = [one for one in TRIALS if one.difference is not None]
    figure = responses(["encoder", HOSTILE], known, 10.0)
    for svg in ElementTree.fromstring(f"<div>{figure}</div>").iter("svg"):
        _, _, width, height = map(float, svg.get("viewBox").split())
        dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in svg.iter("circle")]
        assert len(dots) == 2 * (len(known) + 1) and all(0 < x < width and 0 < y < height for x, y in dots)
        alone = [dot for dot in svg.iter("circle") if dot.get("class") == "point"]
        assert len(alone) == 3
        first, second, _ = alone
        assert float(first.get("cx")) < float(second.get("cx")) and float(first.get("cy")) > float(second.get("cy"))
    assert "&lt;script" in figure and "<script" not in figure
    assert len(figure.rows) == 6 and figure.rows[0][:3] == ("encoder", 0.316, -0.3)


@pytest.mark.parametrize("confirmed", [True, False])
def test_the_page_shows_the_search_and_what_was_confirmed(run_dir: Path, tmp_path: Path, confirmed: bool):
    shutil.copytree(run_dir, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    made = table() if confirmed else table(confirmation=None, recommended=0)
    made.write(run.search)
    run.seal("search")
    page = write_report(run.path).read_text(encoding="utf-8")
    assert 'id="search"' in page and "Trial 1 has the lowest loss." in page and "diverged" in page
    assert ("both after 20 of the phase&#39;s 80 steps" in page) == confirmed and "20 of 80 steps" in page
    assert ("for their losses; the confirmation comes on top." in page) == confirmed
    assert ("6 speakers" in page) == ("40 dev utterances (3 more cannot be trained on)" in page) == confirmed
    assert any(path.name == "search-overview.csv" for path in export_figures(run.path, tmp_path / "figures"))


def test_without_a_search_there_is_no_section(run_dir: Path, tmp_path: Path):
    shutil.copytree(run_dir, tmp_path / "run")
    assert 'id="search"' not in write_report(tmp_path / "run").read_text(encoding="utf-8")
