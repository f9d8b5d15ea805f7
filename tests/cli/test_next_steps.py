"""The line on what comes next after a command: protects from advice that is missing, or that cannot be followed."""

import io
import shlex
from contextlib import nullcontext
from types import SimpleNamespace

import command_line
import pytest
from rich.console import Console

from shibolet.cli import next_steps, terminal
from shibolet.records.documents.decoding import Setting
from shibolet.rounds.tuning import GREEDY


@pytest.fixture
def log(monkeypatch) -> io.StringIO:
    """What is written to the error output, which is a file."""
    written = io.StringIO()
    monkeypatch.setattr(terminal, "ERR", Console(file=written, highlight=False))
    return written


def commands(log: io.StringIO) -> list[str]:
    """The commands that were advised; each of them exists and has the options that are named."""
    advised = [
        line.removeprefix("  shibolet ") for line in log.getvalue().splitlines() if line.startswith("  shibolet ")
    ]
    for name, *words in map(shlex.split, advised):
        assert {word for word in words if word.startswith("-")} <= command_line.commands()[name]
    return advised


@pytest.mark.parametrize(
    ("verdict", "wanted"),
    [
        ("keep", ["publish run --to ORG/NAME", "next run -o NEXT.yaml"]),
        ("reject", []),
        (None, ["run run/recipe.yaml -o run"]),
    ],
)
def test_after_the_list_of_rounds_comes_what_the_last_one_waits_for(run_cli, monkeypatch, log, verdict, wanted):
    last = SimpleNamespace(verdict=verdict)
    monkeypatch.setattr("shibolet.cli.lineage.require_run", lambda run_dir: None)
    monkeypatch.setattr("shibolet.report.lineage.chain_of", lambda run_dir: SimpleNamespace(rounds=(None, last)))
    monkeypatch.setattr("shibolet.cli.tables.show_chain", lambda chain: None)
    assert run_cli("rounds", "run")[0] == 0
    assert commands(log) == wanted and "Next: " in log.getvalue()


@pytest.mark.parametrize("best", ["round3", None])
def test_after_a_loop_its_best_round_is_published(run_cli, monkeypatch, log, best):
    """The last round of a loop is the one that did not gain: it must not be the one that is advised."""
    found = SimpleNamespace(best=best, turns=[SimpleNamespace(folder="round3"), SimpleNamespace(folder="round4")])
    recipe = SimpleNamespace(name="mine", require=lambda *_: None)
    monkeypatch.setattr("shibolet.recipe.load_recipe", lambda *_: recipe)
    monkeypatch.setattr("shibolet.rounds.loop.do_loop", lambda *_, **__: found)
    monkeypatch.setattr("shibolet.cli.lineage.answer", lambda *_: None)
    monkeypatch.setattr("shibolet.report.lineage.chain_of", lambda run_dir: None)
    monkeypatch.setattr("shibolet.cli.tables.show_chain", lambda chain: None)
    assert run_cli("loop", "mine.yaml")[0] == 0
    if best:
        assert commands(log)[0] == "publish runs/mine-loop/round3 --to ORG/NAME"
    else:
        assert commands(log) == [] and "no round gained: runs/mine-loop/round4/report.html" in log.getvalue()


@pytest.mark.parametrize(
    ("chosen", "ngram", "wanted"),
    [
        ({"beam_size": 4, "length_penalty": 0.6}, None, ["evaluate.beam_size=4", "evaluate.length_penalty=0.6"]),
        ({"mbr_samples": 8, "mbr_temperature": 0.7}, None, ["evaluate.mbr_samples=8", "evaluate.mbr_temperature=0.7"]),
        ({"beam_size": 2, "ngram_weight": 0.2}, "run/a.bin",
         ["evaluate.beam_size=2", "evaluate.length_penalty=1", "'evaluate.ngram={file: run/a.bin, weight: 0.2}'"]),
        ({}, None, ["evaluate.beam_size=1"]),
    ],
)  # fmt: skip
def test_after_tuning_the_recommended_setting_is_scored(run_cli, monkeypatch, tmp_path, log, chosen, ngram, wanted):
    """A key that is left out would score another setting than the one that was measured on dev."""
    monkeypatch.chdir(tmp_path)
    tuned = SimpleNamespace(recommended=Setting(**GREEDY.model_dump() | chosen), ngram=ngram)
    monkeypatch.setattr("shibolet.rounds.tuning.do_tune_decoding", lambda *_: tuned)
    monkeypatch.setattr("shibolet.cli.scores.answer", lambda *_: None)
    assert run_cli("tune-decoding", "demo", "-o", "run")[0] == 0
    assert commands(log) == ["evaluate demo -o run " + " ".join(f"--set {one}" for one in wanted)]
    assert run_cli("tune-decoding", "demo", "-o", "run", "--model", "another")[0] == 0
    assert len(commands(log)) == 1, "'evaluate' scores the round's own model, not the one that was tuned"


def test_after_a_check_of_a_model_a_round_with_it_is_planned(run_cli, monkeypatch, tmp_path, log):
    """With the recipe whose phases were tried, not with another."""
    monkeypatch.chdir(tmp_path)
    report = SimpleNamespace(write=lambda out: None, failed=[])
    monkeypatch.setattr("shibolet.rounds.verify.run.verify", lambda *_, **__: report)
    monkeypatch.setattr("shibolet.cli.verify.answer", lambda *_: None)
    assert run_cli("verify", "builtin:round1", "data.jsonl", "--language", "he")[0] == 0
    assert run_cli("verify", "builtin:round1", "data.jsonl", "--language", "he", "--recipe", "demo")[0] == 0
    assert commands(log) == [f"plan {recipe} --set models.base=builtin:round1" for recipe in ("hebrew-round2", "demo")]


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 3)])
def test_after_transcribing_the_same_model_is_scored(run_cli, monkeypatch, tmp_path, log, failed, code):
    (tmp_path / "names.txt").write_text("Dana\n", encoding="utf-8")
    (tmp_path / "a.wav").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shibolet.rounds.transcribe.transcribe_files", lambda *_, **__: failed)
    given = ["--model", "builtin:round1", "--language", "Hebrew", "--context", "names.txt"]
    assert run_cli("transcribe", "a.wav", *given)[0] == code
    asked = "evaluate --model builtin:round1 --manifest FILE --language Hebrew --context names.txt"
    assert commands(log) == ([] if failed else [asked])
    run_cli("transcribe", "a.wav", "--server", "http://127.0.0.1:1", "--model", "asr")
    assert len(commands(log)) == (0 if failed else 1), "'evaluate --model' takes no model of a server"


@pytest.mark.parametrize(
    ("model", "layout", "said"),
    [
        ("qwen3_asr", "legacy", "shibolet verify out MANIFEST --language NAME"),
        ("whisper", "native", "shibolet verify out MANIFEST --language NAME"),
        ("whisper", "ctranslate2", "Next: open it with faster-whisper."),
    ],
)
def test_after_converting_the_folder_is_checked_by_what_can_read_it(run_cli, monkeypatch, log, model, layout, said):
    """A layout for another program cannot be checked by ours."""
    from shibolet.model.outline import FAMILIES, import_module

    outline = import_module(FAMILIES[model]).OUTLINE
    monkeypatch.setattr("shibolet.model.family.convert", lambda *_: None)
    monkeypatch.setattr("shibolet.model.outline.outline_named", lambda name: outline)
    assert run_cli("convert", "model", "out", "--layout", layout)[0] == 0
    assert said in log.getvalue()


@pytest.mark.parametrize("format_", next_steps.EXPORTED)
def test_after_an_export_it_is_said_how_it_is_opened(run_cli, monkeypatch, log, format_):
    folder = SimpleNamespace(verified=lambda stage: None, intact=lambda stage: None)
    _finished_round(monkeypatch, folder)
    monkeypatch.setattr("shibolet.publish.data.export_data", lambda *_: {"train": 1})
    assert run_cli("export-data", "run", "my-data", "--format", format_)[0] == 0
    assert "Next: " in log.getvalue() and "my-data" in log.getvalue()


def test_after_an_export_of_adapters_their_code_is_run(run_cli, monkeypatch, log):
    _finished_round(monkeypatch, None)
    monkeypatch.setattr("shibolet.rounds.publish.export_adapter", lambda *_: None)
    assert run_cli("export-adapter", "run", "adapter")[0] == 0
    assert "adapter/README.md" in log.getvalue()


def _finished_round(monkeypatch, folder) -> None:
    current = SimpleNamespace(folder=folder)
    monkeypatch.setattr("shibolet.cli.models.finished_round", lambda run_dir: nullcontext(current))


def test_after_one_part_of_an_audit_its_parts_are_put_together(run_cli, monkeypatch, tmp_path, log):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shibolet.rounds.auditing.do_audit_shard", lambda *_: None)
    assert run_cli("audit", "demo", "-o", "run", "--shard", "2/8")[0] == 0
    assert commands(log) == ["audit merge demo -o run"]


def test_after_answers_the_rate_is_computed_with_them(run_cli, monkeypatch, log):
    monkeypatch.setattr("shibolet.cli.reviewing.require_run", lambda run_dir: None)
    monkeypatch.setattr("shibolet.rounds.reviewing.serving.take_in_file", lambda *_: "2 answers were taken in")
    monkeypatch.setattr("shibolet.rounds.reviewing.serving.serve", lambda run_dir, port, tell: tell("http://here"))
    for options, out in (
        (["--import", "a.jsonl"], "2 answers were taken in\n"),
        ([], "Open http://here\nAnswers are kept in audit/answers.jsonl as they are given. Ctrl-C ends this.\n"),
    ):
        assert run_cli("review", "run", *options)[:2] == (0, out)
    assert commands(log) == ["audit run/recipe.yaml -o run"] * 2


def test_advice_can_be_left_out(run_cli, monkeypatch, log):
    """What a script reads is the result alone."""
    monkeypatch.setattr("shibolet.model.family.convert", lambda *_: None)
    assert run_cli("convert", "builtin:round1", "out", "--layout", "legacy", "-q") == (0, "out\n", "")
    assert log.getvalue() == ""
