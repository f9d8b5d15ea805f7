"""Transcripts as people and players read them: every word once, times in order, no text taken for markup."""

import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from shibolet.errors import AudioError
from shibolet.listen.formats import Format, Writer, cues
from shibolet.listen.recordings import Heard, Piece, Word

A, B = Path("a.wav"), Path("b.wav")
PAUSE = Piece(start_s=5.0, end_s=9.0, text="", ending="end")
FIRST = Piece(start_s=0.0, end_s=5.0, text="שלום <i>עולם</i> & כולם", ending="end")
LATER = Piece(start_s=3599.9996, end_s=3605.25, text="סוף", ending="loop")
HEARD = [
    *(Heard(path=A, piece=piece) for piece in (FIRST, PAUSE, LATER)),
    Heard(path=A),
    Heard(path=B, error=AudioError("b.wav: no samples in it", "empty_audio")),
]


def write(format: str, heard: list[Heard] = HEARD, with_names: bool = True) -> str:
    out = io.StringIO()
    writer = Writer(out, format, with_names=with_names)
    for one in heard:
        writer.add(one)
    writer.close()
    return out.getvalue()


def timed(words: list[tuple[str, float, float]]) -> Piece:
    return Piece(
        start_s=words[0][1], end_s=words[-1][2], text=" ".join(w for w, *_ in words), ending="end",
        words=tuple(Word(text=w, start_s=a, end_s=b) for w, a, b in words),
    )  # fmt: skip


def test_text_is_a_line_a_piece():
    assert write("txt") == "a.wav\tשלום <i>עולם</i> & כולם\na.wav\tסוף\n"
    assert write("txt", HEARD[:4], with_names=False) == "שלום <i>עולם</i> & כולם\nסוף\n"


def test_json_has_every_recording_with_its_error():
    found = json.loads(write("json"))
    assert [(row["file"], row["text"], row["error"]) for row in found] == [
        ("a.wav", "שלום <i>עולם</i> & כולם סוף", None), ("b.wav", "", "b.wav: no samples in it"),
    ]  # fmt: skip
    assert [piece["ending"] for piece in found[0]["pieces"]] == ["end", "end", "loop"]
    assert found[0]["duration_s"] == 3605.25
    assert json.loads(write("json", [])) == []


def test_json_lines_come_as_they_are_heard():
    out = io.StringIO()
    writer = Writer(out, "jsonl", with_names=False)
    for number, one in enumerate(HEARD[:3], 1):
        writer.add(one)
        assert out.getvalue().count("\n") == number
    lines = [json.loads(line) for line in write("jsonl").splitlines()]
    assert [line.get("text", line.get("error")) for line in lines][-1] == "b.wav: no samples in it"
    assert lines[0] == {"file": "a.wav", **FIRST.to_json(), "words": []}


def test_subtitles_have_clocks_and_no_markup():
    assert write("srt", HEARD[:4]) == (
        "1\n00:00:00,000 --> 00:00:05,000\nשלום <i>עולם</i> & כולם\n\n"
        "2\n01:00:00,000 --> 01:00:05,250\nסוף\n\n"
    )  # fmt: skip
    vtt = write("vtt", HEARD[:4])
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:05.000\nשלום &lt;i&gt;עולם&lt;/i&gt; &amp; כולם\n")


def test_cues_end_at_pauses_and_lengths_and_hold_every_word():
    words = [(f"מילה{i}", 0.5 * i, 0.5 * i + 0.4) for i in range(40)]
    words = [(w, a + 2.0 * (i >= 7), b + 2.0 * (i >= 7)) for i, (w, a, b) in enumerate(words)]
    found = cues(timed(words))
    assert " ".join(cue.text for cue in found) == " ".join(w for w, *_ in words)
    assert found[0].text.endswith("מילה6") and found[0].end_s == pytest.approx(3.4)
    assert all(cue.end_s - cue.start_s <= 6.0 and len(cue.text) <= 84 for cue in found)
    assert all(a.end_s <= b.start_s for a, b in pairwise(found))
    long_word = cues(timed([("x" * 200, 0.0, 9.0), ("y", 9.0, 9.1)]))
    assert [cue.text for cue in long_word] == ["x" * 200, "y"]


def test_a_long_cue_stands_in_two_lines_of_about_the_same_length():
    words = [(f"word{i}", 0.3 * i, 0.3 * i + 0.3) for i in range(10)]
    lines = write("srt", [Heard(path=A, piece=timed(words))]).splitlines()[2:4]
    assert [len(line.split()) for line in lines] == [5, 5]


@pytest.mark.parametrize("format", get_args(Format))
def test_every_format_has_every_word(format):
    text = re.sub("&lt;", "<", write(format)).replace("&gt;", ">").replace("&amp;", "&")
    assert "שלום <i>עולם</i> & כולם" in text and "סוף" in text
