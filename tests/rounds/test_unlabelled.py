"""Protects audio without text from being refused for it, from lost stretches, and from pieces that nobody can hear."""

from itertools import pairwise

import numpy as np
import pytest

from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds.unlabelled import cut_into_pieces
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac, load
from shibolet.speech.read import read_source
from shibolet.speech.sources import UnlabelledSource


def spoken(words: int, pause_s: float) -> np.ndarray:
    """Bursts of 0.5 s with pauses between them and of a second at both ends."""
    t = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    word = 0.2 * sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 9)) * np.hanning(len(t)) ** 0.2
    rng = np.random.default_rng(0)
    quiet = lambda seconds: rng.normal(0, 1e-4, round(seconds * SAMPLE_RATE_HZ))  # noqa: E731
    parts = [quiet(1.0), *(part for _ in range(words) for part in (word, quiet(pause_s))), quiet(1.0)]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "talk.flac").write_bytes(encode_flac(spoken(20, 0.4)))
    (tmp_path / "a" / "talk.txt").write_text("not read")
    (tmp_path / "a" / "silence.flac").write_bytes(encode_flac(np.zeros(3 * SAMPLE_RATE_HZ, np.float32)))
    (tmp_path / "a" / "notes.txt").write_text("of no audio")
    return tmp_path / "a"


def test_a_folder_of_audio_is_cut_into_pieces_of_speech(folder):
    source = UnlabelledSource(name="free", manifest=folder)
    utterances, ledger = read_source(source, folder / "cache", language="Hebrew")
    assert [(u.id, u.text) for u in utterances] == [("silence.flac", ""), ("talk.flac", "")] and not ledger
    pieces, lines = cut_into_pieces(utterances, 5.0, 0.5, lambda done, total: None)
    assert {(line.rule, line.source) for line in lines} == {("no_speech", "free")}
    talk = [piece for piece in pieces if piece.recording == "talk.flac"]
    assert len(talk) >= 4 and len({piece.id for piece in talk}) == len(talk)
    assert all(0.5 <= piece.duration_s <= 5.0 for piece in talk)
    spans = [(piece.audio.start_s, piece.audio.end_s) for piece in talk]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), "no piece overlaps another"
    heard_s = sum(np.abs(load(piece.audio)).max() > 0.05 for piece in talk)
    energy = sum(float((load(piece.audio) ** 2).sum()) for piece in talk)
    assert heard_s == len(talk) and energy == pytest.approx(float((spoken(20, 0.4) ** 2).sum()), rel=0.01)


def test_what_cannot_be_decoded_is_a_line_and_the_rest_goes_on(folder):
    (folder / "broken.flac").write_bytes(b"fLaC and then nothing")
    rows = [
        Utterance(id=name, audio=AudioRef(path=str(folder / f"{name}.flac")), text="", duration_s=3.0, source="free")
        for name in ("broken", "talk")
    ]
    pieces, lines = cut_into_pieces(rows, 30.0, 0.5, lambda done, total: None)
    assert {line.id for line in lines} == {"broken"} and {piece.recording for piece in pieces} == {"talk"}


def test_a_span_of_a_file_is_cut_within_itself(folder):
    """Times of a piece are those of the file: a span that begins at 5 s has pieces from 5 s on."""
    audio = AudioRef(path=str(folder / "talk.flac"), start_s=5.0, end_s=12.0)
    row = Utterance(id="x", audio=audio, text="", duration_s=7.0, source="free", recording="r", speaker="s")
    pieces, _ = cut_into_pieces([row], 3.0, 0.5, lambda done, total: None)
    assert len(pieces) >= 3 and {(piece.recording, piece.speaker) for piece in pieces} == {("r", "s")}
    assert all(5.0 <= piece.audio.start_s < piece.audio.end_s <= 12.0 for piece in pieces)
