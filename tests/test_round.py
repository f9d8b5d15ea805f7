"""The flow of a round: protects from training on data that the gate stopped, and from work that runs twice or never."""

import pytest

from shibolet.errors import EXIT_CAUTION, EXIT_INVALID, EXIT_REJECT, EXIT_STOP, DataError
from shibolet.gate import EXIT_CODES, GateConfig
from shibolet.recipe import load_recipe
from shibolet.records.files import read_json, write_json
from shibolet.records.runfolder import RunFolder
from shibolet.round import publish, stages
from shibolet.round.flow import run_round
from shibolet.round.shared import Round, open_round

WHOLE = ["audit", "gate", "prepare", "train", "evaluate", "compare", "report"]
REPAIRED = ["audit", "gate", "prepare", "audit-prepared", "gate-prepared", "train", "evaluate", "compare", "report"]


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Plays a round whose stages only note their names; gives (exit code, stages, sentences)."""

    def run(raw: str, prepared: str = "PROCEED", compared: str = "keep", overrides=()) -> tuple[int, list[str], str]:
        done, told = [], []
        recipe = load_recipe("demo", overrides)

        def gate(round, *, prepared=False):
            name = "gate-prepared" if prepared else "gate"
            done.append(name)
            return after(verdicts[name], recipe.gate)

        def note(name):
            return lambda round, *_, prepared=False: done.append(f"{name}-prepared" if prepared else name)

        def compare(round):
            done.append("compare")
            return {"verdict": compared, "sentence": "Better."}

        verdicts = {"gate": raw, "gate-prepared": prepared}
        monkeypatch.setattr(
            publish, "do_publish", lambda round, config: done.append(f"publish to {config.to}") or "page"
        )
        for name in ("audit", "prepare", "train", "evaluate", "report"):
            monkeypatch.setattr(stages, f"do_{name}", note(name))
        monkeypatch.setattr(stages, "do_gate", gate)
        monkeypatch.setattr(stages, "do_compare", compare)
        monkeypatch.setattr(stages, "rounds_of", lambda round: {})
        with open_round(recipe, tmp_path / "run", "run", told.append) as round:
            code = run_round(round)
        return code, done, " ".join(told)

    return run


def after(decision: str, config: GateConfig) -> dict:
    """What the gate says to `run` about a verdict."""
    accepted = decision in config.accept
    ways = {
        "PROCEED": "continue", "CAUTION": config.on_caution, "STOP": config.on_stop,
        "INVALID": "continue" if accepted else "stop",
    }  # fmt: skip
    return {
        "decision": decision, "exit_code": EXIT_CODES[decision], "next": ways[decision], "recommendation": "Do this.",
    }  # fmt: skip


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
    assert (found, done) == (code, ["audit", "gate", "report"])
    assert way_on in told


def test_repair_audits_what_was_kept_and_goes_on_only_when_that_gate_opens(play):
    assert play("STOP")[:2] == (0, REPAIRED)
    assert play("STOP", prepared="CAUTION")[:2] == (0, REPAIRED)
    closed = [*REPAIRED[:5], "report"]
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
    assert (code, done) == (0, ["audit", "gate", "prepare", "train", "report"])
    assert "names no evaluate.sets" in told


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
def round(tmp_path) -> Round:
    told = []
    with open_round(load_recipe("demo"), tmp_path / "run", "run", told.append) as round:
        yield round


def test_the_folder_says_what_is_run_before_anything_runs(round):
    assert load_recipe(round.folder.recipe).train == round.recipe.train
    assert read_json(round.folder.provenance)[0]["num_threads"] == round.recipe.num_threads


def test_stages_out_of_order_say_what_to_run_first(round):
    with pytest.raises(DataError, match="stage 'audit' is not done; run it first"):
        stages.do_gate(round)
    with pytest.raises(DataError, match="stage 'evaluate/round1/clean' is not done"):
        stages.do_compare(round)


def test_compare_reads_scores_once_and_again_when_they_change(round, monkeypatch):
    calls = []
    monkeypatch.setattr("shibolet.compare.compare", lambda *rows: calls.append(rows) or {"verdict": "keep"})
    monkeypatch.setattr("shibolet.evaluate.stage.read_rows", lambda folder: [folder.parent.name])

    def score(label: str, value: int) -> None:
        for name in ("clean", "whatsapp"):
            stage = round.folder.stage(f"evaluate/{label}/{name}", {"value": value})
            write_json(round.folder.scores(label, name), value)
            stage.finish()

    score("round1", 1), score("round2", 2)
    assert stages.do_compare(round) == stages.do_compare(round) == {"verdict": "keep"}
    assert len(calls) == 1 and calls[0][:2] == (["round1", "round1"], ["round2", "round2"])
    score("round2", 3)
    stages.do_compare(round)
    assert len(calls) == 2


def test_what_only_changes_the_time_does_not_train_again():
    settings = load_recipe("demo").train.model_dump()
    assert stages.WITHOUT_EFFECT < settings.keys()
    decides = {"phases", "untie_head", "lora", "optimizer", "utterances_per_step", "precision", "patience"}
    assert settings.keys() - stages.WITHOUT_EFFECT == decides
