"""The teacher's texts train where the round's audit finds them right, and a damaged teacher's do not."""

from pathlib import Path

import pytest

from shibolet.errors import DataError, RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.audited import Audited
from shibolet.records.documents.teaching import TeacherTexts
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import stages, teaching
from shibolet.rounds.shared import open_round
from shibolet.train.launch import Place


def utterance(id: str, text: str, split: str = "train") -> Utterance:
    return Utterance(
        id=id, audio=AudioRef(path=f"prepared/{split}-00000.parquet"), text=text, duration_s=2.0, source="s"
    )


def recipe(**changes):
    phase = "{name: T, num_epochs: 1, lr_by_part: {projector: 1e-4}, objective: distil}"
    train = f"train={{phases: [{phase}], lora: null, distil: {{texts: true}}}}"
    return load_recipe("demo", [train, f"models.teacher={changes.get('teacher', 'builtin:round1')}"])


def test_texts_without_words_loops_and_those_of_the_reference_are_not_judged():
    """Punctuation alone is no other text; a loop in the training data teaches loops."""
    train = [utterance(id, "שלום עולם") for id in "abcd"]
    written = {"a": "שלום, עולם.", "b": "...", "c": "לא " * 60, "d": "שלום לעולם"}
    others, ledger = teaching._that_differ(train, written, "Hebrew")
    assert [(one.id, one.text) for one in others] == [("d", "שלום לעולם")]
    assert {line.id: line.rule for line in ledger} == {"a": "as_the_reference", "b": "no_words", "c": "loop"}
    assert isinstance(ledger[0], LedgerLine)


def test_only_what_the_audit_finds_right_and_likelier_than_the_reference_trains(tmp_path: Path, monkeypatch):
    """It is shown both texts under ids of their own: else the verdict on one would stand for the other.

    What passes for right may have small errors: a reference without them must not get such a text beside it.
    """
    seen, texts = [], [utterance(id, "שלום") for id in ("better", "worse", "wrong", "broken", "mended")]
    verdicts = {  # of the teacher's text and of the reference: confidence, low quality, failure
        "better": ((0.8, False, None), (0.7, False, None)), "worse": ((0.6, False, None), (0.7, False, None)),
        "wrong": ((0.2, True, None), (0.1, True, None)), "broken": ((None, False, "undecodable"), (0.9, False, None)),
        "mended": ((0.6, False, None), (0.3, True, None)),
    }  # fmt: skip

    def rows(path, short):
        for id, both in verdicts.items():
            for prefix, (confidence, is_low, failure) in zip(("teacher/", "reference/"), both, strict=True):
                yield Audited(
                    id=prefix + id, source="s", domain="d", text="", duration_s=2.0, is_low_quality=is_low,
                    confidence=confidence, failure=failure, suspect="wrong_text" if is_low else None,
                )  # fmt: skip

    class Listener:
        num_clips, num_heard, num_lost = 3, 3, 0

    monkeypatch.setattr("shibolet.audit.stage.hear_set", lambda named, **_: seen.extend((u.id, u.text) for u in named))
    monkeypatch.setattr(teaching, "read_audited", rows)
    monkeypatch.setattr(teaching, "listener_of", lambda current: Listener)
    with open_round(recipe(), tmp_path / "run", "train", lambda sentence: None) as current:
        lines, _ = teaching._judged(current, texts, dict.fromkeys(verdicts, "עולם"), tmp_path)
    assert seen[:2] == [("teacher/better", "שלום"), ("reference/better", "עולם")] and len(seen) == 10
    assert {line.id: line.rule for line in lines} == {
        "worse": "no_better_than_the_reference", "wrong": "low_quality:wrong_text", "broken": "undecodable",
    }  # fmt: skip


def test_a_teacher_does_not_judge_its_own_texts(tmp_path: Path):
    """It finds its own errors right."""
    one = recipe(teacher="builtin:ctc")
    with open_round(one, tmp_path / "run", "train", lambda sentence: None) as current:
        with pytest.raises(RecipeError, match="would judge its own texts"):
            teaching.do_teach(current)


def test_texts_of_a_teacher_that_train_no_longer_are_put_aside(tmp_path: Path):
    """The model's card reads `teach.json` where it is, and would name texts from which the model learned nothing."""
    with open_round(load_recipe("demo"), tmp_path / "run", "train", lambda sentence: None) as current:
        document = current.folder.path / teaching.STAGE / "teach.json"
        document.parent.mkdir()
        TeacherTexts(teacher="t", utterances=10, kept=2, left_out={}, wer=0.1).write(document)
        current.folder.seal(teaching.STAGE)
        with pytest.raises(DataError, match="'prepare' is not done"):
            stages.do_train(current)
        assert not document.exists()


@pytest.mark.parametrize("starts", ["--nodes", "torchrun"])
def test_several_machines_do_not_wait_for_texts_that_are_not_written(tmp_path: Path, monkeypatch, starts: str):
    """They would leave after half an hour, and the main one would have written all of it for nothing."""
    place = Place(node=0, num_nodes=2, host="10.0.0.5", port=29500) if starts == "--nodes" else Place()
    if starts == "torchrun":
        monkeypatch.setenv("WORLD_SIZE", "2")
    with open_round(recipe(), tmp_path, "train", print) as current:
        current.place = place
        with pytest.raises(RecipeError, match=r"are written on one machine, .* without --nodes and torchrun"):
            stages.do_train(current)


def test_the_sentence_says_what_trains_and_why_the_rest_does_not():
    made = TeacherTexts(teacher="t", utterances=10, kept=2, left_out={"as_the_reference": 7, "loop": 1}, wer=0.1)
    assert made.sentence == (
        "teach: 2 texts of the teacher train beside the references of 10 utterances; left out: 7 as_the_reference, "
        "1 loop"
    )
