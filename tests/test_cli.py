"""The command line: protects from slow starts, wrong exit codes, tracebacks that say nothing, and noise in JSON."""

import errno
import json
import subprocess
import sys

import pytest
import yaml
from audit_documents import alignment_report, counted, gate_verdict
from made_scores import SAID, comparison_of, overlap_of, scores_of
from rich.console import Console

from shibolet import errors, recipe
from shibolet.cli import tables
from shibolet.records.candidate import named
from shibolet.records.documents.scores import Failure
from shibolet.rounds import auditing, flow, scoring, stages

HEAVY = ("torch", "transformers", "datasets", "pandas", "numpy", "scipy", "pydantic", "av")


@pytest.fixture
def shibolet(run_cli, monkeypatch, tmp_path):
    """Runs a command in this process, in an empty folder; gives (exit code, standard output, error output)."""
    monkeypatch.chdir(tmp_path)
    return run_cli


@pytest.fixture
def verdict(monkeypatch):
    """Lets a test say what audit and gate find."""

    def say(decision: str, exit_code: int) -> None:
        gate = gate_verdict(
            decision, exit_code=exit_code, next="stop", low_quality_pct=counted(12.0, 9.0, 16.0, num_heard=100),
            warnings=("It would be otherwise.",), literal_point_verdict="CAUTION", sample_low_quality_pct=12.0,
            hours_low_quality_pct=11.5, num_scored=97, failures={"nan_samples": 1, "undecodable": 2},
            notes=("[whatsapp] is thin.",),
        )  # fmt: skip
        monkeypatch.setattr(auditing, "do_audit", lambda current, **_: alignment_report())
        monkeypatch.setattr(auditing, "do_gate", lambda current, **_: gate)
        monkeypatch.setattr(stages, "do_report", lambda current: None)
        monkeypatch.setattr(auditing, "do_audit_page", lambda current: current.folder.audit_page)

    return say


HELP = "import sys; sys.argv[1:] = ['--help']; import shibolet.cli as c; c.app(standalone_mode=False)"


@pytest.mark.parametrize("statement", ["import shibolet.cli", HELP])
def test_a_start_loads_nothing_heavy(statement):
    script = f"{statement}\nimport sys, json\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_has_help(shibolet):
    names = "run audit calibrate gate prepare train evaluate ngram tune-decoding transcribe compare report plan check"
    names += " serve recipes"
    for name in f"{names} normalize demo fetch publish convert cut export-adapter export-data search average".split():
        code, out, _ = shibolet(name, "--help")
        assert code == 0 and "Usage: shibolet" in out, name


def test_usage_and_recipe_errors_end_with_2_and_one_line(shibolet):
    assert shibolet("run")[0] == 2
    assert shibolet("fly")[0] == 2
    code, out, err = shibolet("plan", "hebrew-round22")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "did you mean 'hebrew-round2'?" in err
    code, _, err = shibolet("plan", "hebrew-round2", "--set", "trian.seed=1")
    assert code == 2 and "did you mean 'train'?" in err
    assert shibolet("evaluate")[0] == 2
    assert shibolet("evaluate", "--model", "builtin:round1")[0] == 2
    assert shibolet("compare")[0] == 2
    assert shibolet("report", "nowhere")[0] == 2


def test_a_check_lists_a_manifest_that_cannot_be_read_with_all_the_rest(shibolet, tmp_path):
    (tmp_path / "m.jsonl").write_text("not a manifest\n")
    code, out, _ = shibolet("check", "demo", "--set", "data.train.0.manifest=m.jsonl", "--json")
    found = {one["what"]: one["state"] for one in json.loads(out)["findings"]}
    assert code == 3 and found["train: synthetic"] == "missing"
    assert found["base, baseline: builtin:round1"] == "ok" and found["GPU, memory, disk"] == "note"


@pytest.mark.parametrize(
    "words",
    [
        "evaluate demo --language English", "evaluate demo --model builtin:round1", "audit demo --shard 1/2 --extend",
        "audit demo --shard 1/2 --json", "transcribe a.wav --model builtin:round1 --server-language he",
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(shibolet, words):
    code, out, err = shibolet(*words.split())
    assert (code, out) == (2, "") and "--" in err


def test_other_models_are_compared_beside_the_round(shibolet, tmp_path):
    """In its own folder their verdict would be what `publish` goes by."""
    code, _, err = shibolet("compare", "demo", "--baseline", "builtin:round1", "-o", "run")
    assert code == 3 and "run: stage 'train' is not done" in err
    assert (tmp_path / "run-compare").is_dir() and not (tmp_path / "run").exists()


def test_an_interrupt_is_one_sentence(shibolet, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("shibolet.recipe.load_recipe", interrupted)
    monkeypatch.setattr("os._exit", sys.exit)
    code, _, err = shibolet("plan", "hebrew-round2")
    assert (code, err.splitlines()[-1]) == (
        130,
        "shibolet: interrupted; a round goes on with the same command",
    )


def test_what_an_evaluation_could_not_hear_is_said_with_the_scores(capsys):
    scores = scores_of(
        title="mine",
        num_utterances=40,
        failures=[Failure(id="u7", reason="undecodable", detail="u7.wav is empty")],
        unreadable_rows=[Failure(id="line-9", reason="not_json", detail="line 9: not JSON")],
    )
    tables.show_scores({"mine": {"held": scores}})
    said = " ".join(capsys.readouterr().out.split())
    assert "mine: 1 of 40 clips of held could not be heard: all their words count as errors; the first is 'u7'" in said
    assert "mine: 1 rows of held could not be read at all and count nowhere; the first: line 9: not JSON" in said


def test_data_and_model_errors_end_with_3(shibolet, tmp_path):
    (tmp_path / "manifest.jsonl").write_text("")
    code, _, err = shibolet("evaluate", "--model", "./nothing", "--manifest", "manifest.jsonl", "--language", "he")
    assert code == 3 and err.splitlines()[-1].startswith("shibolet: source 'manifest'")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x.json"),
            "runs/x.json could not be written: No space l",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file could not be written: Disk quota exceeded"),
        (Exception("I/O error: No space left on device (os error 28)"), "a file could not be written: I/O error: No s"),
    ],
)
def test_a_full_disk_ends_with_3_and_one_line(shibolet, monkeypatch, error, said):
    def full(*args):
        raise error

    monkeypatch.setattr(recipe, "load_recipe", full)
    code, _, err = shibolet("plan", "demo")
    assert (
        code == 3 and err.startswith(f"shibolet: {said}") and err.endswith("make room and run the same command again\n")
    )


def test_an_error_of_another_kind_is_no_full_disk(shibolet, monkeypatch):
    """A defect of ours shows its traceback; a disk that refuses is told elsewhere (tests/cli/test_places.py)."""

    def broken(*args):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(recipe, "load_recipe", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        shibolet("plan", "demo")


@pytest.mark.parametrize(("decision", "code"), [("PROCEED", 0), ("CAUTION", 10), ("STOP", 20), ("INVALID", 30)])
def test_audit_and_gate_end_with_the_verdict(shibolet, verdict, decision, code):
    verdict(decision, code)
    found, out, _ = shibolet("audit", "demo")
    assert found == code and decision in out
    found, out, _ = shibolet("gate", "demo", "--json")
    assert found == code and json.loads(out)["decision"] == decision


def test_what_stands_beside_a_verdict_is_told_in_80_columns(shibolet, verdict):
    verdict("CAUTION", 10)
    _, out, _ = shibolet("gate", "demo")
    for said in (
        "warning        It would be otherwise.",
        "point verdict  CAUTION (12.0% of the sample as it is)",
        "by hours       11.5%",
        "corrected      not available: no error rates",
        "not scored     3 of 100: undecodable 2, nan_samples 1",
        "note           [whatsapp] is thin.",
    ):
        assert said in out, said
    assert max(map(len, out.splitlines())) <= 80


def test_a_corrected_rate_that_cannot_be_known_ends_before_anything_is_heard(shibolet):
    code, _, err = shibolet("audit", "demo", "--set", "gate.rate=corrected")
    assert code == 3 and err.splitlines()[-1].startswith("shibolet: gate.rate: corrected needs error rates")
    assert shibolet("audit", "demo", "--set", "gate.rate=true")[0] == 2


def test_an_audit_is_shared_out_and_merged(shibolet, verdict, monkeypatch):
    """A shard must not write a verdict, nor wait for the folder's lock; merge must not hear."""
    verdict("PROCEED", 0)
    calls = []
    monkeypatch.setattr(auditing, "do_audit", lambda current, **how: calls.append(how) or alignment_report())
    monkeypatch.setattr(
        auditing, "do_audit_shard", lambda current, shard: calls.append((current.folder.path.name, shard))
    )
    assert shibolet("audit", "demo", "--shard", "2/8", "-o", "shared")[0] == 0
    assert shibolet("audit", "merge", "demo", "-o", "shared")[0] == 0
    assert shibolet("audit", "demo", "-o", "shared")[0] == 0
    code, _, err = shibolet("audit", "demo", "--shard", "2/8", "--mirror", "runs/x")
    assert code == 2 and "--mirror runs/x: write a folder of a store" in err and len(calls) == 3
    nobody = {"review": None}
    assert calls == [("shared", (1, 8)), {"merge": True} | nobody, {"merge": False} | nobody]
    for wrong in (
        ["demo", "--shard", "9/8"],
        ["demo", "--shard", "0/8"],
        ["merge", "demo", "--shard", "1/2"],
        ["a", "b"],
    ):
        code, _, err = shibolet("audit", *wrong)
        assert code == 2 and ("I from 1 to N" in err or "audit takes RECIPE" in err)


def test_errors_become_their_exit_code_and_defects_stay_tracebacks(shibolet, monkeypatch):
    def fail(error):
        def raises(current):
            raise error

        monkeypatch.setattr(flow, "run_round", raises)

    for error in (errors.CheckpointError("none left"), errors.Preempted("run me again"), errors.DataError("no rows")):
        fail(error)
        code, _, err = shibolet("run", "demo")
        assert code == error.exit_code and err.endswith(f"shibolet: {error}\n")
    fail(KeyError("ours"))
    with pytest.raises(KeyError):
        shibolet("run", "demo")


def test_compare_ends_with_40_on_reject_and_takes_the_models_given(shibolet, monkeypatch):
    seen = {}
    result = comparison_of([*SAID, *SAID], [*SAID, "nothing", *SAID[1:]], names=(named("Round 2"), named("Round 3")))
    result = result.model_copy(update={"overlaps": {"held": overlap_of(note="Two voices are known.")}})

    def evaluate(current, candidates):
        seen.update({candidate.label: candidate.source.name for candidate in candidates})

    monkeypatch.setattr(scoring, "do_evaluate", evaluate)
    monkeypatch.setattr(scoring, "do_compare", lambda current: result)
    code, out, _ = shibolet("compare", "--baseline", "org/one", "--candidate", "org/two", "--recipe", "demo")
    assert code == 40 and "Round 2 against Round 3: reject" in out and "+14.3" in out and "0 loops" in out
    assert "Two voices are known." in out and "Round 1" not in out
    assert seen == {"round1": "org/one", "round2": "org/two"}, "labels are the recipe's"
    code, _, err = shibolet("compare", "demo")
    assert code == 3 and "stage 'train' is not done" in err


def test_dry_run_prints_recipe_and_plan_and_touches_nothing(shibolet, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked for something"))
    code, out, _ = shibolet("run", "hebrew-round2", "--dry-run", "--set", "seed=7")
    assert code == 0 and "Phase A" in out and "encoder.layers[16:24]" in out
    assert yaml.safe_load(out.partition("\nPhase B")[0])["seed"] == 7
    code, out, _ = shibolet("run", "hebrew-round2", "--dry-run", "--json")
    planned = json.loads(out)
    assert planned["recipe"]["name"] == "hebrew-round2"
    assert [phase["name"] for phase in planned["plan"]["training"]["phases"]] == ["B", "A"]
    assert list(tmp_path.iterdir()) == []


def test_plan_counts_the_real_parts(shibolet):
    code, out, _ = shibolet("plan", "hebrew-round2", "--utterances", "73579", "--json")
    whole = json.loads(out)
    plan = whole["training"]
    assert [case["rows"] for case in whole["cases"]] == [73_579]
    assert code == 0 and plan["steps"] == 5 * 1150 and "not on this machine" in plan["model_from"]
    sizes = {part["part"]: part["parameters"] for part in plan["phases"][1]["parts"]}
    assert sizes["encoder.layers[16:24]"] == 100_769_792 and sizes["head"] == 311_164_928


def test_plan_of_the_readme_fits_80_columns_and_names_hours_and_every_price(shibolet, monkeypatch):
    """Who decides about a rented GPU reads this page, before there are any data."""
    monkeypatch.setattr("shibolet.cli.terminal.OUT", Console(highlight=False, width=80))
    code, out, _ = shibolet("plan", "hebrew-round2", "--gpus", "2", "--gpu-memory-gib", "40")
    said = " ".join(out.split())
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    for part in (
        "training set 73,579 utterances, the specification's number (45,123 + 28,456), since nothing is prepared",
        "precision bf16 weights and compute, masters float32, moments float32",
        "head untied",
        "$77 (8 x A100, 12 h), $38 (2 x A100)",
        "2 GPUs at $0.80 an hour each, predicted",
        "The round on 73,579 rows, 2 x A100",
        "The round on 232,283 rows, 2 x A100",
        "hearing the rest 3.8 min $0.10",
        "rows not known of",
        "in all at least 29.1 min, $0.78",
        "in all at least 1.5 h, $2.38",
    ):
        assert part in said, part
    _, out, _ = shibolet("plan", "demo", "--utterances", "800")
    assert "$77" not in out and "names no price" in " ".join(out.split())
    code, out, _ = shibolet("plan", "demo")
    assert code == 0 and "an unknown number of rows" in out and "steps not known" in out


def test_times_that_are_not_known_are_not_a_table_of_question_marks(shibolet, tmp_path):
    """Who begins with a small Whisper has no round to predict from: the reason is said once, and there is no sum."""
    (tmp_path / "mine.jsonl").write_text('{"audio": "a.wav", "text": "x"}\n' * 85)
    data = "data.train.0.manifest=mine.jsonl"
    code, out, _ = shibolet("plan", "whisper-small-data", "--gpu", "CPU", "--set", data)
    case = " ".join(out.split()).partition("The round on 85 rows, CPU ")[2]
    assert code == 0 and case.startswith("not known hearing the sample, ") and case.count("--rates-from RUN") == 1
    assert "?" not in case and "in all" not in case


def test_check_names_what_is_missing_and_ends_with_3(shibolet, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, _ = shibolet("check", "hebrew-small", "--set", "data.train.0.manifest=mine.jsonl", "--json")
    state = {row["what"]: row["state"] for row in json.loads(out)["findings"]}
    assert code == 3 and state["train: recordings"] == "missing"
    (tmp_path / "mine.jsonl").write_text('{"audio": "a.wav", "text": "x"}\n')
    _, out, _ = shibolet("check", "hebrew-small", "--set", "data.train.0.manifest=mine.jsonl")
    assert "1 rows" in out


def test_convert_writes_the_other_layout_and_nothing_over_it(shibolet, tmp_path):
    assert shibolet("convert", "builtin:round1", "legacy", "--layout", "legacy", "--language", "Hebrew")[0] == 0
    assert "Hebrew" in json.loads((tmp_path / "legacy" / "config.json").read_text())["support_languages"]
    code, _, err = shibolet("convert", "builtin:round1", "legacy", "--layout", "legacy")
    assert code == 3 and "exists; name a new folder" in err
    code, _, err = shibolet("convert", "builtin:ctc", "other", "--layout", "legacy")
    assert code == 3 and "not a Qwen3-ASR" in err and not (tmp_path / "other").exists()


def test_cut_says_which_layers_are_left_and_writes_over_nothing(shibolet, tmp_path):
    code, out, _ = shibolet("cut", "builtin:round1", "small", "--decoder", "2")
    assert code == 0 and "decoder layers 0, 3; " in out and "has to be trained" in out
    assert (tmp_path / "small" / "cut.json").is_file()
    code, _, err = shibolet("cut", "builtin:round1", "small", "--decoder", "2")
    assert code == 3 and "exists; name a new folder" in err
    assert shibolet("cut", "builtin:round1", "other")[0] == 2


def test_publish_and_export_data_want_a_run_folder_with_something_in_it(shibolet, tmp_path):
    assert shibolet("publish", "nowhere", "--to", "org/name")[0] == 2
    assert shibolet("export-data", "nowhere", "out")[0] == 2
    assert shibolet("gate", "demo")[0] == 3  # a run folder without an audit
    code, _, err = shibolet("publish", "runs/demo", "--to", "org/name")
    assert code == 3 and "stage 'compare' is not done" in err
    assert shibolet("publish", "runs/demo")[0] == 2 and shibolet("publish", "runs/demo", "--to", "name")[0] == 2
    code, _, err = shibolet("export-adapter", "runs/demo", "out")
    assert code == 3 and "stage 'train' is not done" in err
    code, _, err = shibolet("export-data", "runs/demo", "out")
    assert code == 3 and "stage 'prepare' is not done" in err


def test_normalize_filters_lines():
    done = subprocess.run(
        [sys.executable, "-m", "shibolet.cli", "normalize", "--as", "target"],
        input="שָׁלוֹם  עוֹלָם\n\nבית־ספר\n".encode(), capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.decode().splitlines() == ["שלום עולם", "", "בית ספר"]
    bad = subprocess.run(
        [sys.executable, "-m", "shibolet.cli", "normalize", "--as", "leaderboard"],
        input=b"ok\n\xff\n",
        capture_output=True,
    )
    assert bad.returncode == 2 and b"line 2 of standard input is not UTF-8" in bad.stderr


@pytest.mark.slow("train", seconds=6)
@pytest.mark.parametrize(("command", "code"), [("--version", 0), ("check no-such.yaml", 2)])
def test_a_thread_within_torch_at_the_end_leaves_the_exit_code_as_it_is(tmp_path, command, code):
    """Python would cut it off there, and so abort the process: a scheduler saw -6 once a signal had ended a round."""
    script = f"""if __name__ == "__main__":
    import atexit, sys, threading, torch
    from shibolet import cli
    def add():
        numbers = torch.ones(2_000_000)
        while True:
            numbers.add(1)
    def last():
        sys.stdout.write("closed")
    sys.argv = ["shibolet", *{command.split()!r}]
    plain = cli.main
    cli.main = lambda: (atexit.register(last), threading.Thread(target=add, daemon=True).start(), plain())
    cli.program()
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.endswith("closed"), "libraries close what they have open, and what they wrote is there"
