"""The registry of metrics: protects from a metric that is computed and not kept, or kept and not shown."""

from made_scores import SAID, scored_rows, scores_of

from shibolet.records.documents.scores import Measured, Scores
from shibolet.scoring import metrics
from shibolet.scoring.metrics import METRICS, Column, Metric, measure, shown
from shibolet.speech.text import get_language

ENGLISH = get_language("en")


def test_every_metric_has_its_field_in_the_scores() -> None:
    assert {metric.field for metric in METRICS} <= Measured.model_fields.keys()
    found = measure(scored_rows(SAID), ENGLISH)
    assert all(getattr(scores_of(), name) == value for name, value in found.items())


def test_scores_are_read_as_they_were_written(tmp_path) -> None:
    scores = scores_of(["", *SAID[1:3], "late late late late late"])
    scores.write(tmp_path / "scores.json")
    assert Scores.read(tmp_path / "scores.json") == scores
    assert scores.loops.utterances == 1 and scores.insertion_tail.insertions > 0, "there is something to keep"


def test_a_column_that_nothing_is_known_of_is_left_out_with_its_sentence() -> None:
    scores = scores_of()
    titles = [column.title for column in shown([scores])[0]]
    assert titles[:2] == ["WER", "95% interval"] and "number-aware" in titles and shown([scores])[1]
    columns, notes = shown([scores.model_copy(update={"number_aware": None})])
    assert "number-aware" not in [column.title for column in columns] and notes == []


def test_a_new_metric_is_one_entry(monkeypatch) -> None:
    """Beside the field that holds what it gives."""
    longest = Metric(
        field="longest",
        measure=lambda rows, language: max(len(row.heard.split()) for row in rows),
        columns=(Column("longest", lambda one: str(one.num_utterances)),),
        note="In words.",
    )
    scores = scores_of()
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, longest))
    assert measure(scored_rows(SAID), ENGLISH)["longest"] == 5
    columns, notes = shown([scores])
    assert "longest" in [column.title for column in columns] and "In words." in notes
