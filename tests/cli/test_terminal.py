"""What a person sees in a terminal of 80 columns: protects from bars without an end, broken words and bare numbers."""

import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console

from shibolet import cli
from shibolet.cli import next_steps, stages, terminal


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    """What is written to a terminal of 80 columns as the error output."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, highlight=False, color_system=None)
    monkeypatch.setattr(terminal, "ERR", console)
    return written


@pytest.fixture
def log(monkeypatch) -> io.StringIO:
    """The same where the error output is a file."""
    written = io.StringIO()
    monkeypatch.setattr(terminal, "ERR", Console(file=written, highlight=False))
    return written


def test_a_sentence_is_broken_between_words_and_a_path_is_not(screen):
    path = "/" + "a-very-long-folder/" * 6
    terminal.tell(f"what was there before is now in the folder {path} and here the sentence goes on for quite a while")
    lines = screen.getvalue().splitlines()
    assert path in lines
    assert all(len(line) <= 80 and line == line.strip() for line in lines if line != path)


def test_a_log_has_a_sentence_on_one_line(log):
    """Whoever searches a log for a sentence must find it whole."""
    terminal.tell("word " * 40 + "end")
    assert log.getvalue().splitlines() == ["word " * 40 + "end"]


def test_progress_has_its_unit_and_is_gone_at_the_end(screen):
    with terminal.track("prepare", "files") as progress:
        progress(2, 3)
        progress(3, 3)
    *drawn, last = screen.getvalue().rstrip("\n").splitlines()
    assert last.endswith("prepare: 3 files in 0 s")
    assert "0/?" not in "".join(drawn)


@pytest.mark.parametrize(
    ("done", "total", "said"),
    [(0, 0, "0 s"), (64, 0, "64 clips, 0 s"), (0, 320, ""), (64, 1320, "64 of 1,320 clips"), (320, 320, "320 clips")],
)
def test_amounts_beside_a_bar(screen, done, total, said):
    """`0/?` says nothing, and a number without its unit little."""
    bars = terminal.Progress(console=terminal.ERR)
    bars.add_task("hear", total=total or None, completed=done)
    (task,) = bars.tasks
    assert terminal._Amount("clips").render(task).plain.split(", 0 s left")[0] == said
    assert bool(terminal._Bar(20).render(task)) == bool(total)


@pytest.mark.parametrize("title", ["a", "the audit judges the teacher's texts"])
def test_bar_and_amount_fit_beside_the_title(screen, title):
    """On a narrow terminal the amount is what a person looks at: it is never cut."""
    with terminal._bar(title, "utterances") as show:
        show(12_345, 123_456)
    frames = [line for line in screen.getvalue().replace("\r", "\n").split("\n") if "12,345" in line]
    assert frames and all("12,345 of 123,456 utterances" in line for line in frames)


def test_a_stage_that_failed_is_not_told_as_done(screen):
    with pytest.raises(ValueError), terminal.track("train", "steps") as progress:
        progress(1, 2)
        raise ValueError
    assert "1 of 2 steps in" not in screen.getvalue()


def test_a_log_says_how_much_was_done(log):
    with terminal.track("train", "steps") as progress:
        progress(7, 7)
    assert log.getvalue().splitlines() == ["train ...", "train: 7 steps in 0 s"]


def test_numbers_of_a_table_are_not_broken(monkeypatch, capsys):
    """An interval on two lines is read as two numbers."""
    monkeypatch.setattr(terminal, "OUT", Console(width=60, highlight=False))
    rows = [("a name with many words that is long", "-31.5 to -12.3", "<0.001 (<0.001)", "1,234 / 5,678")]
    terminal.table("Table", ["name", " 95% interval", " p (Holm)", " errors of words"], rows)
    out = capsys.readouterr().out
    assert all(cell in out for cell in rows[0][1:]) and rows[0][0] not in out
    assert max(map(len, out.splitlines())) <= 60


def every_command() -> list[list[str]]:
    tree = typer.main.get_command(cli.app)
    return [[name] for name in tree.commands] + [["demo", "build"]]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_h_is_help_and_every_command_can_be_quiet(run_cli, words):
    code, out, _ = run_cli(*words, "-h")
    assert code == 0 and "Usage: shibolet" in out and "--quiet" in out


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_a_help_page_has_room_for_its_sentences(run_cli, monkeypatch, words):
    """Names of types take half of 80 columns, and a list of choices was broken within a word."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    _, out, _ = run_cli(*words, "-h")
    options = [line for line in out.splitlines() if re.match(r"│ +--(?!help)", line)]
    assert options and not [line for line in options if "range" in line or "<bool>" in line or "|" in line]


def test_quiet_leaves_results_and_errors(run_cli, monkeypatch, tmp_path):
    """A script wants the error that ended it, and no progress."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli("report", "nothing", "-q")
    assert (code, out) == (2, "") and "is not a run folder" in err
    monkeypatch.setattr(stages, "require_run", lambda run_dir: None)
    monkeypatch.setattr("shibolet.report.audit_page.write_audit_page", lambda run_dir: None)
    monkeypatch.setattr("shibolet.report.page.write_report", lambda run_dir: None)
    quiet, loud = run_cli("report", "run", "-q"), run_cli("report", "run")
    assert quiet == (0, "run/report.html\n", "")
    assert loud[:2] == quiet[:2] and "report ..." in loud[2] and "Next: " in loud[2]


def test_quiet_leaves_warnings(run_cli, monkeypatch, tmp_path, log):
    """Who runs a round from a script has to know that a set was left out, and that anybody may use a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.ERR, "quiet", True)
    terminal.tell("progress"), terminal.warn("something is lost"), terminal.tell("progress")
    assert log.getvalue() == "something is lost\n"
    pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("python_multipart")
    monkeypatch.setattr("shibolet.serve.run.serve", lambda *_, **__: None)
    run_cli("serve", "builtin:round1", "--language", "he", "--host", "0.0.0.0", "-q")
    assert "anybody who reaches 0.0.0.0" in log.getvalue()

    def evaluated(current, systems):
        current.tell("progress")
        current.warn("a set is left out")
        return {}

    monkeypatch.setattr("shibolet.rounds.scoring.do_evaluate", evaluated)
    monkeypatch.setattr("shibolet.rounds.scoring.candidates_of", lambda current: ())
    assert run_cli("evaluate", "demo", "-q", "--json")[0] == 0
    assert log.getvalue().endswith("0.0.0.0 may use this server; --api-key KEY asks for one\na set is left out\n")


@pytest.mark.parametrize(
    ("own", "given", "wanted"),
    [
        (True, ["vote=v.jsonl"], "compare demo -o run --system=round2 --system=vote"),
        (False, ["vote=v.jsonl"], None),
        (False, ["vote=v.jsonl", "other=o.jsonl"], "compare demo -o run --system=vote --system=other"),
    ],
)
def test_what_comes_next_after_hypotheses_compares_two_systems(run_cli, monkeypatch, tmp_path, log, own, given, wanted):
    """One system alone is refused by the command that was advised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shibolet.rounds.scoring.do_evaluate", lambda current, systems: {})
    monkeypatch.setattr(
        "shibolet.records.runfolder.RunFolder.evaluated", lambda self, label: [f"evaluate/{label}/a"] if own else []
    )
    code, _, _ = run_cli("evaluate", "demo", "-o", "run", *(f"--hypotheses={one}" for one in given))
    said = log.getvalue()
    assert code == 0 and (
        f"shibolet {wanted}\n" in said if wanted else "score another" in said and "compare demo" not in said
    )


def test_the_demo_goes_on_with_its_own_settings(run_cli, monkeypatch, tmp_path, log):
    """With another seed the next command would begin another demo in the same folder."""
    monkeypatch.setattr("shibolet.demo.round.run_demo", lambda *_, **__: SimpleNamespace(exit_code=0))
    monkeypatch.setattr("shibolet.cli.tables.show_demo", lambda summary: None)
    assert run_cli("demo", "-o", "run", "--seed", "3", "--set", "audit.num_workers=0")[0] == 0
    assert "shibolet demo --rounds 3 --out run --seed 3 --set audit.num_workers=0\n" in log.getvalue()


def test_a_shell_completes_commands_options_and_recipes():
    """Completion starts the program at each Tab: it must print names and nothing else."""
    for words, at, wanted in (
        ("shibolet export-", 1, ["export-adapter", "export-data"]), ("shibolet run --only", 2, ["--only-through"]),
        ("shibolet run hebrew-round", 2, ["hebrew-round2", "hebrew-round3", "hebrew-round4"]),
    ):  # fmt: skip
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(at), "_SHIBOLET_COMPLETE": "complete_bash"}
        done = subprocess.run(
            [sys.executable, "-m", "shibolet.cli"], env=os.environ | asked, capture_output=True, text=True
        )
        assert (done.stdout.split(), done.stderr) == (wanted, "")


def test_what_comes_next_is_a_command_that_can_be_copied(log):
    where = next_steps.same("my recipe.yaml", None, ["train.x=[1, 2]"])
    next_steps.after_stage("train", where)
    said, command = log.getvalue().splitlines()
    assert said == "Next: score the result and the baseline:"
    assert command == "  shibolet evaluate 'my recipe.yaml' --set 'train.x=[1, 2]'"
