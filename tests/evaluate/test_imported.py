"""Foreign hypotheses: each format finds its utterances, nothing is taken for another's, what is left over is named."""

import gzip
import json
from pathlib import Path

import pytest

from shibolet.errors import DataError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.imported import read_hypotheses
from shibolet.evaluate.stage import score_hypotheses
from shibolet.listen.hypotheses import RecordedHypotheses
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
        ("h.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "line 2: id 'a' occurs twice"),
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


@pytest.mark.parametrize("name", ["h.jsonl", "h.csv", "h.tsv"])
def test_a_reference_is_not_taken_for_the_hypothesis(tmp_path, name):
    """A perfect score, of a file in which the references stand as `text` beside what the system said."""
    texts = [(f"u{i}", f"שלום עולם {i}", f"שטויות גמורות {i}") for i in range(4)]
    said = [{"id": id, "text": text, "other": other, "speaker": "a b"} for id, text, other in texts]
    asked = [utterance(row["id"], row["text"]) for row in said]

    def read(rows: list[dict]):
        if name == "h.jsonl":
            return read_hypotheses(write(tmp_path / name, "".join(json.dumps(row) + "\n" for row in rows)))
        cells = [rows[0].keys(), *(row.values() for row in rows)]
        delimiter = "," if name == "h.csv" else "\t"
        return read_hypotheses(write(tmp_path / name, "".join(delimiter.join(row) + "\n" for row in cells)))

    file = read(said)
    with pytest.raises(DataError, match="'text' is the reference in 4 of 4 rows of set 'd1', and 'other' may be"):
        file.of_set("d1", asked, NORMALISER)
    wrong = [row | {"text": f"אחר {row['id']}"} for row in said]
    assert len(read(wrong).of_set("d1", asked, NORMALISER)) == 4, "a text that is no reference is a hypothesis"
    perfect = [{"id": row["id"], "text": row["text"], "ref": row["text"], "speaker": "a b"} for row in said]
    assert len(read(perfect).of_set("d1", asked, NORMALISER)) == 4, "a perfect system has no other text"
    for other in ("transcription", "transcript"):
        with pytest.raises(DataError, match=f"'text' or '{other}' is the hypothesis, and the other the reference"):
            read([{"id": row["id"], "text": row["text"], other: row["other"]} for row in said])
        assert read([{"id": "u0", other: "א ב"}]).of_set("d1", asked, NORMALISER) == {"u0": "א ב"}
    with pytest.raises(DataError, match="'hypothesis' and 'pred_text' differ"):
        read([{"id": "u0", "hypothesis": "א", "pred_text": "ב"}])


def test_the_case_that_was_reported():
    case = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "hyp_reference_as_hypothesis"
    if not case.exists():
        pytest.skip("no folder 'shared' beside the repository")
    with pytest.raises(DataError, match="'text' or 'transcription' is the hypothesis"):
        read_hypotheses(case / "reftext.jsonl")


def test_hypotheses_as_programs_and_people_write_them(tmp_path):
    """Names with accents in either form, marks, quotes of a spreadsheet, gzip: the same as in manifests."""
    asked = [utterance("u1", ""), utterance("u2", "", path="/data/café.wav"), utterance("u3", "")]
    rows = '\ufeff Id ;Hypothesis\r\nu1;"אמר ""לא"""\r\ncafe\u0301;ב\r\nu3\r\n'
    found = read_hypotheses(write(tmp_path / "h.csv", rows)).of_set("d", asked, NORMALISER)
    assert found == {"u1": 'אמר "לא"', "u2": "ב", "u3": ""}
    lines = '\ufeff{"ID": "u1", "pred_text": "א"}\n\ufeff{"id": "u3", "prediction": "language Hebrew<asr_text>ג"}\n'
    (tmp_path / "h.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_hypotheses(tmp_path / "h.jsonl.gz").of_set("d", asked, NORMALISER) == {"u1": "א", "u3": "ג"}
    assert RecordedHypotheses(tmp_path / "h.jsonl.gz").look_up(["u3"])[0].hypothesis == "ג"
    heard = RecordedHypotheses(tmp_path / "h.csv").look_up(["caf\u00e9", "u9"])
    assert [one and one.hypothesis for one in heard] == ["ב", None]
    for content, said in (
        ('[{"id": "u1", "hypothesis": "x"}]', "is a JSON array"), (lines.encode("utf-16"), "it is UTF-16"),
        ('{"id": "u1", "hypothesis": "שלום עולם"}\n'.encode("cp1255"), "line 1: byte 0xf9 .*windows-1255"),
    ):  # fmt: skip
        (tmp_path / "h.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
        for read in (read_hypotheses, RecordedHypotheses):
            with pytest.raises(DataError, match=said):
                read(tmp_path / "h.jsonl")


def test_an_audit_takes_nothing_but_a_hypothesis(tmp_path):
    """With the texts of the manifest as hypotheses every text would be right."""
    path = write(tmp_path / "h.jsonl", '{"id": "u1", "text": "א"}\n')
    with pytest.raises(DataError, match="line 1: expected the texts 'id' and 'hypothesis'"):
        RecordedHypotheses(path)


def test_hypotheses_of_one_word_and_references_alone(tmp_path):
    asked = [utterance(f"u{i}", "כן") for i in range(4)]
    rows = [{"id": f"u{i}", "text": "כן", "asr_output": "לא"} for i in range(4)]
    path = write(tmp_path / "h.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="'text' is the reference in 4 of 4 rows of set 'd1', and 'asr_output' may be"):
        read_hypotheses(path).of_set("d1", asked, NORMALISER)
    for key, in_doubt in (("text", True), ("hypothesis", False)):
        file = read_hypotheses(write(path, "".join(json.dumps({"id": f"u{i}", key: "כן"}) + "\n" for i in range(4))))
        assert len(file.of_set("d1", asked, NORMALISER)) == 4 and file.equals_references is in_doubt


def test_paths_of_a_manifest_and_of_another_machine(tmp_path):
    asked = [
        utterance("u1", "א", "/x/clips/1.wav"),
        utterance("u2", "ב", "/x/clips/2.wav"),
        utterance("u3", "ג", "/x/a/3.wav"),
        utterance("u4", "ד", "/x/b/3.wav"),
        utterance("u5", "ה", "/x/5.wav", 1.0, 2.0),
    ]
    said = {"clips/1.wav": "1", "/elsewhere/2.wav": "2", "/elsewhere/3.wav": "3", "/elsewhere/5.wav": "5"}
    rows = [{"audio_filepath": name, "pred_text": text} for name, text in said.items()]
    file = read_hypotheses(write(tmp_path / "h.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert file.of_set("d1", asked, NORMALISER) == {"u1": "1", "u2": "2"}
    assert file.unused == ["/elsewhere/3.wav", "/elsewhere/5.wav"], "a name of two files, and of a part of one"


def test_confidences_are_of_each_word_and_hinder_no_score(tmp_path):
    """A CTM's sixth field, a list, one for all; what is no confidence, such as a log-likelihood, is none."""
    rows = [
        '{"id": "u1", "hypothesis": "א ב", "confidences": [0.5, 1]}',
        '{"id": "u2", "hypothesis": "ג ד", "confidence": "0.25"}',
        '{"id": "u3", "hypothesis": "ה", "confidence": -3.5}',
        '{"id": "u4", "hypothesis": "ו ז", "confidences": [0.5]}',
        '{"id": "u5", "hypothesis": "ח"}',
    ]
    asked = [utterance(f"u{i}", "") for i in range(1, 6)]
    file = read_hypotheses(write(tmp_path / "h.jsonl", "\n".join(rows)))
    assert len(file.of_set("d1", asked, NORMALISER)) == 5
    assert file.confidences == {("d1", "u1"): (0.5, 1.0), ("d1", "u2"): (0.25, 0.25)}
    file = read_hypotheses(write(tmp_path / "h.ctm", "u1 1 0.5 0.1 ב 0.4\nu1 1 0.1 0.1 א 0.9\nu2 1 0 0.1 ג NA\n"))
    assert file.of_set("d1", asked, NORMALISER) == {"u1": "א ב", "u2": "ג"}
    assert file.confidences == {("d1", "u1"): (0.9, 0.4)}
