"""Foreign systems from the command line: scored from files, compared under their names, nothing left out in silence."""

import json
from pathlib import Path

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


def test_three_systems_vote_and_their_vote_is_scored(shibolet, tmp_path):
    """Protects from a file of votes that no command takes: each system errs in a third, the vote in nothing."""
    made = {}
    for k, name in enumerate(("one", "two", "three")):
        heard = {f"clean-{i}": "טעות " + text if i % 3 == k else f"{text}." for i, text in enumerate(SAID)}
        made[name] = jsonl(tmp_path / f"{name}.jsonl", heard)
    assert shibolet("evaluate", "--hypotheses", f"one={made['one']}")[0] == 0
    out_path = tmp_path / "new" / "vote.jsonl"
    systems = ("--system", "one", "--system", f"two={made['two']}", "--system", f"three/clean={made['three']}")
    code, out, err = shibolet("combine", *systems, "--out", str(out_path), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["systems"] == ["one", "two", "three"]
    assert found["sets"] == {
        "clean": {"utterances": 6, "left_out": 0, "of_fewer": 0, "slots": 24, "unanimous": 18, "changed": 2}
    }
    lines = [json.loads(line) for line in out_path.read_text().splitlines()]
    assert lines[0] == {"id": "clean-0", "set": "clean", "hypothesis": SAID[0], "agreement": 0.9167}
    code, out, _ = shibolet("evaluate", "--hypotheses", f"vote={out_path}", "--json")
    assert code == 0 and json.loads(out)["vote"]["clean"]["wer"]["errors"] == 0
    code, out, _ = shibolet("compare", "--system", "one", "--system", "vote", "--json")
    assert code == 0 and "WER -11.11 points" in json.loads(out)["pairs"][0]["sentence"]
    code, out, _ = shibolet("combine", *systems, "--out", str(out_path))
    assert code == 0 and "Vote of one, two, three" in out and max(map(len, out.splitlines())) <= 80


def test_a_vote_that_cannot_be_is_one_sentence(shibolet, tmp_path):
    good = jsonl(tmp_path / "good.jsonl", {f"clean-{i}": text for i, text in enumerate(SAID)})
    cases = {
        "name two systems or more": ("--system", f"a={good}"),
        "the first wins every tie": ("--system", f"a={good}", "--system", f"b={good}"),
        "'a' has none for utterance 'clean-0'": ("--system", f"a={good}", "--system", f"b={good}", "--alpha", "0.5"),
        "has no scores in": ("--system", f"a={good}", "--system", f"b={good}", "--system", "c"),
        "alpha is from 0 to 1": ("--system", f"a={good}", "--system", f"b={good}", "--alpha", "2"),
        "named twice": ("--system", "a", "--system", f"a={good}"),
    }
    for sentence, given in cases.items():
        code, _, err = shibolet("combine", *given, "--out", str(tmp_path / "v.jsonl"))
        assert code > 0 and sentence in err and not (tmp_path / "v.jsonl").exists(), (sentence, err)


def test_transcripts_of_a_manifest_are_voted_on_by_confidence(run_cli, shibolet, tmp_path):
    """Protects from confidences that are read and not weighed, and from a manifest with the old texts."""
    made = []
    for name, sure, text in (("low", 0.2, "לא נכון"), ("high", 0.9, "כן נכון")):
        rows = [{"id": f"clean-{i}", "hypothesis": text, "confidences": [sure, 1.0]} for i in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        made += ["--system", f"{name}={tmp_path / name}.jsonl"]
    manifest, out, texts = tmp_path / "clean/manifest.jsonl", tmp_path / "v.jsonl", tmp_path / "texts.jsonl"
    args = ("combine", *made, "--manifest", str(manifest), "--language", "Hebrew", "--out", str(out))
    code, printed, err = run_cli(*args, "--alpha", "0.4", "--transcripts", str(texts), "--json")
    assert code == 0, err
    assert json.loads(printed)["sets"]["manifest"]["left_out"] == 1
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    assert [row["text"] for row in rows] == ["כן נכון"] * 5


def test_a_vote_writes_over_nothing_that_is_read_and_takes_no_scores_of_another_set(run_cli, shibolet, tmp_path):
    """Protects a manifest and a system's file from a name that was given twice, and a vote from two states of a set."""
    files = {n: jsonl(tmp_path / f"{n}.jsonl", {f"clean-{i}": text for i, text in enumerate(SAID)}) for n in "abc"}
    systems = [part for name, path in files.items() for part in ("--system", f"{name}={path}")]
    manifest, before = tmp_path / "clean" / "manifest.jsonl", Path(files["a"]).read_bytes()
    on_manifest = ("--manifest", str(manifest), "--language", "Hebrew")
    out, same = str(tmp_path / "v.jsonl"), str(tmp_path / "clean" / ".." / "v.jsonl")
    refused = {
        f"--out {files['a']} is a file that is read": (*systems, "--out", str(files["a"])),
        "is a file that is read": (*systems, *on_manifest, "--out", str(manifest)),
        "--out and --transcripts are both": (*systems, *on_manifest, "--out", out, "--transcripts", same),
        "--dry-run, --run-dir and --set go with a recipe": (*systems, *on_manifest, "--out", out, "--dry-run"),
    }
    for sentence, given in refused.items():
        code, _, err = (run_cli if "--manifest" in given else shibolet)("combine", *given)
        assert code > 0 and sentence in " ".join(err.split()), (sentence, err)
    assert Path(files["a"]).read_bytes() == before and len(manifest.read_text().splitlines()) == len(SAID)
    assert not Path(out).exists()
    assert shibolet("evaluate", "--hypotheses", f"a={files['a']}")[0] == 0
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join(rows[:-1]) + "\n")
    code, _, err = shibolet("combine", "--system", "a", *systems[2:], "--out", out)
    assert code > 0 and "'a' was scored on set 'clean' as it was before" in " ".join(err.split()), err
