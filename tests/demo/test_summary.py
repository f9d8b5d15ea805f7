"""What the demo says in the end: protects from a summary that leaves the truth or the verdict out."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from shibolet.cli.options import print_json
from shibolet.cli.tables import show_demo
from shibolet.demo.round import summary_of
from shibolet.records.runfolder import RunFolder

_spec = importlib.util.spec_from_file_location("a_run", Path(__file__).parents[1] / "report" / "conftest.py")
a_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(a_run)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    path = tmp_path_factory.mktemp("run")
    a_run.write_run(path)
    return RunFolder(path)


def test_verdicts_truth_and_comparison_are_shown(run, capsys) -> None:
    show_demo(summary_of(run, seed=3, code=40))
    said = capsys.readouterr().out
    for part in (
        "Gate: STOP", "Gate on what was kept: PROCEED", "The truth, opened after the round", "1.7% of them damaged",
        "Round 1 against Round 2: reject", "Trained without prepare, whatsapp: WER", "All speech in it is synthetic.",
    ):  # fmt: skip
        assert part in said, part


def test_as_json_it_has_the_documents_of_the_folder(run, capsys) -> None:
    print_json(summary_of(run, seed=3, code=40))
    printed = json.loads(capsys.readouterr().out)
    assert (printed["seed"], printed["exit_code"]) == (3, 40)
    for name, path in (("truth", run.path / "truth.json"), ("compare", run.compare), ("gate", run.gate())):
        assert printed[name] == json.loads(path.read_text(encoding="utf-8")), name


def test_a_round_that_ended_at_the_gate_has_no_comparison(run, tmp_path, capsys) -> None:
    for path in (run.recipe, run.gate(), run.path / "truth.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    summary = summary_of(RunFolder(tmp_path), seed=3, code=20)
    assert summary.compare is None and {"compare", "gate_prepared"}.isdisjoint(summary.to_json())
    show_demo(summary)
    assert "against" not in capsys.readouterr().out


def test_a_round_that_kept_nothing_has_no_share_of_damaged_utterances(run, capsys) -> None:
    summary = summary_of(run, seed=3, code=0)
    left = {"kept_utterances": 0, "kept_damaged": 0, "kept_damaged_pct": None, "good_hours_lost_pct": 100.0}
    nothing = summary.truth.after_prepare.model_copy(update=left)
    truth = summary.truth.model_copy(update={"after_prepare": nothing})
    show_demo(replace(summary, truth=truth))
    assert "Kept: 0 utterances; 100.0% of the good hours are lost." in capsys.readouterr().out
