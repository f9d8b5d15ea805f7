"""Foreign hypotheses: each format finds its utterances, nothing is taken for another's, what is left over is named."""

from pathlib import Path

import pytest

from shibolet.errors import DataError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.imported import read_hypotheses
from shibolet.evaluate.stage import score_hypotheses
from shibolet.records.candidate import named
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.text import get_language

NORMALISER = get_language("he").to_scoring


def utterance(id: str, text: str, path: str = "x.wav", start_s: float = 0.0, end_s: float | None = None, **fields):
    audio = AudioRef(path=path, start_s=start_s, end_s=end_s)
    return Utterance(id=id, audio=audio, text=text, duration_s=1.0, source="s", **fields)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_jsonl_by_id_by_set_and_by_file_name(tmp_path):
    lines = [
        '{"id": "u1", "hypothesis": "א\u2028ב", "reference": "x"}',
        '{"id": "u2", "set": "d1", "hypothesis": "ג"}',
        '{"id": "u2", "set": "kan", "hypothesis": "ד"}',
        '{"audio_filepath": "/data/clip7.wav", "text": "the reference", "pred_text": "ה"}',
        '{"id": "nobody", "hypothesis": null}',
    ]
    file = read_hypotheses(write(tmp_path / "h.jsonl", "\n".join(lines) + "\n"))
    asked = [utterance("u1", ""), utterance("u2", ""), utterance("u3", "", path="/data/clip7.wav"), utterance("u4", "")]
    assert file.of_set("d1", asked, NORMALISER) == {"u1": "א\u2028ב", "u2": "ג", "u3": "ה"}
    assert file.unused == ["u2", "nobody"]
    assert file.of_set("kan", asked[1:2], NORMALISER) == {"u2": "ד"} and file.unused == ["nobody"]


def test_ctm_words_go_to_the_utterance_that_they_are_spoken_in(tmp_path):
    lines = [";; made by", "long 1 2.00 0.50 שלוש", "long 1 0.10 0.40 אחת 0.9", "long 1 1.10 0.30 שתיים",
             "u9 A 0.0 0.5 ארבע", "long 1 9.0 0.5 אחרון", "other 1 0 1 x"]  # fmt: skip
    file = read_hypotheses(write(tmp_path / "h.ctm", "\n".join(lines)))
    asked = [
        utterance("a", "", "/data/long.wav", 0.0, 1.25), utterance("b", "", "/data/long.wav", 1.25, 3.0),
        utterance("u9", "", "/data/u9.flac"), utterance("c", "", "/data/else.wav"),
        utterance("d", "", "/data/table.parquet", 3.0, 4.0, recording="long"),
    ]  # fmt: skip
    found = file.of_set("d1", asked, NORMALISER)
    assert found == {"a": "אחת", "b": "שתיים שלוש", "u9": "ארבע", "d": ""}
    assert file.unused == ["long, word 4", "other, word 1"]


def test_the_leaderboards_csv_is_matched_by_its_references(tmp_path):
    rows = [
        "id,reference_text,predicted_text,wer",
        '0,"שלום, עולם","שלום",0.5',
        "1,כן,כן,0",
        "2,כן,לא,1",
        "3,אין כזה,x,1",
        "4,ריק,,1",
    ]
    file = read_hypotheses(write(tmp_path / "h.csv", "\n".join(rows)))
    asked = [
        utterance("first", "שלום עולם"),
        utterance("yes", "כֵּן"),
        utterance("again", "כן"),
        utterance("empty", "ריק"),
    ]
    assert file.of_set("d1", asked, NORMALISER) == {"first": "שלום", "yes": "כן", "again": "לא", "empty": ""}
    assert file.unused == ["row 4"]


def test_any_csv_with_an_id_and_a_text(tmp_path):
    file = read_hypotheses(write(tmp_path / "h.csv", "id,hypothesis\nu1,א ב\n"))
    assert file.of_set("d1", [utterance("u1", "")], NORMALISER) == {"u1": "א ב"}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("h.jsonl", '{"id": "a", "hypothesis": "x"}\nnot json', "line 2: not JSON"),
        ("h.jsonl", '{"id": "a"}', "line 1: a row needs an id"),
        ("h.jsonl", '["a"]', "line 1: a list, not an object"),
        ("h.jsonl", '{"id": "a", "hypothesis": ["x"]}', "'hypothesis' is list, not text"),
        ("h.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "line 2: id 'a' stands there twice"),
        ("h.jsonl", "\n", "no hypotheses in it"),
        ("h.ctm", "rec 1 zero 0.5 word", "line 1: not 'file channel start duration word'"),
        ("h.ctm", "rec 1 0.5", "line 1: not 'file channel"),
        ("h.csv", "a,b\n1,2\n", "line 2: a row needs an id"),
        ("h.trn", "x", "come as .jsonl, .csv, .tsv or .ctm"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, text, match):
    with pytest.raises(DataError, match=match):
        read_hypotheses(write(tmp_path / name, text))
    with pytest.raises(DataError, match="cannot be read"):
        read_hypotheses(tmp_path / "nowhere.jsonl")


def test_an_utterance_without_a_hypothesis_counts_as_deleted(tmp_path):
    """A system that is silent where it is unsure must not score better for it."""
    asked = [
        utterance("u1", "שלום עולם", path=str(write(tmp_path / "x.wav", "no audio"))),
        utterance("u2", "כן לא אולי", path=str(tmp_path / "x.wav")),
    ]
    settings = {
        "set_name": "d1",
        "language": "Hebrew",
        "config": EvaluateConfig(),
        "named": named("a"),
        "identity": "1",
    }
    scores = score_hypotheses({"u1": "שלום עולם"}, asked, out_dir=tmp_path / "out", **settings)
    assert scores.wer.deletions == scores.wer.errors == 3 and scores.num_utterances == 2
    assert [(one.id, one.reason) for one in scores.failures] == [("u2", "no_hypothesis")]
    assert score_hypotheses({}, asked, out_dir=tmp_path / "out", **settings) == scores, "found by its identity"
