"""The chain of rounds: protects from gains without their intervals, and from a chain that ends without a word."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from training_documents import phase_plan, training_plan

from shibolet.cli.tables import show_chain
from shibolet.errors import DataError
from shibolet.recipe import load_recipe, write_recipe
from shibolet.records.runfolder import RunFolder
from shibolet.report.lineage import chain_of
from shibolet.report.page import write_report

_spec = importlib.util.spec_from_file_location("a_run", Path(__file__).parent / "conftest.py")
a_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(a_run)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory) -> tuple[RunFolder, RunFolder]:
    """Round 2, and Round 3 after it."""
    folder = tmp_path_factory.mktemp("rounds")
    two, three = RunFolder(folder / "two"), RunFolder(folder / "three")
    for run, titles in ((two, ("Round 1", "Round 2")), (three, ("Round 2", "Round 3"))):
        run.path.mkdir()
        a_run.write_run(run.path, titles)
    write_recipe(load_recipe(three.recipe, [f"parent={two.path}"]), three.recipe)
    three.seal("start")
    return two, three


def test_every_round_is_there_with_its_wer_its_gain_and_its_time(rounds, capsys) -> None:
    three = rounds[1]
    chain = chain_of(three.path)
    assert [one.title for one in chain.rounds] == ["Round 1", "Round 2", "Round 3"]
    assert [one.folder for one in chain.rounds] == [None, str(three.path / "../two"), str(three.path)]
    first, second, third = (one.sets["whatsapp"] for one in chain.rounds)
    assert first.points is None and second.points == pytest.approx(100 * (second.wer - first.wer))
    assert third.interval_points[0] < third.points < third.interval_points[1] and third.interval[0] < third.wer
    assert [one.verdict for one in chain.rounds] == [None, "reject", "reject"]
    assert chain.rounds[0].hours is None and chain.rounds[1].hours == pytest.approx(286 * 0.4 / 3600)
    show_chain(chain)
    out = capsys.readouterr().out
    assert "Round 3" in out and f"{third.points:+.1f}" in out and "reject, 2 min" in out


def test_the_page_of_a_later_round_shows_the_chain_and_that_of_the_first_none(rounds) -> None:
    two, three = rounds
    page = write_report(three.path).read_text(encoding="utf-8")
    assert '<section id="chain">' in page and '<a href="#chain">Rounds</a>' in page
    assert '<section id="chain">' not in write_report(two.path).read_text(encoding="utf-8")


def test_the_cost_is_that_of_the_gpus_by_the_clock(rounds, tmp_path: Path, monkeypatch) -> None:
    from shibolet.records.documents.training import Memory, StepRow, write_lines

    run = RunFolder(tmp_path / "two")
    shutil.copytree(rounds[0].path, run.path)
    plan = training_plan(phase_plan("B", epochs=1, steps=1, lr_by_part={"head": 1e-4}))
    cost = plan.cost.model_copy(update={"price_per_gpu_hour_usd": 0.8})
    plan.model_copy(update={"cost": cost, "gpu": plan.gpu.model_copy(update={"number": 2})}).write(run.plan)
    memory = Memory(device_used_gib=1, device_used_pct=1, allocated_peak_gib=1, allocated_peak_pct=1)
    steps = [row.model_copy(update={"memory": memory}) for row in StepRow.read_all(run.metrics)]
    write_lines(run.metrics, steps)
    one = chain_of(run.path).rounds[-1]
    assert one.gpus == 2 and one.usd == pytest.approx(0.8 * 2 * one.hours)


def test_a_round_before_that_is_gone_is_told_and_a_circle_is_refused(rounds, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "three")
    shutil.copytree(rounds[1].path, run.path)
    chain = chain_of(run.path)
    assert [one.title for one in chain.rounds] == ["Round 2", "Round 3"] and "not there any more: two" in chain.missing
    assert "not there any more: two" in write_report(run.path).read_text(encoding="utf-8")
    write_recipe(load_recipe(run.recipe, [f"parent={run.path}"]), run.recipe)
    with pytest.raises(DataError, match="which comes after it"):
        chain_of(run.path)
