"""A finished round in W&B: protects from a run that lacks numbers of the documents, or says another verdict."""

import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import WandbRun, read_run

from shibolet.demo import round as demo
from shibolet.errors import Preempted
from shibolet.recipe import load_recipe, write_recipe
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.scores import Scores
from shibolet.records.documents.truth import Truth
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import flow
from shibolet.rounds.shared import Round, untracked
from shibolet.rounds.tracking import do_track, tracking_of
from shibolet.tracking.documents import numbers_of
from shibolet.tracking.keys import kind_of
from shibolet.tracking.start import are_told


def round_in(run_dir: Path, path: Path, *changes: str, tell: Callable[[str], None] = print) -> Round:
    """That finished round, copied and with markers."""
    folder = RunFolder(path)
    shutil.copytree(run_dir, folder.path)
    scored = [path.parent.relative_to(folder.path).as_posix() for path in folder.path.glob("evaluate/*/*/scores.json")]
    for stage in ("audit", "gate", "prepare", "audit-prepared", "gate-prepared", "train", *scored, "compare"):
        folder.seal(stage, {})
    sets = [f"evaluate.sets.{n}.name={name}" for n, name in enumerate(("clean", "whatsapp"))]
    current = Round(load_recipe("demo", [*changes, *sets]), folder, tell)
    current.sets = current.recipe.evaluate.sets
    return current


@pytest.fixture(scope="module")
def tracked(run_dir: Path, tmp_path_factory) -> tuple[RunFolder, WandbRun]:
    """A repaired round, shown twice to W&B."""
    changes = "tracking.wandb_project=shibolet", "tracking.wandb_examples=true"
    current = round_in(run_dir, tmp_path_factory.mktemp("tracked") / "run", *changes)
    do_track(current)
    do_track(current)
    return current.folder, read_run(current.folder.tracking)


def shown_numbers(run: WandbRun) -> set[float]:
    """Every number of the history and of the tables."""
    found = {value for line in run.history for value in line.values() if isinstance(value, int | float)}
    return found | {
        cell for table in run.tables.values() for row in table["data"] for cell in row if isinstance(cell, int | float)
    }


def test_every_number_of_the_comparison_is_there(tracked):
    folder, run = tracked
    compared = Comparison.read(folder.compare)
    expected = numbers_of(compared.model_dump(mode="json"), "compare")
    assert len(expected) > 300 and {*expected.values()} <= shown_numbers(run)
    in_table = tuple(f"compare/{name}/" for name in ("lengths", "noise", "speakers"))
    for key, value in expected.items():
        assert key.startswith(in_table) or run.number(key) == [value], key
    delta, ends = compared.sets["clean"].wer.delta_points, compared.sets["clean"].wer.interval_points
    assert run.number("compare/sets/clean/wer/delta_points") == [delta]
    assert run.number("compare/sets/clean/wer/interval_points/0") == [ends[0]]
    assert run.number("compare/domains/whatsapp/wer/p") == [compared.domains["whatsapp"].wer.p]
    assert run.number("compare/verdict") == [compared.verdict]
    slices = run.tables["compare/slices"]
    assert {"clean", "whatsapp"} <= {row[1] for row in slices["data"] if row[0] == "sets"}


def test_a_run_that_trains_on_repaired_data_says_both_verdicts(tracked):
    folder, run = tracked
    assert run.number("gate/decision") == ["STOP"] and run.number("gate_prepared/decision") == ["PROCEED"]
    assert run.number("gate/low_quality_pct/rate")[0] > 15 > run.number("gate_prepared/low_quality_pct/rate")[0]
    report = AlignmentReport.read(folder.alignment_report())
    for domain, part in report.domain_statistics.items():
        key = f"audit/domain_statistics/{domain}/low_quality_percentage"
        assert run.number(key) == [part.low_quality_percentage]
    assert run.number("audit/coverage_distribution/p50") == [report.coverage_distribution["p50"]]


def test_rounds_are_compared_by_keys_that_they_share(tracked):
    """`scores/round2/...` and `scores/round3/...` are never on one chart."""
    folder, run = tracked
    compared = Comparison.read(folder.compare)
    for name, block in compared.sets.items():
        assert run.number(f"test/sets/{name}/wer") == [block.wer.candidate.rate]
        assert run.number(f"test/sets/{name}/baseline_wer") == [block.wer.baseline.rate]
    assert run.number("test/wer") == [compared.overall.wer.candidate.rate]
    assert run.number("test/verdict") == [compared.verdict] and run.number("test/is_kept") == [float(compared.is_kept)]
    assert run.tags == {"Round 2", "Hebrew", compared.verdict} and (run.group, run.name) == ("demo", "Round 2, run")


def test_rounds_that_followed_each_other_are_one_group(run_dir: Path, tmp_path: Path):
    """Rounds of one chain have recipes of different names: apart from each other nobody compares them."""
    round_in(run_dir, tmp_path / "one")
    changes = ("name=later", f"parent={tmp_path / 'one'}")
    current = round_in(run_dir, tmp_path / "two", *changes, tell=pytest.fail)
    write_recipe(current.recipe, current.folder.recipe)
    assert tracking_of(current).group == "demo"
    shutil.rmtree(tmp_path / "one")
    assert tracking_of(current).group == "later"
    circle = round_in(run_dir, tmp_path / "one", "name=later", f"parent={tmp_path / 'two'}")
    write_recipe(circle.recipe, circle.folder.recipe)
    told: list[str] = []
    current.tell = told.append
    assert tracking_of(current).group == "later" and "comes after it" in told[0]


def test_final_scores_are_there_by_set_domain_and_duration(tracked):
    folder, run = tracked
    scores = Scores.read(folder.scores("round2", "whatsapp"))
    head = "scores/round2/whatsapp"
    assert run.number(f"{head}/wer") == [scores.wer.rate] and run.number(f"{head}/cer_upper") == [
        scores.cer.interval[1]
    ]
    for kind, slices in (("domain", scores.by_domain), ("bucket", scores.by_bucket)):
        assert slices
        for name, part in slices.items():
            assert run.number(f"{head}/{kind}/{name}/wer") == [part.wer.rate]
    assert {line["step"] for line in run.history if f"{head}/wer" in line} == {286}, "the training's last step"


def test_examples_are_tables_of_utterances(tracked):
    _, run = tracked
    table = run.tables["examples/whatsapp"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["drawn"] for row in rows] == ["worst"] * 20 + ["random"] * 20
    errors = [row["candidate_errors"] for row in rows[:20]]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0
    assert all(row["reference"] and {"baseline", "candidate"} <= row.keys() for row in rows)
    low = run.tables["examples/low_quality"]["data"]
    assert len(low) == 20


def test_what_people_said_goes_to_no_service_unless_the_recipe_says_so(run_dir: Path, tmp_path: Path):
    """Tables of utterances once left the machine with every recipe that names a project."""
    current = round_in(run_dir, tmp_path / "run", "tracking.wandb_project=shibolet")
    do_track(current)
    run = read_run(current.folder.tracking)
    assert "compare/slices" in run.tables and not any(key.startswith("examples/") for key in run.tables)
    assert {"examples/whatsapp", "examples/low_quality"} <= texts_of(current.folder), "here they are kept"
    told = tracking_of(current).documents
    assert told and are_told(tracking_of(current)), "else every command would open the run again"


def test_each_key_has_one_type_and_each_document_one_line(tracked):
    _, run = tracked
    types = run.types()
    assert len(types) > 300
    for key, kinds in types.items():
        if key.startswith("_"):
            continue
        assert kinds == {{"number": "number", "text": "str", "table": "dict"}[kind_of(key)]}, key
    assert len(run.ids) == 1 and max(len(run.number(key)) for key in ("audit/population", "compare/verdict")) == 1


def scalars(folder: RunFolder) -> set[str]:
    """The keys of numbers in TensorBoard."""
    events = EventAccumulator(str(folder.tracking / "tensorboard"))
    events.Reload()
    return {*events.Tags()["scalars"]}


def texts_of(folder: RunFolder) -> set[str]:
    """The keys of texts and tables in TensorBoard."""
    events = EventAccumulator(str(folder.tracking / "tensorboard"))
    events.Reload()
    return {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}


def test_what_was_altered_is_left_out_with_a_sentence_and_ends_no_command(run_dir: Path, tmp_path: Path):
    """A tracker once ended `compare` after it had done its work, for a line added to a record that it does not read."""
    told: list[str] = []
    current = round_in(run_dir, tmp_path / "run", tell=told.append)
    folder = current.folder
    for path in (folder.train / "events.jsonl", folder.gate(), folder.scores("round2", "whatsapp")):
        with path.open("a") as file:
            file.write("\n")
    do_track(current)
    assert len(told) == 2
    assert (
        told[0].startswith("trackers are not shown 'gate': ") and "gate.json changed since 'gate' wrote it" in told[0]
    )
    assert told[1].startswith("trackers are not shown 'evaluate/round2/whatsapp': ")
    heads = {key.partition("/")[0] for key in scalars(folder)}
    assert {"audit", "gate_prepared", "scores", "compare"} <= heads and "gate" not in heads
    assert "scores/round2/clean/wer" in scalars(folder) and "scores/round2/whatsapp/wer" not in scalars(folder)


def test_nothing_of_the_result_is_shown_where_the_training_cannot_be_read(run_dir: Path, tmp_path: Path):
    told: list[str] = []
    current = round_in(run_dir, tmp_path / "run", tell=told.append)
    current.folder.train_result.write_text("{}")
    do_track(current)
    assert [sentence.partition(":")[0] for sentence in told] == ["trackers are not shown 'train'"]
    assert {key.partition("/")[0] for key in scalars(current.folder)} == {
        "audit",
        "audit_prepared",
        "gate",
        "gate_prepared",
    }


@pytest.mark.parametrize("later", [False, True])
def test_the_demo_shows_its_scores_and_its_comparison(run_dir: Path, tmp_path: Path, monkeypatch, later: bool):
    """Round 2 of the demo, and those after it, before their pages."""
    finished = round_in(run_dir, tmp_path / "run")

    @contextmanager
    def opened(*_):
        yield finished

    def page(current: Round) -> None:
        assert {"scores", "compare"} <= {key.partition("/")[0] for key in scalars(current.folder)}
        raise Preempted("the page is next")

    truth = Truth.read(finished.folder.path / "truth.json")
    monkeypatch.setattr(flow, "_as_far_as_verdicts_let", lambda current: 0)
    monkeypatch.setattr(demo, "open_round", opened)
    monkeypatch.setattr(demo, "build_corpus", lambda *_, **__: None)
    monkeypatch.setattr(demo, "open_truth", lambda *_: truth)
    monkeypatch.setattr(demo, "write_next", lambda *_, **__: finished.recipe)
    monkeypatch.setattr(demo.stages, "do_report", page)
    with pytest.raises(Preempted):
        if later:
            demo.run_next(finished.folder, finished.folder.path, tmp_path, print, untracked)
        else:
            demo.run_demo(3, finished.folder.path, [], without_prepare=False, tell=print)
