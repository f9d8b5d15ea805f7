"""The audit's page: worst first, sound for the worst and for the random draw, text of the data never code, one file."""

import base64
import hashlib
import io
import json
import re
import shutil
from contextlib import closing
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from audit_documents import answers

from shibolet.errors import DataError
from shibolet.gate.config import GateConfig
from shibolet.gate.stage import run_gate
from shibolet.listen.decoders import Decoders
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.gate import GateVerdict, Interval
from shibolet.records.files import write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.report import audit_page as module
from shibolet.report.audit_page import Sound, write_audit_page
from shibolet.speech import audio, augment

HOSTILE = "<script>alert('x')</script> שלום & \"ברכה\""


class Page(HTMLParser):
    """Visible text, elements with their attributes, and the content of scripts in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.text, self.scripts, self._open = [], "", [], ""
        self.feed(html)
        self.data = json.loads(self.scripts[0])
        self.rows, self.sounds = self.data["rows"], self.scripts[1].split("\n")

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag

    def handle_data(self, data):
        if self._open == "script":
            self.scripts.append(data)
        elif self._open != "style":
            self.text += data

    def handle_endtag(self, tag):
        self._open = ""


@pytest.fixture(scope="module")
def page(run_dir) -> Page:
    return Page(write_audit_page(run_dir).read_text(encoding="utf-8"))


def test_everything_heard_is_listed_worst_first(run_dir, page):
    table = pq.read_table(run_dir / "audit" / "utterances.parquet").to_pylist()
    assert {row["id"] for row in page.rows} == {row["id"] for row in table} and len(table) == 561
    lows = [row["low"] for row in page.rows]
    assert lows == sorted(lows, reverse=True)
    confidences = [2 if row["confidence"] is None else row["confidence"] for row in page.rows if row["low"]]
    assert confidences == sorted(confidences) and len(confidences) > 80
    assert "561 of 561 utterances" in page.text and "The data are not fit to train on" in page.text


def test_numbers_are_compared_as_the_audit_compared_them(run_dir, tmp_path):
    """A number in digits that the audit took for the same words must not stand there in red."""
    run = shutil.copytree(run_dir, tmp_path / "run")
    table = run / "audit" / "utterances.parquet"
    rows = pq.read_table(table)
    columns = {name: rows.column(name).to_pylist() for name in ("text", "hypothesis")}
    place = next(i for i, failure in enumerate(rows.column("failure").to_pylist()) if failure is None)
    columns["text"][place], columns["hypothesis"][place] = "בשנת אלף תשע מאות", "בשנת 1900"
    for name, values in columns.items():
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    pq.write_table(rows, table)
    page = Page(write_audit_page(run).read_text(encoding="utf-8"))
    [row] = [row for row in page.rows if row["text"] == "בשנת אלף תשע מאות"]
    assert row["diff"] == ["בשנת", "אלף", "תשע", "מאות"]


def test_what_nobody_measured_has_no_column(run_dir, page, tmp_path):
    """A column of dashes reads as a failure of every utterance."""
    main = lambda page: next(attributes for tag, attributes in page.tags if tag == "main")  # noqa: E731
    assert "class" not in main(page) and "a word under the wave" in page.text
    run = shutil.copytree(run_dir, tmp_path / "run")
    table = run / "audit" / "utterances.parquet"
    rows = pq.read_table(table)
    for name, empty in (("coverage", None), ("starts_s", []), ("ends_s", [])):
        field = rows.schema.field(name)
        values = pa.array([empty] * len(rows), field.type)
        rows = rows.set_column(rows.schema.get_field_index(name), field, values)
    pq.write_table(rows, table)
    without = Page(write_audit_page(run).read_text(encoding="utf-8"))
    assert main(without)["class"] == "uncovered" and "a word under the wave" not in without.text
    assert len(without.rows) == len(page.rows) > 500


def test_each_row_says_in_words_what_is_wrong(page):
    row = next(row for row in page.rows if row["low"] and row["diff"] and row["why"] and "words" in row["kinds"])
    assert row["why"][0].startswith("Evidence for") and row["why"][0].endswith("under 60%.")
    assert row["suspect"] in page.data["suspects"] and set(row["kinds"]) <= page.data["reasons"].keys()
    unreadable = next(row for row in page.rows if row["id"] == "train-0560")
    assert unreadable["kinds"] == ["failed"] and unreadable["why"] == ["audio/0560.ogg: no samples in it."]
    assert unreadable["silent"] == "The row could not be read."
    changed = [word for row in page.rows for word in row["diff"] if not isinstance(word, str)]
    assert any(written is None for written, _ in changed) and any(heard is None for _, heard in changed)
    assert all(len(row["times"]) == 2 * len(row["words"]) for row in page.rows)


def test_sound_is_there_for_the_worst_and_for_the_draw(page):
    """Without the passed ones nobody could say how much the audit misses."""
    drawn = [row for row in page.rows if row["draw"] is not None]
    assert sorted(row["draw"] for row in drawn) == list(range(len(drawn))) and len(drawn) > 150
    assert {row["low"] for row in drawn} == {True, False}
    assert all(("sound" in row) != ("silent" in row) for row in drawn)
    sounding = [row for row in page.rows if "sound" in row]
    assert sorted(row["sound"] for row in sounding) == list(range(len(page.sounds)))
    assert f"{len(sounding)} have sound" in page.text
    mp3 = base64.b64decode(page.sounds[sounding[0]["sound"]])
    with av.open(io.BytesIO(mp3)) as container:
        assert container.streams.audio[0].codec.name.startswith("mp3") and 0.9 < container.duration / 1e6 < 1.3
    wave = base64.b64decode(sounding[0]["wave"])
    assert len(wave) == module.WAVE_POINTS and max(wave) == 255
    missing = [row for row in page.rows if "silent" in row and row["kinds"] != ["failed"]]
    assert missing and all("7.wav" in row["silent"] for row in missing)


def test_the_page_has_limits_and_says_what_is_left_out(run_dir, tmp_path, monkeypatch):
    """Ten thousand long utterances must not become a page that no browser opens."""
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    monkeypatch.setattr(module, "MAX_SOUND_BYTES", 400_000)
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 150_000)
    html = write_audit_page(copy).read_text(encoding="utf-8")
    page = Page(html)
    drawn = sum(row["draw"] is not None for row in page.rows)
    assert 200 < len(page.rows) < 400 and f"{len(page.rows)} of 561 utterances" in page.text
    assert drawn == len(AlignmentReport.read(copy / "audit/alignment_report.json").review.draw)
    assert 10 < len(page.sounds) < 60 and all(row["draw"] is not None for row in page.rows if "sound" in row)
    assert len(html.encode()) < 700_000


def test_text_of_the_data_is_never_code(run_dir, page):
    html = (run_dir / "audit" / "audit.html").read_text(encoding="utf-8")
    assert any(row["text"] == HOSTILE for row in page.rows), (
        "the hostile transcript must be there, or nothing is tested"
    )
    assert html.count("<script") == 3 == html.count("</script>") and "alert('x')</script>" not in html
    assert [kind.get("type") for tag, kind in page.tags if tag == "script"] == ["application/json", "text/plain", None]
    source = page.scripts[2]
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way_in not in source, way_in


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched(run_dir, page):
    policy = next(
        a["content"] for tag, a in page.tags if tag == "meta" and "content" in a and "default-src" in a["content"]
    )
    digest = base64.b64encode(hashlib.sha256(page.scripts[2].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; media-src data:; script-src 'sha256-{digest}'"
    assert not {"link", "iframe", "img", "object"} & {tag for tag, _ in page.tags}
    html = (run_dir / "audit" / "audit.html").read_text(encoding="utf-8")
    assert not re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", html)


def test_the_same_folder_gives_the_same_bytes(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SOUND_BYTES", 200_000)
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    first = write_audit_page(copy).read_bytes()
    assert write_audit_page(copy).read_bytes() == first
    RunFolder(copy).sounds.unlink()
    with closing(Decoders(1)) as decoders:
        assert write_audit_page(copy, decoders).read_bytes() == first, "by a process they are others"


def test_the_next_page_encodes_only_what_is_new(run_dir, tmp_path, monkeypatch):
    """A review of 2,500 utterances must not wait a minute for sounds that are there."""
    encoded, decoded, load = [], [], audio.load
    monkeypatch.setattr(augment, "encode", lambda samples, *_, **__: encoded.append(len(samples)) or b"mp3")
    monkeypatch.setattr(audio, "load", lambda ref: decoded.append(ref) or load(ref))
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (copy / "audit" / "sounds.jsonl").unlink(missing_ok=True)
    first, num_first = write_audit_page(copy).read_bytes(), len(encoded)
    assert 0 < num_first == len(decoded)
    assert write_audit_page(copy).read_bytes() == first and len(encoded) == num_first == len(decoded)
    changed = copy / "clips" / "0.wav"
    sf.write(changed, np.zeros(8000), 16000)
    rows = pq.read_table(copy / "audit" / "utterances.parquet")
    moved = [row | {"path": "clips/0.wav"} if row and row["path"].endswith("/0.wav") else row
             for row in rows["audio"].to_pylist()]  # fmt: skip
    assert moved != rows["audio"].to_pylist()
    column = rows.schema.get_field_index("audio")
    rows = rows.set_column(column, rows.schema.field(column), [pa.array(moved, rows.schema.field(column).type)])
    pq.write_table(rows, copy / "audit" / "utterances.parquet")
    assert write_audit_page(copy).read_bytes() != first and set(encoded[num_first:]) == {8000}


def test_a_sound_that_was_changed_is_encoded_again_and_said(run_dir, tmp_path, monkeypatch, caplog):
    """A person would judge another sound; and the page takes what stands there as it is."""
    monkeypatch.setattr(module, "MAX_SOUND_BYTES", 200_000)
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    sounds = copy / "audit" / "sounds.jsonl"
    sounds.unlink(missing_ok=True)
    page, lines = write_audit_page(copy).read_bytes(), sounds.read_bytes()
    first, *rest = lines.splitlines(keepends=True)
    row = json.loads(first)
    script = asdict(Sound.of(row["key"], "</script><script>alert(1)</script>", row["wave"]))
    for changed in (
        json.dumps({**row, "mp3": row["mp3"][::-1]}).encode() + b"\n",
        json.dumps(script).encode() + b"\n",
        first[: len(first) // 2],
        b"[]\n",
    ):
        caplog.clear()
        sounds.write_bytes(changed + b"".join(rest))
        assert write_audit_page(copy).read_bytes() == page and sounds.read_bytes() == lines
        [said] = caplog.messages
        assert str(sounds) in said and said.endswith("encoded again")
    sounds.write_bytes(lines)
    caplog.clear()
    assert write_audit_page(copy).read_bytes() == page and not caplog.messages


def test_an_answer_that_is_none_is_named_by_the_page(run_dir, tmp_path):
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (copy / "audit" / "review.jsonl").write_text('{"id": "a", "verdict": "maybe", "text": ""}\n')
    with pytest.raises(DataError, match=r"review\.jsonl, line 1: verdict: "):
        write_audit_page(copy)


def test_a_review_and_the_rest_come_into_the_page(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SOUND_BYTES", 0)
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    table = pq.read_table(copy / "audit" / "utterances.parquet").slice(0, 20)
    ids = table["id"].to_pylist()
    rest = table.set_column(0, "id", [[f"rest-{id}" for id in ids]])
    pq.write_table(rest, copy / "audit" / "rest.parquet")
    texts = table["text"].to_pylist()
    write_jsonl(copy / "audit" / "review.jsonl", [
        {"id": ids[0], "verdict": "bad", "text": texts[0]}, {"id": ids[1], "verdict": "good", "text": "not this one"},
    ])  # fmt: skip
    report = AlignmentReport.read(copy / "audit/alignment_report.json")
    interval = Interval(rate=12.5, lower=8.1, upper=17.0)
    rates = dict.fromkeys(("false_discovery_pct", "false_omission_pct", "corrected_low_quality_pct"), interval)
    reviewed = report.review.model_copy(update={
        "num_answered": 80, "num_counted": 70, "answers": {"passed": answers(good=30, bad=1)}, **rates,
        "sensitivity": 0.91, "specificity": 0.97, "notes": ("A note <of> it.",),
    })  # fmt: skip
    report.model_copy(update={"review": reviewed}).write(copy / "audit/alignment_report.json")
    run_gate(copy / "audit", copy / "gate.json", GateConfig())
    page = Page(write_audit_page(copy).read_text(encoding="utf-8"))
    assert page.data["answers"] == {ids[0]: "bad"}
    assert sum(row["rest"] for row in page.rows) == 20 and "581 of 581 utterances" in page.text
    for said in ("Corrected by review", "8.1 to 17.0%", "91.0%", "A note <of> it.", "80 verdicts, 70 of them"):
        assert said in page.text, said


def test_flags_of_the_data_stand_against_verdicts(page):
    assert "What people noted of the data" in page.text and "noisy" in page.text
    assert {tuple(row["flags"]) for row in page.rows if row["flags"] is not None} == {("noisy",), ()}


def test_what_stands_beside_the_verdict_is_on_the_page(run_dir, page):
    """A rate alone hides that the instrument calibrated itself, that files are broken, what its sample alone says."""
    gate = GateVerdict.read(run_dir / "gate.json")
    assert gate.literal_point_verdict == "STOP" and gate.failures == {"undecodable": 1}
    tiles = " ".join(page.text.split())
    for said in (
        f"Point verdict STOP{gate.sample_low_quality_pct:.1f}% of the sample as it is",
        f"By hours {gate.hours_low_quality_pct:.1f}%",
        "Corrected –",
        "not available, no error rates of the detector",
        "could not be scored",
        "cannot be decoded 1.",
        "Calibration: self. 181 of the judged clips",
    ):
        assert said.replace(" ", "") in tiles.replace(" ", ""), said


def test_before_an_audit_there_is_no_page(run_dir, tmp_path):
    shutil.copy(run_dir / "recipe.yaml", tmp_path)
    assert write_audit_page(tmp_path) is None
