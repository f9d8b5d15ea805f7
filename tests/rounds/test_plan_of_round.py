"""The plan of a whole round: protects from a machine that is rented for the hours of the training steps alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.errors import DataError, RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.documents.round_plan import RoundCase, RoundPlan
from shibolet.records.documents.timings import PhaseTime, StageTime, TrainTime, Work, add_time, read_times
from shibolet.rounds import check
from shibolet.rounds.plan import make_plan
from shibolet.rounds.shared import open_round

HEARING, REST, SETS = "hearing the sample", "hearing the rest", "hearing the test sets"
NUM_WEIGHTS = 2_412_080  # of the demo's model with its adapters


def stretch(case: RoundCase, name: str):
    [found] = [one for one in case.stretches if one.name == name]
    return found


@pytest.fixture(scope="module")
def two_gpus(tmp_path_factory) -> RoundPlan:
    """What the README plans."""
    return make_plan(load_recipe("hebrew-round2"), tmp_path_factory.mktemp("empty"), None, 2, None, 40)


def test_a_total_is_the_sum_of_its_parts(two_gpus):
    for case in two_gpus.cases:
        known = [one for one in case.stretches if one.name != SETS]
        assert len(known) == 11 and stretch(case, SETS).seconds is None, "nobody knows how large the test sets are"
        assert case.hours == pytest.approx(sum(one.seconds for one in known) / 3600, abs=1e-4)
        assert case.usd == pytest.approx(sum(one.usd for one in known), abs=1e-3)
        for one in known:
            assert one.usd == pytest.approx(one.seconds / 3600 * 2 * 0.8, abs=1e-3)


def test_the_parts_are_what_their_arithmetic_says(two_gpus):
    """Again by hand: rows, copies and rates of `benchmarks/RESULTS.md`."""
    specified, card = two_gpus.cases
    for case, rows in ((specified, 45_123 + 28_456), (card, 203_827 + 28_456)):
        steps = -(-rows // 64)
        checkpoints = len({*range(500, 5 * steps + 1, 500), 2 * steps, 5 * steps})
        scores = 1 + len({*range(500, 5 * steps + 1, 500), *(epoch * steps for epoch in range(1, 6))})
        by_hand = {
            HEARING: (2500 + 6 * 240 + 4 * 80 + 120) / 313 + 23,
            REST: (rows - 2500) / 313,
            "preparing": rows * 5.8 / 9000,
            "training: start": 10.1,
            "training: B": 2 * steps * two_gpus.training.phases[0].step_s,
            "training: A": 3 * steps * two_gpus.training.phases[1].step_s,
            "training: checkpoints": checkpoints * 0.22,
            "training: dev scores": scores * 256 / 300,
            "training: end": 14.4,
            "scoring both models": 2 * 4.2,
            "verdicts, pages": 7.1,
        }
        assert case.rows == case.train_utterances == rows
        found = {one.name: one.seconds for one in case.stretches if one.name != SETS}
        assert found == pytest.approx(by_hand, abs=0.06)
        assert f"{rows:,} - 2,500 = {rows - 2500:,} / 313 clips a second" == stretch(case, REST).arithmetic
    assert two_gpus.training.steps == 5 * 1150 and two_gpus.training.step.world_size == 2


def test_a_whisper_is_planned_with_its_own_sizes_and_no_times_of_another_family(tmp_path, monkeypatch):
    """Nothing is on this machine: the name tells the size. Its audits and scores were never timed."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = make_plan(load_recipe("hebrew-whisper-turbo"), tmp_path / "run", None, 1, "H100", 79)
    base = "ivrit-ai/whisper-large-v3-turbo"
    assert plan.training.model_from == f"{base} is not on this machine: sizes are those of whisper-large-v3-turbo"
    assert plan.training.model.parameters == 808_878_080
    assert [phase.total_gib < 79 for phase in plan.training.phases] == [True, True]
    timed = {one.name for one in plan.cases[0].stretches if one.seconds is not None}
    assert timed == {"preparing", "training: B", "training: A", "verdicts, pages"}


def test_every_rate_says_where_it_was_measured(two_gpus):
    """A section of RESULTS.md that does not exist is no source."""
    results = (Path(__file__).parents[2] / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)", results, re.MULTILINE)
    sources = {one.rate_from for case in two_gpus.cases for one in case.stretches}
    sections = [section for source in sources for section in re.findall(r'RESULTS.md, "(.+?)"', source)]
    assert sections and all(any(title.startswith(name) for title in titles) for name in sections)


def test_what_is_not_known_is_not_counted_as_nothing(two_gpus, tmp_path):
    scoring = stretch(two_gpus.cases[0], "scoring both models")
    assert scoring.missing.startswith("rows not known of eval-d1,") and two_gpus.cases[0].at_least
    manifest = tmp_path / "set.jsonl"
    manifest.write_text("".join(f'{{"audio": "{i}.wav", "text": "x"}}\n' for i in range(200)))
    sets = json.dumps([{"name": name, "manifest": str(manifest)} for name in ("one", "two")])
    known = make_plan(load_recipe("hebrew-round2", [f"evaluate.sets={sets}"]), tmp_path, 1000).cases[0]
    scoring = stretch(known, "scoring both models")
    assert not known.at_least and scoring.missing is None
    assert scoring.seconds == pytest.approx(2 * (4.2 + 400 * 5.8 / 700), abs=0.06)
    with pytest.raises(RecipeError, match="--gpu T4: known are A100, H100, H200 and CPU"):
        make_plan(load_recipe("hebrew-round2"), tmp_path, None, None, "T4")
    on_cpu = make_plan(load_recipe("hebrew-round2"), tmp_path, None, None, "cpu")
    assert {one.seconds for one in on_cpu.cases[0].stretches} == {None} and on_cpu.cases[0].usd is None
    assert "--rates-from" in stretch(on_cpu.cases[0], "training: B").missing
    nothing = make_plan(load_recipe("demo"), tmp_path).cases[0]
    assert nothing.rows is None and stretch(nothing, HEARING).missing == "the number of rows is not known"
    of_rows = make_plan(load_recipe("demo"), tmp_path, rates_run=finished(tmp_path / "run")).cases[0].stretches
    known = {one.name for one in of_rows if one.seconds is not None}
    assert known == {"training: start", "training: end", "verdicts, pages"}


def test_audio_without_text_and_what_is_heard_for_it_are_counted(tmp_path):
    """Protects from a machine that is rented for the labelled hours, when ten times as many are to be transcribed."""
    (tmp_path / "radio").mkdir()
    for number, seconds in enumerate((58, 116)):
        samples = np.zeros(16000 * seconds, np.int16)
        sf.write(tmp_path / "radio" / f"{number}.wav", samples, 16000)
    (tmp_path / "told.jsonl").write_text("".join(f'{{"audio": "{i}.wav", "text": "x"}}\n' for i in range(100)))
    changes = [
        f"data.train=[{{name: told, manifest: {tmp_path / 'told.jsonl'}}}]", "label.calibration_clips=50",
        "label.max_false_accept_pct=10", "models.baseline_trained_on=[]",
        f"data.unlabelled=[{{name: radio, manifest: {tmp_path / 'radio'}}}]",
    ]  # fmt: skip
    plan = make_plan(load_recipe("hebrew-round2", changes), tmp_path / "run", None, 1, "H200")
    (case,) = plan.cases
    assert stretch(case, "labelling: writing").seconds == pytest.approx(4.2 + (100 + 30) * 5.8 / 700, abs=0.06)
    assert stretch(case, "labelling: listening").seconds == pytest.approx(23 + (100 + 30) / 313, abs=0.06)
    assert case.rows == 100 and case.train_utterances == 130
    assert plan.training.training_set_from.startswith("rows of the manifests, since nothing is prepared in ")
    assert "and as much as 30 more of audio without text if all passes" in plan.training.training_set_from
    assert case.usd > stretch(case, "labelling: listening").usd > 0
    capped = make_plan(load_recipe("hebrew-round2", [*changes, "label.max_labelled_share=0.1"]), tmp_path / "run")
    assert capped.cases[0].train_utterances == 110
    for place in (
        "hub: a/b, split: train",
        f"manifest: {tmp_path}/gone.jsonl",
        f"parquet: '{tmp_path}/gone/*.parquet'",
    ):
        absent = [*changes[:4], f"data.unlabelled=[{{name: radio, {place}}}]", "label.flagged=true"]
        unknown = make_plan(load_recipe("hebrew-round2", absent), tmp_path / "run").cases[0]
        assert unknown.at_least and stretch(unknown, "labelling: writing").missing.startswith(
            "the hours of data.unlabelled"
        )


def test_long_utterances_that_are_heard_again_are_not_counted_as_nothing(tmp_path):
    """label.recut alone hears too, and a plan without it would be a whole one."""
    changes = ["label.recut=true", "models.baseline_trained_on=[]"]
    case = make_plan(load_recipe("hebrew-round2", changes), tmp_path / "run", 1000).cases[0]
    assert (
        case.at_least and "longer than prepare.max_duration_s" in stretch(case, "hearing long utterances again").missing
    )


TEACHER = ["models.base=Qwen/Qwen3-ASR-0.6B", "models.teacher=Qwen/Qwen3-ASR-1.7B"]


def test_a_teacher_is_counted_in_time_money_and_disk(tmp_path, monkeypatch):
    """Its pass and its texts took part of the round, and nobody had said so before it was paid."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = make_plan(load_recipe("hebrew-round4", TEACHER), tmp_path / "run", None, 1, "H200")
    once = "teacher: its pass over the training set"
    for case, rows in zip(plan.cases, (45_123 + 28_456, 203_827 + 28_456), strict=True):
        # About 130 tokens of audio, prompt and text in 5.8 s, each through 2 x 1.7 billion operations.
        assert 0.3 < stretch(case, once).seconds / (rows * 130 * 2 * 1.7e9 / (989e12 * 0.45)) < 3
        assert stretch(case, once).usd > 0
        assert stretch(case, "teacher: writing its texts").seconds == pytest.approx(4.2 + rows * 5.8 / 700, abs=0.06)
        assert stretch(case, "teacher: dev scores").seconds == pytest.approx(512 / 300, abs=0.06)
        assert stretch(case, "training: P").missing == "the texts that the model writes in every step"
        assert stretch(case, "training: T").missing is None and case.at_least
    ratio = stretch(plan.cases[1], once).seconds / stretch(plan.cases[0], once).seconds
    assert ratio == pytest.approx(232_283 / 73_579, rel=0.01)
    labels = 73_579 * (4 + 6 * 5.8)
    assert plan.training.teacher_cache_gib == pytest.approx(labels * (16 * 4 + 17 * 2) / 2**30, rel=0.03)
    plain = make_plan(load_recipe("hebrew-round2"), tmp_path / "run", None, 1, "H200")
    assert plain.training.teacher_cache_gib is plain.training.teacher_pass_s is None
    assert not [one.name for one in plain.cases[0].stretches if "teacher" in one.name or "labelling" in one.name]


def test_check_wants_room_for_what_a_teacher_expects(tmp_path, monkeypatch):
    """The disk was found to be full after teacher and student had transcribed dev."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = load_recipe("hebrew-round4", [*TEACHER, "train.distil.top_k=1024"])
    plan = make_plan(recipe, tmp_path / "run").training
    needs = [
        float(re.search(r"([\d.]+) needed", finding.found)[1])
        for one in (plan, plan.model_copy(update={"teacher_cache_gib": None}))
        for finding in check._machine(one, tmp_path / "run")
        if finding.what.startswith("disk")
    ]
    assert plan.teacher_cache_gib > 10 and needs[0] - needs[1] == pytest.approx(plan.teacher_cache_gib, abs=0.11)


def test_why_it_costs_so_much_less_than_the_team_expects(two_gpus, tmp_path):
    said = two_gpus.notes[-1]
    assert said.startswith("$38 (2 x A100) is 47.5 GPU-hours at $0.80; this is 49 times less.")
    assert "would train 22.8 h on one H200" in said and "2,803 for 18.8 in B" in said
    large = make_plan(load_recipe("hebrew-round2"), tmp_path, 10_000_000)
    assert large.notes[-1].endswith("10,000,000 rows, 16,111 h, take more than that.")


def test_round_3_has_none_of_round_2s_prices(tmp_path):
    """$77 and $38 are what the specification expects of Round 2."""
    plan = make_plan(load_recipe("hebrew-round3"), tmp_path)
    assert [case.rows for case in plan.cases] == [73_579, 232_283]
    assert plan.training.cost.specified_usd is None and not any("$38" in note for note in plan.notes)
    assert plan.cases[0].usd > 0


def finished(run: Path, scale: float = 1.0, **changes: tuple[float, Work]) -> Path:
    """A run folder of a round on 100 utterances that took so many times as long, and its lines."""
    phases = {"B": PhaseTime(seconds=24 * scale, utterances=120), "A": PhaseTime(seconds=54 * scale, utterances=360)}
    training = TrainTime(
        start_s=5 * scale, phases=phases, checkpoints_s=2 * scale, checkpoints=4, dev_s=10 * scale, dev_utterances=80,
        end_s=5 * scale, gpus=0, parameters=NUM_WEIGHTS,
    )  # fmt: skip
    lines = {
        "audit": (50.0, Work(clips=500, heard=500)),
        "gate": (0.5, Work()),
        "hear-rest": (4.0, Work(clips=20, heard=20)),
        "prepare": (2.0, Work(utterances=100, audio_s=400.0, train=60, dev=20)),
        "train": (100.0, Work()),
        "audit-sets/clean": (16.0, Work(clips=80, heard=80)),
        "evaluate/round1/clean": (8.0, Work(utterances=80, audio_s=300.0)),
        "evaluate/round2/clean": (12.0, Work(utterances=80, audio_s=300.0)),
        "report": (3.5, Work()),
    }
    run.mkdir()
    for stage, (seconds, done) in {**lines, **changes}.items():
        time = StageTime.of(stage, seconds * scale, True, done, training if stage == "train" else None)
        add_time(run / "timings.jsonl", time)
    return run


def test_a_finished_round_predicts_itself_and_one_of_twice_its_size(tmp_path):
    """The rates of a round are what it took for what it did, and its data are kept as much of as were there."""
    run = finished(tmp_path / "run")
    recipe = load_recipe("demo")
    plan = make_plan(recipe, tmp_path / "other", 200, rates_run=run)
    [case] = plan.cases
    assert plan.machine.endswith(f"CPU cores, as {run} took it") and plan.num_gpus == 0 and case.usd is None
    assert case.train_utterances == 120 and plan.training.training_set.utterances == 120
    copies = 11 * 80
    found = {one.name: one.seconds for one in case.stretches}
    assert found["training: B"] == pytest.approx(2 * 120 / (120 / 24), abs=0.06)
    assert found["training: A"] == pytest.approx(6 * 120 / (360 / 54), abs=0.06)
    assert found[HEARING] == pytest.approx((200 + copies) / 10, abs=0.06), "300 at least, and there are 200"
    assert found["hearing again after STOP"] is None, "that round heard nothing twice"
    assert found["preparing"] == pytest.approx(4.0) and found["verdicts, pages"] == pytest.approx(4.0)
    assert found["training: start"] == found["training: end"] == 5.0
    assert found["training: dev scores"] == pytest.approx(8 * 40 / 8, abs=0.06)  # after each epoch
    assert {one.rate_from for one in case.stretches if one.seconds} == {str(run)}
    slower = make_plan(recipe, tmp_path / "other", 200, rates_run=finished(tmp_path / "slow", 2.0))
    assert slower.cases[0].hours == pytest.approx(2 * case.hours, rel=1e-3)


def test_the_rates_of_another_model_are_refused(tmp_path):
    """Phases go by their names, and a step of 1.7 billion weights is not one of 2 million."""
    run = finished(tmp_path / "run")
    with pytest.raises(DataError, match=r"run trained a model of 2,412,080 weights, and this recipe's has 2,35\d,"):
        make_plan(load_recipe("hebrew-round2"), tmp_path, rates_run=run)


def test_rows_that_a_recipe_names_of_its_test_sets_count(tmp_path):
    recipe = load_recipe("hebrew-round2", ["evaluate.sets.0.rows={card: 17}"])
    scoring = stretch(make_plan(recipe, tmp_path).cases[0], "scoring both models")
    assert "17 x 5.8 s" in scoring.arithmetic and "eval-d1" not in scoring.missing


def test_manifests_without_a_row_are_refused_and_absent_ones_named(tmp_path):
    """A plan of 0 rows would look like a round that costs nothing."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match=r"source 'synthetic': manifest .*empty\.jsonl has no rows"):
        make_plan(load_recipe("demo", [f"data.train.0.manifest={empty}"]), tmp_path)
    [case] = make_plan(load_recipe("demo", [f"data.train.0.manifest={tmp_path / 'none.jsonl'}"]), tmp_path).cases
    assert "there is no" in case.rows_from and "none.jsonl" in case.rows_from


def test_what_was_cut_off_or_not_heard_gives_no_rate(tmp_path):
    run = finished(tmp_path / "known", audit=(0.5, Work(clips=500, heard=3)))
    add_time(run / "timings.jsonl", StageTime.of("prepare", 0.1, False, Work(utterances=100)))
    [case] = make_plan(load_recipe("demo"), tmp_path, 200, rates_run=run).cases
    assert stretch(case, HEARING).seconds is None and case.at_least
    assert stretch(case, "preparing").seconds == pytest.approx(4.0), "of the time before that one"
    cut = tmp_path / "cut"
    cut.mkdir()
    add_time(cut / "timings.jsonl", StageTime.of("train", 9.0, False, Work()))
    with pytest.raises(DataError, match="no training that ran without a break"):
        make_plan(load_recipe("demo"), tmp_path, 200, rates_run=cut)


def test_rates_are_read_from_what_was_written_alone(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*timings\.jsonl"):
        make_plan(load_recipe("demo"), tmp_path, 200, rates_run=tmp_path)
    path = finished(tmp_path / "run") / "timings.jsonl"
    for number in (1, 2):
        with pytest.raises(RecipeError, match="leave out --gpu and --gpus"):
            make_plan(load_recipe("demo"), tmp_path, 200, number, rates_run=tmp_path / "run")
    whole = path.read_text()
    path.write_text(whole.replace('"seconds":50.0', '"seconds":5.0'))
    with pytest.raises(DataError, match=r"line 1: not as it was written; delete it"):
        read_times(path)
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        read_times(path)
    path.write_text(whole.rstrip("\n"))
    add_time(path, StageTime.of("report", 1.0, True, Work()))
    assert [line.stage for line in read_times(path)][-2:] == ["report", "report"]


def test_a_stage_leaves_its_seconds_and_whether_they_are_all(tmp_path):
    """A stage that goes on after a break does not pass for a fast one, and one that was done before leaves no line."""

    def compared(finishes: bool) -> None:
        with open_round(load_recipe("demo"), tmp_path / "run", "run", lambda said: None) as current:
            stage = current.begin("compare", {"a": 1})
            if finishes and not stage.done:
                current.folder.compare.write_text("{}")
                current.finish(stage, Work(clips=3))

    compared(finishes=True)
    compared(finishes=True)
    (tmp_path / "run" / ".stages" / "compare.json").unlink()
    compared(finishes=False)
    compared(finishes=True)
    first, second = read_times(tmp_path / "run" / "timings.jsonl")
    assert (first.stage, first.is_whole, first.done) == ("compare", True, Work(clips=3))
    assert not second.is_whole and 0 <= first.seconds < 60


def test_pages_are_timed_too(tmp_path):
    with (
        open_round(load_recipe("demo"), tmp_path / "run", "run", lambda said: None) as current,
        current.timed("report"),
    ):
        pass
    assert [line.stage for line in read_times(tmp_path / "run" / "timings.jsonl")] == ["report"]
