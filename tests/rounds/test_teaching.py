"""The teacher's texts train where the round's audit finds them right, and a damaged teacher's do not."""

from dataclasses import replace
from pathlib import Path

import pytest

from shibolet.errors import RecipeError
from shibolet.recipe import load_recipe
from shibolet.records.audited import Audited
from shibolet.records.documents.teaching import TeacherTexts
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import teaching
from shibolet.rounds.shared import open_round


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


def test_what_the_audit_finds_wrong_leaves_with_its_reason(tmp_path: Path, monkeypatch):
    """The audit is shown the teacher's text under an id of its own, else the reference's verdict would stand for it."""
    seen, texts = [], [utterance("good", "שלום"), utterance("wrong", "מילה אחרת"), utterance("broken", "עוד")]

    def judge(named, **_):
        seen.extend((one.id, one.text) for one in named)

    def rows(path, short):
        row = Audited(id="teacher/good", source="s", domain="d", text="", duration_s=2.0, is_low_quality=False)
        return [
            row, replace(row, id="teacher/wrong", is_low_quality=True, suspect="wrong_text"),
            replace(row, id="teacher/broken", failure="undecodable"),
        ]  # fmt: skip

    class Listener:
        num_clips, num_heard, num_lost = 3, 3, 0

    monkeypatch.setattr("shibolet.audit.stage.hear_set", judge)
    monkeypatch.setattr("shibolet.records.audited.read_audited", rows)
    monkeypatch.setattr(teaching, "listener_of", lambda current: Listener)
    with open_round(recipe(), tmp_path / "run", "train", lambda sentence: None) as current:
        lines, _ = teaching._judged(current, texts, tmp_path)
    assert seen == [("teacher/good", "שלום"), ("teacher/wrong", "מילה אחרת"), ("teacher/broken", "עוד")]
    assert {line.id: line.rule for line in lines} == {"wrong": "low_quality:wrong_text", "broken": "undecodable"}


def test_a_teacher_does_not_judge_its_own_texts(tmp_path: Path):
    """It finds its own errors right."""
    one = recipe(teacher="builtin:ctc")
    with open_round(one, tmp_path / "run", "train", lambda sentence: None) as current:
        with pytest.raises(RecipeError, match="would judge its own texts"):
            teaching.do_teach(current)


def test_the_sentence_says_what_trains_and_why_the_rest_does_not():
    made = TeacherTexts(teacher="t", utterances=10, kept=2, left_out={"as_the_reference": 7, "loop": 1}, wer=0.1)
    assert made.sentence == (
        "teach: 2 texts of the teacher train beside the references of 10 utterances; left out: 7 as_the_reference, "
        "1 loop"
    )
