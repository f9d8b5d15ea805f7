"""The run folder: protects from work done twice, stale results that pass as fresh, and paid work deleted."""

import os
import shutil
import subprocess
import sys

import pytest

from shibolet.errors import DataError, RecipeError
from shibolet.records.documents.provenance import Provenance
from shibolet.records.files import read_json, read_jsonl, write_json
from shibolet.records.manifest import read_manifest
from shibolet.records.runfolder import RunFolder
from shibolet.records.settings import read_yaml


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def make_gate(folder, inputs, content="verdict"):
    stage = folder.stage("gate", inputs)
    write_json(folder.gate(), content)
    stage.finish()
    return stage


def test_a_finished_stage_is_skipped_only_with_the_same_inputs(folder):
    assert make_gate(folder, {"report": "aa", "lines": (10, 15)}).state == "new"
    again = folder.stage("gate", {"report": "aa", "lines": (10, 15)})
    assert again.done and "nothing changed" in again.note
    changed = folder.stage("gate", {"report": "bb", "lines": (10, 15)})
    assert changed.state == "changed" and "report changed" in changed.note
    assert not folder.gate().exists()
    [aside] = (folder.path / ".aside").iterdir()
    assert read_json(aside / "gate.json") == "verdict"


def test_going_back_to_earlier_inputs_takes_their_results_back(folder):
    make_gate(folder, {"line": 10}, "first")
    make_gate(folder, {"line": 20}, "second")
    back = folder.stage("gate", {"line": 10})
    assert back.done and "taken back" in back.note and read_json(folder.gate()) == "first"
    assert folder.stage("gate", {"line": 20}).done and read_json(folder.gate()) == "second"


def test_a_stage_that_the_round_no_longer_reaches_is_put_aside_and_comes_back(folder):
    make_gate(folder, {"line": 10})
    assert folder.retire("gate", "train") == ["gate"]
    assert not folder.gate().exists() and not folder.finished("gate")
    assert folder.stage("gate", {"line": 10}).done


def test_a_stage_that_was_cut_off_goes_on_in_place(folder):
    folder.stage("train", {"data": "aa"})
    write_json(folder.checkpoints / "step-1" / "state.json", 1)
    again = folder.stage("train", {"data": "aa"})
    assert again.state == "interrupted"
    assert (folder.checkpoints / "step-1" / "state.json").exists()


def test_changed_inputs_take_checkpoints_of_other_inputs_away(folder):
    folder.stage("train", {"data": "aa"})
    write_json(folder.checkpoints / "step-1" / "state.json", 1)
    assert folder.stage("train", {"data": "bb"}).state == "changed"
    assert not folder.checkpoints.exists()
    assert list((folder.path / ".aside").rglob("state.json"))


def test_altered_or_missing_outputs_are_made_again_from_what_is_left(folder):
    stage = folder.stage("train", {"data": "aa"})
    for path in (folder.plan, folder.train / "result.json", folder.final / "model.safetensors"):
        write_json(path, path.name)
    write_json(folder.checkpoints / "step-1" / "state.json", 1)
    stage.finish()
    assert folder.stage("train", {"data": "aa"}).done
    (folder.final / "model.safetensors").write_text("bit rot")
    again = folder.stage("train", {"data": "aa"})
    assert again.state == "interrupted" and "final/model.safetensors" in again.note
    assert not folder.final.exists() and not (folder.train / "result.json").exists()
    assert (folder.checkpoints / "step-1" / "state.json").exists()

    make_gate(folder, {})
    folder.gate().unlink()
    assert folder.stage("gate", {}).state == "interrupted"


def test_files_of_unknown_origin_are_not_taken_for_results(folder):
    write_json(folder.gate(), "from somewhere")
    assert folder.stage("gate", {}).state == "changed"
    assert not folder.gate().exists()


def test_the_digest_of_a_stage_follows_its_outputs(folder):
    with pytest.raises(DataError, match="'gate' is not done"):
        folder.verified("gate")
    make_gate(folder, {})
    first = folder.verified("gate")
    make_gate(folder, {"other": 1}, content="verdict")
    assert folder.verified("gate") == first
    make_gate(folder, {"third": 1}, content="another verdict")
    assert folder.verified("gate") != first


def test_what_a_stage_reads_is_verified_before_and_after_it(folder):
    """A later stage may not train or score on a file that is not as its producer wrote it."""
    make_gate(folder, {}, "verdict")
    stage = folder.stage("prepare", {}, reads=("gate",))
    write_json(folder.gate(), "other verdict")
    write_json(folder.prepared / "summary.json", 1)
    with pytest.raises(DataError, match=r"gate\.json changed since 'gate' wrote it; run 'shibolet gate'"):
        stage.finish()
    with pytest.raises(DataError, match=r"gate\.json changed"):
        folder.stage("prepare", {}, reads=("gate",))
    assert not folder.finished("prepare")
    assert folder.stage("gate", {}).state == "interrupted"  # it is made again, and then prepare may read it
    make_gate(folder, {}, "verdict")
    stage = folder.stage("prepare", {}, reads=("gate",))
    write_json(folder.prepared / "summary.json", 1)
    make_gate(folder, {"line": 2}, "other verdict")
    with pytest.raises(DataError, match="'gate' was made anew while 'prepare' ran"):
        stage.finish()


def test_a_stage_made_from_another_outcome_is_not_read_until_it_is_asked_again(folder):
    """A gate of an audit that is not there any more opens nothing."""
    for number in (1, 2):
        stage = folder.stage("audit", {"number": number})
        write_json(folder.alignment_report(), number)
        stage.finish()
        if number == 1:
            stage = folder.stage("gate", {}, reads=("audit",))
            write_json(folder.gate(), "verdict")
            stage.finish()
    with pytest.raises(DataError, match="'gate' was made from another 'audit' than the one that is there"):
        folder.verified("gate")
    folder.intact("gate")  # a page may show it
    assert folder.stage("gate", {}, reads=("audit",)).done  # by its inputs it would come out the same
    folder.verified("gate")


def test_records_are_refused_when_changed_and_missed_by_nobody(folder):
    """Curves that a page would show are checked; for them nothing is trained again."""
    stage = folder.stage("train", {})
    for path in (folder.metrics, folder.final / "config.json"):
        write_json(path, path.name)
    stage.finish()
    write_json(folder.metrics, "other numbers")
    with pytest.raises(DataError, match=r"train/metrics\.jsonl changed since 'train' wrote it; put it back, or delete"):
        folder.intact()
    assert folder.stage("train", {}).done and folder.verified("train")
    folder.metrics.unlink()
    folder.intact()


def test_a_part_of_a_round_holds_up_no_page_and_its_remedy_is_a_command(folder):
    """No page shows the single checkpoint, and there is no 'shibolet parts'."""
    stage = folder.stage("parts/single", {})
    write_json(folder.path / "parts" / "single" / "model" / "config.json", {})
    stage.finish()
    write_json(folder.path / "parts" / "single" / "model" / "config.json", {"changed": 1})
    folder.intact()
    with pytest.raises(DataError, match="run 'shibolet compare' as before"):
        folder.verified("parts/single")


def test_a_recipe_and_provenance_changed_between_starts_are_noticed(folder):
    folder.path.mkdir()
    folder.recipe.write_text("name: a\n")
    assert folder.write_provenance("run", 2) is None
    folder.intact("start")
    folder.recipe.write_text("name: b\n")
    with pytest.raises(
        DataError, match=r"recipe\.yaml changed since 'start' wrote it; start a command with the recipe"
    ):
        folder.intact("start")
    said = folder.provenance.read_text()
    folder.provenance.write_text(said.replace('"run"', '"train"'))
    assert "not as written" in folder.write_provenance("run", 2)
    assert len(Provenance.read(folder.provenance).starts) == 1
    assert '"train"' in (folder.path / ".aside" / "provenance.json").read_text()


def test_a_marker_that_is_not_whole_guards_nothing_in_silence(folder):
    make_gate(folder, {})
    marker = folder.path / ".stages" / "gate.json"
    for content in (b"", marker.read_bytes()[:-20], b"[1]"):
        marker.write_bytes(content)
        for check in (folder.intact, folder.verified):
            with pytest.raises(
                DataError, match=r"\.stages/gate\.json is not as it was written, so what 'gate' made cannot be checked"
            ):
                check("gate")
    write_json(marker, {"state": "done", "inputs": {}})  # of another version, which is told elsewhere
    folder.intact("gate")


def test_no_changed_byte_of_a_marker_passes(folder):
    """Inputs speak to other stages too: a label that lost a bit once left a comparison of systems standing."""
    make_gate(folder, {"line": 10})
    stage = folder.stage("prepare", {"data": "aa", "systems": ["one"]}, reads=("gate",))
    write_json(folder.prepared / "summary.json", 1)
    stage.finish()
    marker = folder.path / ".stages" / "prepare.json"
    whole = marker.read_bytes()
    for at, byte in enumerate(whole):
        for bit in (1, 4, 32):
            marker.write_bytes(whole[:at] + bytes([byte ^ bit]) + whole[at + 1 :])
            assert folder.inputs("prepare") == {} and not folder.finished("prepare")
        with pytest.raises(DataError, match="'prepare'"):
            folder.verified("prepare")
    stage = folder.stage("prepare", {"data": "aa", "systems": ["one"]})
    assert not stage.done and "prepare: its marker is not as it was written; what was there is now in" in stage.note
    marker.write_bytes(whole)
    write_json(folder.prepared / "summary.json", 1)
    assert folder.verified("prepare")
    write_json(marker, {key: value for key, value in read_json(marker).items() if key != "sha256"})
    assert folder.verified("prepare")  # of an earlier version


def test_evaluations_of_two_models_do_not_disturb_each_other(folder):
    for model in ("round1", "round2"):
        stage = folder.stage(f"evaluate/{model}/clean", {"model": model})
        write_json(folder.scores(model, "clean"), model)
        stage.finish()
    assert folder.stage("evaluate/round1/clean", {"model": "other"}).state == "changed"
    assert folder.stage("evaluate/round2/clean", {"model": "round2"}).done
    assert not folder.scores("round1", "clean").exists()


def test_a_crash_while_moving_loses_nothing(folder, monkeypatch):
    stage = folder.stage("audit", {"a": 1})
    write_json(folder.alignment_report(), "report")
    folder.audited_utterances().write_text("rows")
    stage.finish()
    moves = []

    def failing(source, target):
        if moves and "utterances" in str(source):
            raise KeyboardInterrupt
        moves.append(source)
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("shibolet.records.runfolder.os.replace", failing)
        with pytest.raises(KeyboardInterrupt):
            folder.stage("audit", {"a": 2})
    assert folder.stage("audit", {"a": 2}).state == "changed"
    assert {path.name for path in (folder.path / ".aside").rglob("*.*")} >= {
        "alignment_report.json",
        "utterances.parquet",
    }


def test_only_one_process_writes_in_a_folder(folder):
    script = (
        "import sys; from pathlib import Path; from shibolet.records.runfolder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): pass"
    )
    with folder.locked():
        done = subprocess.run([sys.executable, "-c", script, folder.path], capture_output=True, text=True)
    assert done.returncode == 1 and "in use by another shibolet" in done.stderr
    subprocess.run([sys.executable, "-c", script, folder.path], check=True)


def test_provenance_says_with_what_and_not_where(folder, tmp_path):
    folder.path.mkdir()
    folder.write_provenance("run", 2)
    folder.write_provenance("run", 2)
    [first, _] = Provenance.read(folder.provenance).starts
    assert first.packages["torch"] and first.num_threads == 2
    said = folder.provenance.read_text()
    assert str(tmp_path) not in said and os.getcwd() not in said


def test_a_folder_of_an_earlier_version_is_told_and_made_anew(folder):
    """Its stages are put aside whole, and what the models said stays where the next audit finds it."""
    make_gate(folder, {"report": "aa"})
    heard = folder.audit() / "heard" / "0.jsonl"
    write_json(heard, "what was said")
    marker = {"state": "done", "inputs": {"report": "aa"}, "outputs": {}}  # without a version
    write_json(folder.path / ".stages" / "gate.json", marker)
    write_json(folder.provenance, [{"command": "run"}])
    assert not folder.finished("gate") and folder.inputs("gate") == {}
    stage = folder.stage("gate", {"report": "aa"})
    assert stage.state == "changed" and "made by another version of shibolet; what was there is now in" in stage.note
    assert read_json(folder.path / ".aside" / "gate-unknown" / "gate.json") == "verdict" and heard.is_file()
    folder.write_provenance("run", 2)
    assert len(Provenance.read(folder.provenance).starts) == 1
    assert read_json(folder.path / ".aside" / "provenance.json") == [{"command": "run"}]


def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder, tmp_path):
    make_gate(folder, {"audit": "1"})
    marker = folder.path / ".stages" / "gate.json"
    marker.unlink()
    os.mkfifo(marker)
    with pytest.raises(DataError, match="is not as it was written"):
        folder.intact("gate")
    os.mkfifo(pipe := tmp_path / "pipe")
    for read in (read_json, read_jsonl):
        with pytest.raises(OSError, match="not a regular file"):
            read(pipe)
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(pipe)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_yaml(pipe)


def make_filled(folder, inputs, fill=None):
    """The prepare stage, finished with these inputs; `fill` is what begins it where others were there before."""
    stage = folder.stage("prepare", inputs, fill=fill)
    write_json(folder.prepared / "second.json", inputs)
    (folder.prepared / "first.json").touch()
    stage.finish()
    return stage


def test_what_changed_may_begin_with_a_part_of_what_was_there(folder):
    def fill(place):
        write_json(place / "prepared" / "first.json", "the same")
        return "the first half is kept"

    make_filled(folder, {"a": {"b": 1}})
    stage = folder.stage("prepare", {"a": {"b": 2}}, fill=fill)
    assert stage.state == "changed"
    assert stage.note.startswith("prepare: the first half is kept; what was there is now in .aside/prepare-")
    assert sorted(path.name for path in folder.prepared.iterdir()) == ["first.json"]
    assert folder.stage("prepare", {"a": {"b": 2}}, fill=fill).state == "interrupted", "it goes on, and is filled once"
    make_filled(folder, {"a": {"b": 2}})
    assert folder.stage("prepare", {"a": {"b": 1}}, fill=fill).done, "the old result was left whole"
    assert read_json(folder.prepared / "second.json") == {"a": {"b": 1}}
    assert folder.stage("prepare", {"a": {"b": 2}}, fill=fill).done, "what is there already is not begun again"
    assert folder.stage("prepare", {"a": {"b": 3}}).note.startswith("prepare: a.b changed; what was there is now in")


CALLS = {"replace": 7, "fill": 2, "rmtree": 2}  # in such a start


@pytest.mark.parametrize(("what", "call"), [(what, call) for what, calls in CALLS.items() for call in range(calls)])
def test_a_crash_while_a_stage_is_begun_with_what_was_there_loses_neither(folder, monkeypatch, what, call):
    """At any call that moves, writes or deletes; the next start has both, and does not begin from nothing."""
    calls = 0

    def crashing(function):
        def called(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return called

    def fill(place):
        for name in ("zero", "first"):
            if what == "fill":
                crashing(lambda: None)()
            write_json(place / "prepared" / f"{name}.json", name)
        return "kept"

    make_filled(folder, {"a": 1})
    with monkeypatch.context() as patch:
        if module := {"replace": os, "rmtree": shutil}.get(what):
            patch.setattr(module, what, crashing(getattr(module, what)))
        with pytest.raises(KeyboardInterrupt):
            folder.stage("prepare", {"a": 2}, fill=fill)
    what = None
    assert folder.stage("prepare", {"a": 2}, fill=fill).state in ("changed", "interrupted")
    assert sorted(path.name for path in folder.prepared.iterdir()) == ["first.json", "zero.json"]
    assert folder.stage("prepare", {"a": 1}).done
