"""Foreign systems from the command line: scored from files, compared under their names, nothing left out in silence."""

import json

import numpy as np
import pytest
import soundfile as sf
import yaml

from shibolet.recipe import find_recipe
from shibolet.report.page import write_report

SAID = ["שלום עולם טוב", "מה נשמע היום", "בית ספר גדול", "ילד קטן רץ", "אמא קנתה לחם", "הים כחול מאוד"]


@pytest.fixture
def shibolet(run_cli, tmp_path):
    """Runs a command on a recipe of two sets of the same six sentences, each of them a recording."""
    sets = []
    for name in ("clean", "noisy"):
        (tmp_path / name).mkdir()
        lines = []
        for i, text in enumerate(SAID):
            sf.write(tmp_path / name / f"{i}.wav", np.zeros(8000, np.float32), 16000)
            lines.append(json.dumps({"id": f"{name}-{i}", "audio": f"{i}.wav", "text": text, "recording": f"r{i}"}))
        (tmp_path / name / "manifest.jsonl").write_text("\n".join(lines))
        sets.append({"name": name, "manifest": str(tmp_path / name / "manifest.jsonl")})
    recipe = yaml.safe_load(find_recipe("demo").read_text(encoding="utf-8"))
    recipe["evaluate"]["sets"] = sets
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    target = (str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run"))
    return lambda command, *args: run_cli(command, *target, *args)


def jsonl(path, rows: dict[str, str]) -> str:
    path.write_text("\n".join(json.dumps({"id": id, "hypothesis": text}) for id, text in rows.items()))
    return str(path)


def leaderboard_csv(path, hypotheses: list[str]) -> str:
    rows = [f"{i},{said},{heard}" for i, (said, heard) in enumerate(zip(SAID, hypotheses, strict=True))]
    path.write_text("\n".join(["id,reference_text,predicted_text", *rows]), encoding="utf-8")
    return str(path)


def test_two_foreign_systems_are_scored_and_compared(shibolet, tmp_path):
    good = {f"{name}-{i}": text for name in ("clean", "noisy") for i, text in enumerate(SAID)}
    one = jsonl(tmp_path / "one.jsonl", {**good, "stranger": "x"})
    two = leaderboard_csv(tmp_path / "two.csv", [text.split()[0] for text in SAID])
    code, out, err = shibolet("evaluate", "--hypotheses", f"one={one}", "--hypotheses", f"two/noisy={two}", "--json")
    assert code == 0
    scores = json.loads(out)
    assert scores["one"]["clean"]["wer"]["errors"] == 0
    assert scores["two"]["noisy"]["wer"]["deletions"] == scores["two"]["noisy"]["wer"]["errors"] == 12
    assert "1 of 13 entries belong to no utterance" in err and "stranger" in err
    assert "two: no hypotheses for set 'clean', so it is not scored there" in err
    code, out, err = shibolet("compare", "--system", "one", "--system", "two", "--json")
    assert code == 0 and "not all of one, two have scores on clean" in err
    (pair,) = json.loads(out)["pairs"]
    assert list(pair["sets"]) == ["noisy"] and pair["sentence"].startswith("two is worse than one: WER +66.67 points")
    assert "over 6 recordings" in pair["sentence"] and "6 recordings" in pair["method"]["interval"]
    assert json.loads((tmp_path / "run/systems.json").read_text())["pairs"] == [pair]
    code, out, _ = shibolet("compare", "--system", "one", "--system", "two")
    assert "two is worse than one" in out and "+66.7" in out
    code, out, _ = shibolet("compare", "--system", "two", "--system", "one")
    assert "one is better than two" in out, "the order is the order of the names"
    code, out, _ = shibolet("compare", "--chain", "two", "--chain", "one")
    assert code == 0 and "Which part gave what" in out and "The whole chain: one is better than two" in out
    assert 'id="waterfall"' in write_report(tmp_path / "run").read_text(encoding="utf-8")
    again = jsonl(tmp_path / "again.jsonl", good)
    _, _, err = shibolet("evaluate", "--hypotheses", f"one={again}")
    assert "put aside, since one is scored anew: systems, waterfall" in err
    assert not any((tmp_path / "run" / name).exists() for name in ("systems.json", "waterfall.json"))


def test_what_does_not_fit_is_said_in_a_sentence(shibolet, tmp_path):
    part = jsonl(tmp_path / "part.jsonl", {"clean-0": SAID[0]})
    code, _, err = shibolet("evaluate", "--hypotheses", f"part={part}")
    assert code == 0 and "part: 5 utterances of 'clean' have no hypothesis; their words count as deleted" in err
    other = jsonl(tmp_path / "other.jsonl", {"x-0": "x"})
    both = leaderboard_csv(tmp_path / "both.csv", SAID)
    for given, expected, sentence in (
        (f"other={other}", 3, "no hypothesis belongs to an utterance of the recipe's sets; the first entries are x-0"),
        (f"round1={part}", 2, "belongs to the recipe's own rounds"),
        (f"part/kan={part}", 2, "the recipe's sets are clean, noisy"),
        ("part", 2, "write NAME=FILE"),
    ):
        code, _, err = shibolet("evaluate", "--hypotheses", given)
        assert code == expected and sentence in err, given
    code, _, err = shibolet("evaluate", "--hypotheses", f"two={both}", "--hypotheses", f"two={part}")
    assert code == 3 and "say which set each is of: --hypotheses two/SET=FILE" in err
    code, _, err = shibolet("compare", "--system", "part", "--system", "nobody")
    assert code == 3 and "'nobody' has no scores" in err
    code, _, err = shibolet("compare", "--system", "part")
    assert code == 2 and "two or more different systems" in err
