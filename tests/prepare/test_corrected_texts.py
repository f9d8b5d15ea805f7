"""Texts that a person corrected: they train in place of those that came with the data, and the ledger says so."""

from dataclasses import asdict
from pathlib import Path

import pytest
from audit_documents import gate_verdict
from test_prepare import Corpus, rows_of

from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.stage import run_prepare
from shibolet.recipe import load_recipe
from shibolet.records.answers import Given
from shibolet.records.audited import write_audited
from shibolet.records.files import write_jsonl
from shibolet.records.ledger import read_ledger
from shibolet.records.machine_texts import MachineText
from shibolet.records.review import Answer
from shibolet.rounds import stages
from shibolet.rounds.shared import open_round

TEXT = "שלום לכל הילדים"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "data"
    folder.mkdir()
    corpus = Corpus(folder)
    for i in range(8):
        corpus.add(f"good-{i}", [4, 3], speaker=f"s{i}")
    corpus.add("wrong", [5], speaker="s1", verdict={"is_low_quality": True, "suspect": "wrong_text", "reasons": ("x",)})
    return corpus


def prepared(corpus: Corpus, out_dir: Path, answers: list[Answer], **given):
    return run_prepare(
        corpus.utterances, corpus.verdicts, config=PrepareConfig(dev_frac=0.1), language="he", seed=1, out_dir=out_dir,
        corrected={answer.id: answer for answer in answers}, **given,
    )  # fmt: skip


def corrected(corpus: Corpus, id: str, **changes) -> Answer:
    text = next(u.text for u in corpus.utterances if u.id == id)
    return Answer(**{"id": id, "verdict": "bad", "text": text, "corrected": TEXT, "corrected_by": "anna", **changes})


def test_a_corrected_text_trains_and_the_ledger_keeps_the_other(corpus, tmp_path):
    """What the audit condemned for its text is right once its text is; a verdict on the old text must not drop it."""
    given = next(u.text for u in corpus.utterances if u.id == "wrong")
    summary = prepared(corpus, tmp_path / "out", [corrected(corpus, "wrong")])
    row = next(row for row in rows_of(tmp_path / "out") if row["id"] == "wrong")
    assert (row["text"], row["text_by"]) == (TEXT, None)
    lines = {line.rule: line for line in read_ledger(tmp_path / "out" / "ledger.jsonl") if line.id == "wrong"}
    assert lines["review:corrected"].detail == f"anna corrected the text; it was '{given}'"
    assert summary.changed_by_rule["review:corrected"].utterances == 1
    assert any(note.startswith("Utterances with a text that a person corrected: 1.") for note in summary.notes)
    assert "wrong" not in {row["id"] for row in self_prepared(corpus, tmp_path)}, "without the answer it is dropped"


def self_prepared(corpus, tmp_path) -> list[dict]:
    prepared(corpus, tmp_path / "without", [])
    return rows_of(tmp_path / "without")


def test_a_correction_of_another_text_changes_nothing(corpus, tmp_path):
    """The data may have been mended since: the correction was of what stood there before."""
    prepared(corpus, tmp_path / "out", [corrected(corpus, "good-0", text="משהו אחר")])
    rows = {row["id"]: row["text"] for row in rows_of(tmp_path / "out")}
    assert rows["good-0"] == next(u.text for u in corpus.utterances if u.id == "good-0") != TEXT


def test_a_persons_text_goes_before_a_machines(corpus, tmp_path):
    """Two hearers may agree on another text: whoever listened knows better, and it counts as a person's."""
    utterance = corpus.utterances[-1]
    machine = MachineText(id="wrong", kind="corrected", text="אחר", written="אחר", heard="אחר", disagreement=0.0)
    prepared(corpus, tmp_path / "out", [corrected(corpus, "wrong")], machine_texts=[(utterance, machine)])
    row = next(row for row in rows_of(tmp_path / "out") if row["id"] == "wrong")
    assert (row["text"], row["text_by"]) == (TEXT, None)


def test_what_was_answered_in_a_review_reaches_prepare_without_an_import(corpus, tmp_path):
    """A person who answered on the page need not know of files: the answers are an input of the stage."""
    write_jsonl(tmp_path / "data.jsonl", [{**asdict(u), "audio": u.audio.path} for u in corpus.utterances])
    changes = [f"data.train=[{{name: crowd, manifest: {tmp_path}/data.jsonl}}]", "audit.num_workers=0"]
    recipe, text = load_recipe("demo", [*changes, "prepare.unheard=keep"]), corpus.utterances[-1].text
    with open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current:
        gate_verdict("PROCEED").write(current.folder.gate())
        write_audited(current.folder.audited_utterances(), [v.row for v in corpus.verdicts.values()])
        current.folder.seal("audit", {"data": current.data.digest})
        current.folder.seal("gate")
        given = Given(by="anna", id="wrong", text=text, corrected=TEXT)
        for accepted, texts in ((False, []), (True, [TEXT])):
            write_jsonl(current.folder.answers, [given.model_copy(update={"accepted": accepted}).model_dump()])
            stages.do_prepare(current)
            rows = rows_of(current.folder.prepared)
            assert [row["text"] for row in rows if row["id"] == "wrong"] == texts and len(rows) >= 8
        current.folder.intact("review")
