"""The flow of a round: protects from training on data that the gate stopped, and from work that runs twice or never."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from audit_documents import alignment_report, audited, gate_verdict
from made_scores import SAID, comparison_of, scores_of
from training_documents import train_result

from shibolet.errors import EXIT_CAUTION, EXIT_INVALID, EXIT_REJECT, EXIT_STOP, DataError, RecipeError
from shibolet.evaluate.dev import ScoreDev
from shibolet.gate.config import EXIT_CODES, GateConfig
from shibolet.listen.engine import Engine, Written
from shibolet.prepare.pieces import Piece
from shibolet.prepare.shards import ShardWriter
from shibolet.recipe import load_recipe
from shibolet.records.audited import write_audited
from shibolet.records.documents.alignment import StratumSize
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.plan import TrainingSet
from shibolet.records.documents.provenance import Provenance
from shibolet.records.documents.scores import Scores, WordErrors
from shibolet.records.files import write_json, write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import auditing, publish, rank, scoring, stages, tracking
from shibolet.rounds.flow import run_round
from shibolet.rounds.plan import make_plan
from shibolet.rounds.shared import Round, SourceData, open_round, open_shard
from shibolet.speech.audio import encode_flac
from shibolet.tracking.config import Tracking, TrackingConfig

WHOLE = ["audit", "gate", "prepare", "train", "evaluate", "compare", "track", "report"]
REPAIRED = [
    "audit",
    "gate",
    "prepare",
    "audit-prepared",
    "gate-prepared",
    "train",
    "evaluate",
    "compare",
    "track",
    "report",
]


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Plays a round whose stages only note their names; gives (exit code, stages, sentences)."""

    def run(raw: str, prepared: str = "PROCEED", compared: str = "keep", overrides=()) -> tuple[int, list[str], str]:
        done, told = [], []
        there = [f"evaluate.sets.{n}.manifest={tmp_path / name}.jsonl" for n, name in enumerate(("clean", "whatsapp"))]
        for path in (tmp_path / "clean.jsonl", tmp_path / "whatsapp.jsonl"):
            path.touch()
        recipe = load_recipe("demo", [*there, *overrides])

        def gate(current, *, prepared=False):
            name = "gate-prepared" if prepared else "gate"
            done.append(name)
            return after(verdicts[name], recipe.gate)

        def note(name):
            return lambda current, *_, prepared=False, **__: done.append(f"{name}-prepared" if prepared else name)

        def compare(current):
            done.append("compare")
            return comparison_of(SAID, SAID).model_copy(update={"verdict": compared})

        verdicts = {"gate": raw, "gate-prepared": prepared}
        monkeypatch.setattr(
            publish, "do_publish", lambda current, config: done.append(f"publish to {config.to}") or "page"
        )
        for name in ("audit", "prepare", "train", "evaluate", "track", "report"):
            place = {"audit": auditing, "evaluate": scoring, "track": tracking}.get(name, stages)
            monkeypatch.setattr(place, f"do_{name}", note(name))
        monkeypatch.setattr(auditing, "do_gate", gate)
        monkeypatch.setattr(scoring, "do_compare", compare)
        monkeypatch.setattr(scoring, "candidates_of", lambda current: ())
        with open_round(recipe, tmp_path / "run", "run", told.append) as current:
            code = run_round(current)
        return code, done, " ".join(told)

    return run


def after(decision: str, config: GateConfig) -> GateVerdict:
    """What the gate says to `run` about a verdict."""
    accepted = decision in config.accept
    ways = {
        "PROCEED": "continue", "CAUTION": config.on_caution, "STOP": config.on_stop,
        "INVALID": "continue" if accepted else "stop",
    }  # fmt: skip
    return gate_verdict(decision, exit_code=EXIT_CODES[decision], next=ways[decision])


def test_proceed_and_caution_go_on(play):
    assert play("PROCEED")[:2] == (0, WHOLE)
    assert play("CAUTION")[:2] == (0, WHOLE)


@pytest.mark.parametrize(
    ("verdict", "code", "overrides", "way_on"),
    [
        ("CAUTION", EXIT_CAUTION, ["gate.on_caution=stop"], "gate.on_caution=continue"),
        ("STOP", EXIT_STOP, ["gate.on_stop=stop"], "gate.on_stop=repair"),
        ("INVALID", EXIT_INVALID, [], "gate.accept=[INVALID]"),
    ],
)
def test_a_closed_gate_ends_the_round_with_a_page_and_the_way_on(play, verdict, code, overrides, way_on):
    found, done, told = play(verdict, overrides=overrides)
    assert (found, done) == (code, ["audit", "gate", "track", "report"])
    assert way_on in told


def test_repair_audits_what_was_kept_and_goes_on_only_when_that_gate_opens(play):
    assert play("STOP")[:2] == (0, REPAIRED)
    assert play("STOP", prepared="CAUTION")[:2] == (0, REPAIRED)
    closed = [*REPAIRED[:5], "track", "report"]
    assert play("STOP", prepared="STOP")[:2] == (EXIT_STOP, closed)
    assert play("STOP", prepared="INVALID")[:2] == (EXIT_INVALID, closed)
    assert play("STOP", prepared="CAUTION", overrides=["gate.on_caution=stop"])[:2] == (EXIT_CAUTION, closed)


def test_an_invalid_instrument_can_be_accepted_in_the_recipe(play):
    assert play("INVALID", overrides=["gate.accept=[INVALID]"])[:2] == (0, WHOLE)


def test_reject_ends_with_40_after_the_page(play):
    assert play("PROCEED", compared="reject")[:2] == (EXIT_REJECT, WHOLE)


def test_only_a_kept_round_whose_recipe_names_a_target_is_published(play):
    target = ["publish={to: org/name}"]
    assert play("PROCEED")[1] == WHOLE
    assert play("PROCEED", overrides=target)[:2] == (0, [*WHOLE, "publish to org/name"])
    assert play("PROCEED", compared="reject", overrides=target)[:2] == (EXIT_REJECT, WHOLE)
    assert "publish to org/name" not in play("STOP", overrides=[*target, "gate.on_stop=stop"])[1]
    assert "publish to org/name" not in play("PROCEED", overrides=[*target, "evaluate.sets=[]"])[1]


def test_without_evaluation_sets_the_round_ends_after_training_and_says_so(play):
    code, done, told = play("PROCEED", overrides=["evaluate.sets=[]"])
    assert (code, done) == (0, ["audit", "gate", "prepare", "train", "track", "report"])
    assert "names no evaluate.sets that can be had" in told


def test_without_evaluation_sets_an_earlier_comparison_is_not_this_rounds(play, tmp_path):
    folder = RunFolder(tmp_path / "run")
    names = ["train", "evaluate/round1/clean", "evaluate/round2/clean", "compare", "publish"]
    for name in names:
        folder.stage(name, {}).finish()
    _, _, told = play("PROCEED", overrides=["evaluate.sets=[]"])
    assert [name for name in names if folder.finished(name)] == ["train"]
    assert "put aside" in told and "compare" in told


def test_a_set_that_is_not_there_ends_the_round_before_anything_is_heard(play):
    with pytest.raises(DataError, match=r"'clean' has no manifest .*nowhere\.jsonl; nothing was started"):
        play("PROCEED", overrides=["evaluate.sets.0.manifest=nowhere.jsonl"])


def test_the_demos_folder_takes_no_other_round(tmp_path):
    demo, other = load_recipe("demo"), load_recipe("hebrew-round2")
    for first, second in ((demo, other), (other, demo)):
        path = tmp_path / first.name
        for _ in range(2):
            with open_round(first, path, "run", print):
                pass
        with pytest.raises(RecipeError, match=f"holds the round '{first.name}', this is '{second.name}'"):
            with open_round(second, path, "run", print):
                pass
        with pytest.raises(RecipeError, match="holds the round"), open_shard(second, path, print):
            pass


def test_results_of_an_earlier_start_do_not_outlive_a_gate_that_closes(play, tmp_path):
    folder = RunFolder(tmp_path / "run")
    names = ["prepare", "gate-prepared", "train", "evaluate/round1/clean", "evaluate/round2/clean", "compare"]
    for name in names:
        folder.stage(name, {}).finish()
    _, _, told = play("STOP", overrides=["gate.on_stop=stop"])
    assert [name for name in names if folder.finished(name)] == ["evaluate/round1/clean"]  # Round 1 is what it was
    assert "put aside, since this round does not reach it: prepare, gate-prepared, train" in told


def test_a_gate_that_opens_leaves_no_trace_of_an_earlier_repair(play, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.stage("gate-prepared", {}).finish()
    folder.stage("train", {}).finish()
    play("PROCEED")
    assert not folder.finished("gate-prepared") and folder.finished("train")


@pytest.fixture
def current(tmp_path) -> Round:
    told = []
    with open_round(load_recipe("demo"), tmp_path / "run", "run", told.append) as current:
        yield current


def test_the_folder_says_what_is_run_before_anything_runs(current):
    assert load_recipe(current.folder.recipe).train == current.recipe.train
    assert Provenance.read(current.folder.provenance).starts[0].num_threads == current.recipe.num_threads


def test_rows_of_several_sources_may_have_the_same_ids(tmp_path):
    """Verdicts are known by id alone: one source's must not judge the other's utterances."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        sf.write(tmp_path / name / "a.wav", np.zeros(16000), 16000)
        rows = [{"audio": "a.wav", "text": "שלום", "id": "0"}, {"audio": "b.wav", "text": "שלום", "id": "1"}]
        write_jsonl(tmp_path / name / "manifest.jsonl", rows)
    sources = ", ".join(f"{{name: {name}, manifest: {tmp_path / name / 'manifest.jsonl'}}}" for name in ("one", "two"))
    with open_round(load_recipe("demo", [f"data.train=[{sources}]"]), tmp_path / "run", "run", print) as current:
        assert [u.id for u in current.data.utterances] == ["one/0", "two/0"]
        assert [line.id for line in current.data.ledger] == ["one/1", "two/1"]


@pytest.mark.parametrize(
    "language, text, is_refused",
    [
        ("Hebrew", "shalom lekulam ve toda", True),
        ("Hebrew", "1 2 3", True),
        ("Hebrew", "שלום world and all the others", False),
        ("English", "שלום לכולם", True),
        ("English", "good morning", False),
    ],
)
def test_texts_in_another_script_end_the_audit_before_a_model_is_fetched(
    tmp_path, monkeypatch, language, text, is_refused
):
    """Models would be downloaded and hours spent to say that every row has no word; only the text's script counts."""
    sf.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    write_jsonl(tmp_path / "rows.jsonl", [{"audio": "a.wav", "text": text, "id": n} for n in range(20)])
    data = f"data.train=[{{name: s, manifest: {tmp_path}/rows.jsonl}}]"
    recipe = load_recipe("demo", [data, f"language={language}", "audit.aligner=org/1", "audit.recogniser=org/2"])
    touched = []
    monkeypatch.setattr(Round, "identity", lambda self, model: touched.append(model) or 1 / 0)
    with open_round(recipe, tmp_path / "run", "audit", print) as current:
        with pytest.raises(DataError if is_refused else ZeroDivisionError) as caught:
            auditing.do_audit(current)
    assert bool(touched) != is_refused
    if is_refused:
        assert f"words are in {language} letters" in str(caught.value) and text[:40] in str(caught.value)


def test_a_comparison_does_not_outlive_the_training_it_speaks_of(tmp_path, monkeypatch):
    def trained(job, send):
        if job.only_through == "C":
            raise RecipeError("there is no phase 'C'")
        (job.out_dir / "final").mkdir(parents=True, exist_ok=True)
        (job.out_dir / "final" / "weights").write_text(f"{job.seed} {job.only_through}")
        train_result().write(job.out_dir / "result.json")

    def identity(model: str) -> str:
        weights = Path(model, "weights")
        return weights.read_text() if weights.exists() else model

    monkeypatch.setattr(rank, "carry_out", trained)
    monkeypatch.setattr("shibolet.listen.open.listener_identity", identity)
    names, told = ["evaluate/round1/clean", "evaluate/round2/clean", "compare", "publish"], []

    def left_after(seed: int, only_through: str | None = None) -> list[str]:
        with open_round(load_recipe("demo", [f"seed={seed}"]), tmp_path / "run", "train", told.append) as current:
            current.folder.stage("prepare", {}).finish()
            current.only_through = only_through
            try:
                stages.do_train(current)
            except RecipeError:
                pass
            left = [name for name in names if current.folder.finished(name)]
            for name in names:
                current.folder.stage(name, {"model": identity(str(current.folder.final))}).finish()
        return left

    round1 = names[:1]
    assert [left_after(1), left_after(1), left_after(2)] == [[], names, round1]
    assert "put aside, since it is of another training: evaluate/round2/clean, compare, publish" in told[-1]
    assert left_after(1) == round1  # taken back, but not with the verdict of the other
    assert left_after(1, "C") == names  # nothing was trained
    assert [left_after(1, "B"), left_after(1, "B")] == [round1, names]


def test_rows_left_out_are_told_by_reason(tmp_path):
    """A hundred files that are missing must be seen before the hours that follow."""
    sf.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    rows = [
        {"audio": name, "text": text}
        for name, text in (("a.wav", "שלום"), ("b.wav", "א"), ("c.wav", "א"), ("a.wav", ""))
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    told = []
    recipe = load_recipe("demo", [f"data.train=[{{name: s, manifest: {tmp_path}/rows.jsonl}}]"])
    with open_round(recipe, tmp_path / "run", "audit", told.append) as current:
        assert len(current.data.utterances) == 1
    (sentence,) = told
    assert "1 utterances; rows left out: 2 missing_file, 1 empty_text; the first is 'b.wav', line 2" in sentence


def test_rows_in_another_language_are_neither_trained_nor_scored(tmp_path):
    """They would be trained under the recipe's name, and their words counted as the set's."""
    sf.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    rows = [{"audio": "a.wav", "text": "שלום", "language": own} for own in ("he", "en", "iw", "ar")]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, {"audio": "a.wav", "text": "language English<asr_text>hello"}])
    place = f"manifest: {tmp_path}/rows.jsonl"
    sets = f"evaluate.sets=[{{name: s, {place}}}, {{name: e, {place}, language: English}}]"
    recipe = load_recipe("demo", [f"data.train=[{{name: t, {place}}}]", sets])
    with open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current:
        trained, hebrew, english = current.data, *map(current.read, current.recipe.evaluate.sets)
    assert {u.language for u in trained.utterances} == {u.language for u in hebrew.utterances} == {"Hebrew"}
    assert len(trained.utterances) == 2 and [u.language for u in english.utterances] == ["English"] * 2
    for data, num in ((trained, 3), (hebrew, 3), (english, 3)):
        assert [(line.rule, line.text) for line in data.ledger] == [("other_language", None)] * num


def test_stages_out_of_order_say_what_to_run_first(current):
    with pytest.raises(DataError, match="stage 'audit' is not done; run it first"):
        auditing.do_gate(current)
    with pytest.raises(DataError, match="stage 'evaluate/round1/clean' is not done"):
        scoring.do_compare(current)


def test_compare_reads_scores_once_and_again_when_they_change(current, monkeypatch):
    calls, made = [], comparison_of(SAID, SAID)
    monkeypatch.setattr("shibolet.compare.compare", lambda *given: calls.append(given) or made)
    monkeypatch.setattr("shibolet.evaluate.stage.read_rows", lambda folder: [folder.parent.name])

    def score(label: str, value: int) -> None:
        for name in ("clean", "whatsapp"):
            stage = current.folder.stage(f"evaluate/{label}/{name}", {"value": value})
            scores_of(identity=str(value)).write(current.folder.scores(label, name))
            stage.finish()

    score("round1", 1), score("round2", 2)
    assert scoring.do_compare(current) == scoring.do_compare(current) == made
    assert len(calls) == 1 and calls[0][0] == (["round1", "round1"], ["round2", "round2"])
    score("round2", 3)
    scoring.do_compare(current)
    assert len(calls) == 2


def test_what_only_changes_the_time_does_not_train_again():
    decides = {
        "phases", "untie_head", "lora", "optimizer", "utterances_per_step", "precision", "patience", "average_best",
        "augment", "objective",
    }  # fmt: skip
    assert load_recipe("demo").train.identity().keys() == decides


@pytest.fixture
def heard(current, monkeypatch):
    """The round with an audit that is done in no time: 400 utterances, a fifth flagged, a quarter of these good."""
    from shibolet.audit import stage

    rows = [
        audited(
            f"u{i:03d}", recording=f"r{i}", is_low_quality=i % 5 == 0, confidence=0.2 if i % 5 == 0 else 0.9,
            suspect="wrong_text" if i % 5 == 0 else None,
        )
        for i in range(400)
    ]  # fmt: skip
    strata = {"clean": StratumSize(num_utterances=4000, hours=3.0)}
    report, calls = alignment_report(strata=strata, num_scored=400), []

    def run_audit(utterances, ledger, *, out_dir, **_):
        calls.append(out_dir)
        write_audited(out_dir / "utterances.parquet", rows)
        write_json(out_dir / "calibration.json", {})
        return report

    monkeypatch.setattr(stage, "run_audit", run_audit)
    listener = SimpleNamespace(identities=("x", "y"), num_lost=0, num_clips=0, num_heard=0)
    monkeypatch.setattr(auditing, "listener_of", lambda *_: listener)
    utterances = [
        Utterance(id=row.id, audio=AudioRef(path=""), text=row.text, duration_s=3.0, source="s") for row in rows
    ]
    current.data = SourceData(utterances, [], "digest")
    return SimpleNamespace(current=current, rows={row.id: row for row in rows}, calls=calls)


def test_a_review_enters_the_report_and_the_gate_and_stays(heard, tmp_path):
    """Verdicts that a person gave once must not get lost when the audit is asked for again."""
    current, folder = heard.current, heard.current.folder
    first = auditing.do_audit(current)
    assert first.review.num_answered == 0 and len(first.review.draw) > 150
    assert auditing.do_gate(current).corrected_low_quality_pct is None
    answers = [
        {"id": id, "verdict": "bad" if heard.rows[id].is_low_quality and i % 4 else "good", "text": heard.rows[id].text}
        for i, id in enumerate(first.review.draw)
    ]  # fmt: skip
    write_jsonl(tmp_path / "saved.jsonl", answers)
    reviewed = auditing.do_audit(current, review=tmp_path / "saved.jsonl")
    assert len(heard.calls) == 2 and reviewed.review.sensitivity == 1.0
    corrected = reviewed.review.corrected_low_quality_pct
    gate = auditing.do_gate(current)
    assert gate.low_quality_pct.rate == 20 and 8 < corrected.lower < corrected.rate < 18
    assert gate.corrected_low_quality_pct.rate == pytest.approx(corrected.rate, abs=0.1)
    (tmp_path / "saved.jsonl").unlink()
    assert auditing.do_audit(current) == reviewed and len(heard.calls) == 2
    assert folder.review.is_file()
    assert gate.decision == "STOP" and "it would be CAUTION" in gate.warnings[0]
    corrected_rate = current.recipe.gate.model_copy(update={"rate": "corrected"})
    current.recipe = current.recipe.model_copy(update={"gate": corrected_rate})
    assert auditing.do_audit(current).decision == "CAUTION" == auditing.do_gate(current).decision


def test_a_review_of_other_data_is_refused_before_anything_is_heard(heard, tmp_path):
    write_jsonl(tmp_path / "saved.jsonl", [{"id": "u000", "verdict": "bad", "text": "another text"}])
    with pytest.raises(DataError, match="none of its 1 verdicts is about an utterance of this data set"):
        auditing.do_audit(heard.current, review=tmp_path / "saved.jsonl")
    assert heard.calls == [] and not heard.current.folder.review.exists()


def test_sets_in_another_language_are_compared_apart(current, monkeypatch):
    """English pooled into a Hebrew verdict would hide what was forgotten."""
    english = current.recipe.evaluate.sets[1].model_copy(update={"language": "en"})
    sets = (current.recipe.evaluate.sets[0], english)
    current.recipe = current.recipe.model_copy(
        update={"evaluate": current.recipe.evaluate.model_copy(update={"sets": sets})}
    )
    for label in ("round1", "round2"):
        for name in ("clean", "whatsapp"):
            stage = current.folder.stage(f"evaluate/{label}/{name}", {})
            scores_of().write(current.folder.scores(label, name))
            stage.finish()
    calls = []
    monkeypatch.setattr("shibolet.compare.compare", lambda *given: calls.append(given) or comparison_of(SAID, SAID))
    monkeypatch.setattr("shibolet.evaluate.stage.read_rows", lambda folder: [f"{folder.parent.name} {folder.name}"])
    scoring.do_compare(current)
    own, names, _, _, other, _, _, doubted, languages, _, silence, terms = calls[0]
    assert own == (["round1 clean"], ["round2 clean"])
    assert other == (["round1 whatsapp"], ["round2 whatsapp"])
    assert doubted is None and silence is None and not terms
    assert {name: language.name for name, language in languages.items()} == {"clean": "Hebrew", "whatsapp": "English"}
    assert [named.title for named in names] == ["Round 1", "Round 2"]


def test_only_an_optional_set_is_left_out_where_it_cannot_be_had(current, monkeypatch):
    sets = current.recipe.evaluate.sets
    told = []
    current.tell = told.append

    def read(source):
        raise DataError("gated: ask for access")

    monkeypatch.setattr(current, "read", read)
    for optional, left in ((True, ["clean"]), (False, ["clean", "whatsapp"])):
        changed = (sets[0], sets[1].model_copy(update={"optional": optional}))
        evaluate = current.recipe.evaluate.model_copy(update={"sets": changed})
        current.recipe = current.recipe.model_copy(update={"evaluate": evaluate})
        current.__dict__.pop("sets", None)
        assert [source.name for source in current.sets] == left
    assert len(told) == 1 and "'whatsapp' is optional" in told[0] and "ask for access" in told[0]


def test_dev_scoring_that_holds_training_up_is_told_with_what_would_not():
    assert rank._too_much(0.049, 200, by_epoch=True) == ""
    # 200 utterances in 20 of 100 s: beside 80 s of training a twentieth is 4.2 s, and that is 42 of them
    assert rank._too_much(0.20, 200, by_epoch=False).endswith("evaluate.dev_utterances=42 would keep to that")
    assert rank._too_much(0.99, 200, by_epoch=False) == ""  # no checkpoint is chosen on a handful to save time
    assert (
        rank._too_much(0.99, 200, by_epoch=True) == ", more than 5.0%; train.eval_every_epoch=false scores less often"
    )


def test_a_dev_score_is_told_with_its_domains_and_the_first_one_without_a_share(monkeypatch, tmp_path):
    """Before the first step nothing has been trained: "100% of the time" would advise to score less."""
    kan = WordErrors(errors=3, words=12, rate=0.25, substitutions=3, deletions=0, insertions=0)
    found = SimpleNamespace(
        wer=SimpleNamespace(rate=0.2), cer=SimpleNamespace(rate=0.1), num_utterances=40, folds=None,
        by_domain={"kan": SimpleNamespace(wer=kan)},
    )  # fmt: skip
    monkeypatch.setattr("shibolet.evaluate.dev.read_dev", lambda folder, with_source: [None])
    monkeypatch.setattr("shibolet.evaluate.dev.dev_scorer", lambda *settings: ScoreDev(lambda loaded: found, bool))
    clock = iter((0.0, 60.0, 100.0, 102.0, 103.0, 113.0))
    monkeypatch.setattr(rank, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    recipe, told = load_recipe("demo"), []
    job = rank.TrainJob(
        run_dir=tmp_path, prepared_dir=tmp_path, out_dir=tmp_path, base="", train=recipe.train,
        evaluate=recipe.evaluate,
        language="Hebrew", seed=0, num_threads=1, about={},
        tracking=Tracking(settings=TrackingConfig(), folder=tmp_path, name="r", group="g", tags=()),
    )  # fmt: skip
    score, _ = rank._dev_scorer(job, told.append)
    assert score(None, "before the first step").by_domain == {"kan": kan}
    score(None, "after step 36")
    score(None, "after step 50")
    assert told == [
        "dev WER before the first step: 20.0% (kan 25.0%); 40 utterances in 60.0 s",
        "dev WER after step 36: 20.0% (kan 25.0%); 40 utterances in 2.0 s, 4.8% of the time so far",
        "dev WER after step 50: 20.0% (kan 25.0%); 40 utterances in 10.0 s, 22.6% of the time so far, more than 5.0%; "
        "train.eval_every_epoch=false scores less often",
    ]


class Says(Engine):
    """Hears, of a clip whose first sample is i / 100, the i-th text, or nothing."""

    clips_at_once = 4

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def write(self, clips):
        return [Written(self.texts[int(100 * clip[0] + 0.5)] if self.texts else "", "end") for clip in clips]


def test_a_set_that_is_the_training_set_is_not_kept(tmp_path, monkeypatch):
    """Of what it was trained on a model knows the words: such a WER says nothing of other speech."""
    texts = [
        f"{word} {other}" for word in ("שלום", "ילד", "בית", "ספר") for other in ("טוב", "גדול", "קטן", "חדש", "ישן")
    ]
    for name, numbers in (("seen", range(12)), ("new", range(12, 20))):
        rows = []
        for i in numbers:
            sf.write(tmp_path / f"{i}.wav", np.full(16000, i / 100, np.float32), 16000, subtype="FLOAT")
            rows.append(
                {"audio": f"{i}.wav", "text": texts[i], "id": f"u{i}", "recording": f"r{i}", "speaker": f"s{i}"}
            )
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    changes = [
        f"data.train=[{{name: s, manifest: {tmp_path}/seen.jsonl}}]", "prepare.drop_low_quality=false",
        "evaluate.audit_sets=false", "evaluate.non_speech=null",
        "evaluate.sets=[" + ", ".join(f"{{name: {n}, manifest: {tmp_path}/{n}.jsonl}}" for n in ("seen", "new")) + "]",
        "compare.loop_cost=0",
    ]  # fmt: skip
    told = []
    monkeypatch.setattr(Round, "identity", lambda self, model: f"hash of {Path(model).name}")
    heard = {"round1": [text.split()[0] for text in texts], "round2": texts}
    monkeypatch.setattr(Round, "transcriber", lambda self, model, label, _: Says(heard[label]))

    def compared(*more: str) -> Comparison:
        with open_round(load_recipe("demo", [*changes, *more]), tmp_path / "run", "run", told.append) as current:
            if not current.folder.finished("train"):
                gate_verdict("PROCEED").write(current.folder.gate())
                write_audited(current.folder.audited_utterances(), [])
                current.folder.seal("audit", {"data": current.data.digest})
                current.folder.seal("gate")
                stages.do_prepare(current)
                train = current.folder.stage("train", {})
                current.folder.final.mkdir(parents=True)
                train.finish()
            scoring.do_evaluate(current, scoring.candidates_of(current))
            return scoring.do_compare(current)

    result = compared()
    num_trained = pq.read_metadata(tmp_path / "run/prepared/train-00000.parquet").num_rows
    assert 6 <= num_trained < 12
    sentence = f"{num_trained} of 12 utterances of set 'seen' are in the training data."
    assert result.overall.wer.shown == "better" and not result.is_kept
    assert sentence in result.sentence and "over 20 groups of recordings and speakers" in result.sentence
    assert f"evaluate: {sentence}" in told
    overlap = lambda place: Scores.read(tmp_path / "run/evaluate" / place / "scores.json").overlap  # noqa: E731
    assert overlap("round2/seen").utterances == num_trained and overlap("round2/seen").speakers == (num_trained, 12)
    assert overlap("round2/new").utterances == 0 and overlap("round1/seen") is None, "nobody knows Round 1's data"
    assert compared("compare.accept_overlap=[seen]").is_kept


def test_the_plan_has_the_lengths_of_what_is_prepared(tmp_path):
    """Before that it says what it assumes, so that nobody takes hours of other data for their own."""
    recipe, run_dir = load_recipe("demo"), tmp_path / "run"
    unknown = make_plan(recipe, run_dir)
    assert unknown.training.training_set == TrainingSet(utterances=None) and unknown.training.steps is None
    assert "before the data are here: there is no /" in unknown.training.training_set_from
    writer = ShardWriter(run_dir / "prepared", "train", 1000)
    (run_dir / "prepared").mkdir(parents=True)
    for i in range(40):
        flac = encode_flac(np.full(8000 + 400 * i, 0.1, np.float32))
        utterance = Utterance(
            id=f"u{i}", audio=AudioRef(path=""), text="שלום עולם", duration_s=0.5 + 0.025 * i, source="here"
        )
        writer.add(Piece.whole(utterance, flac), flac)
    writer.close()
    plan = make_plan(recipe, run_dir).training
    assert plan.training_set.utterances == 40 and plan.step.steps_per_epoch == 3
    assert plan.training_set.audio_h == pytest.approx(sum(0.5 + 0.025 * i for i in range(40)) / 3600, abs=1e-4)
    assert plan.training_set_from == f"prepared in {run_dir / 'prepared'}, with their lengths"
    away = recipe.model_copy(update={"models": recipe.models.model_copy(update={"base": "org/away"})})
    plan = make_plan(away, run_dir).training
    assert plan.training_set == TrainingSet(utterances=40)
    assert "the tokenizer of org/away is not on this machine, so lengths are assumed" in plan.training_set_from
    assert make_plan(recipe, run_dir, 1000).training.training_set_from == "as given; lengths are assumed"
