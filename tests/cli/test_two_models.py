"""`two-models`: who only compares systems has no training data, and invents no rest of a round."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

SAID = ["בית גדול", "ספר טוב", "ילד קטן", "ים כחול"]


@pytest.fixture
def told(tmp_path, monkeypatch) -> list[str]:
    """The settings of a test set of four speakers; what two systems wrote lies beside it, one wrong in every word."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number, text in enumerate(SAID):
        sf.write(f"{number}.wav", np.zeros(8000), 8000)
        rows.append({"id": f"u{number}", "audio": f"{number}.wav", "text": text, "speaker": f"s{number}"})
    Path("test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, texts in (("right", SAID), ("wrong", ["לא לא"] * len(SAID))):
        lines = [{"id": f"u{number}", "hypothesis": text} for number, text in enumerate(texts)]
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return ["-o", "ab", "--set", "language=Hebrew", "--set", "evaluate.sets.0.manifest=test.jsonl"]


def test_what_two_systems_wrote_is_compared_without_data_to_train_on(run_cli, told):
    files = [f"--hypotheses={name}={name}.jsonl" for name in ("right", "wrong")]
    assert run_cli("evaluate", "two-models", *told, *files)[0] == 0
    systems = "--system", "wrong", "--system", "right"
    code, out, _ = run_cli("compare", "two-models", *told, *systems, "--json")
    assert code == 0
    (pair,) = json.loads(out)["pairs"]
    assert pair["sentence"].startswith("right is better than wrong: WER -100.00 points")


@pytest.mark.parametrize(
    ("command", "lacking"),
    [
        ("audit", "no data.train and no audit.recogniser"),
        ("run", "no data.train and no audit.recogniser and no section 'train'"),
        ("plan", "no data.train and no audit.recogniser and no section 'train'"),
    ],
)
def test_what_needs_data_says_that_there_are_none(run_cli, told, command, lacking):
    """Without the check an audit would begin with no row and end in the middle."""
    code, _, err = run_cli(command, "two-models", *told[2 * (command == "plan") :])
    assert code == 2 and lacking in err and "two-models" in err


def test_the_page_waits_for_no_audit(run_cli, told):
    """Of what two systems wrote there is none, and "has not run in this folder" reads as a fault."""
    assert run_cli("evaluate", "two-models", *told, "--hypotheses=right=right.jsonl")[0] == 0
    assert run_cli("report", "ab")[0] == 0
    page = Path("ab/report.html").read_text(encoding="utf-8")
    assert "has not run in this folder" not in page and 'id="gate"' not in page


def test_the_baseline_has_to_be_named(run_cli, told):
    code, _, err = run_cli("compare", "two-models", *told, "--candidate", "builtin:round1")
    assert code == 2 and "models.baseline" in err


def test_check_asks_for_no_model_that_nobody_uses(run_cli, told):
    code, out, _ = run_cli("check", "two-models", *told)
    assert code == 0 and "missing" not in out and "test: 4 rows" in out
