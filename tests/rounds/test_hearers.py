"""Protects hours of transcription: what was written before a run was cut off is not written again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shibolet.errors import DataError
from shibolet.listen.engine import Engine, Written
from shibolet.recipe import load_recipe
from shibolet.records.audited import Audited
from shibolet.records.documents.labelled import Author
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import hearers
from shibolet.rounds.shared import Round, open_round
from shibolet.speech.audio import encode_flac


class Counting(Engine):
    """Writes how long each clip is; stops after so many calls."""

    identity, clips_at_once = "counting", 100

    def __init__(self, calls: int) -> None:
        self.calls, self.clips = calls, 0

    def write(self, clips):
        if not self.calls:
            raise KeyboardInterrupt
        self.calls, self.clips = self.calls - 1, self.clips + len(clips)
        return [Written(f"שלום {len(clip)}", "end") for clip in clips]


@pytest.fixture
def utterances(tmp_path) -> list[Utterance]:
    made = []
    for i in range(10):
        path = tmp_path / f"{i}.flac"
        path.write_bytes(encode_flac(np.full(8000 + i, 0.1, np.float32)) if i != 3 else b"fLaC and then nothing")
        made.append(Utterance(id=f"u{i}", audio=AudioRef(path=str(path)), text="", duration_s=0.5, source="free"))
    return made


def test_a_second_start_writes_what_the_first_did_not_come_to(tmp_path, utterances, monkeypatch):
    monkeypatch.setattr(hearers, "TOGETHER", 4)

    def texts(calls: int, digest: str = "a") -> tuple[list, int]:
        engine = Counting(calls)
        monkeypatch.setattr(Round, "transcriber", lambda *_: engine)
        recipe = load_recipe("demo", ["audit.num_workers=0"])
        with open_round(recipe, tmp_path / "run", "label", lambda sentence: None) as current:
            found = []
            try:
                found = hearers.Hearers(current, "builtin:round1", "builtin:ctc")._write(utterances, digest, "label")
            except KeyboardInterrupt:
                pass
        return found, engine.clips

    assert texts(1) == ([], 3), "of the first four one cannot be decoded"
    found, num_heard = texts(9)
    assert num_heard == 6 and [one.id for one in found] == [one.id for one in utterances]
    assert found[0].text == "שלום 8000" and (found[3].text, found[3].failure) == ("", "undecodable")
    assert texts(0) == (found, 0)
    assert texts(9, digest="other audio")[1] == 9, "other audio under the same ids is heard"
    for path in (tmp_path / "run" / "labelled" / "heard").glob("*.jsonl"):
        path.write_text(path.read_text("utf-8").replace("שלום 8000", "שלום 8001"), "utf-8")
    with pytest.raises(DataError, match="not as it was written; delete it, and it is heard again"):
        texts(0)


def test_the_writer_scores_the_texts_of_the_listener(tmp_path, utterances):
    """With the listener's own score of them, which is 0, every one would pass."""
    recipe = load_recipe("demo", ["audit.num_workers=0"])
    author = Author(domain="phone", clips=9, writer_wer_pct=9, listener_wer_pct=1, chance=0.01, by="listener")
    noise = encode_flac(0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32))
    for one in utterances[:3]:
        Path(one.audio.path).write_bytes(noise)
    domains = ("phone", "phone", "studio")
    some = [replace(one, domain=domain) for one, domain in zip(utterances, domains)]
    row = Audited(
        id="", source="free", duration_s=1.0, is_low_quality=False, text="היא הולכת", words=("היא", "הולכת"),
        hypothesis="החתול ישן", domain="", text_score=-0.25, cer=1.0,
    )  # fmt: skip
    rows = [replace(row, id=one.id, domain=one.domain) for one in some]
    rows[1] = replace(rows[1], failure="undecodable")
    with open_round(recipe, tmp_path / "run", "label", lambda sentence: None) as current:
        hearing = hearers.Hearers(current, "builtin:round1", "builtin:ctc")
        turned, failed, other = hearing.in_turn(some, rows, {"phone": author}, "label")
        assert hearing.in_turn(some, rows, {}, "label") == rows
    assert (turned.text, turned.hypothesis) == ("החתול ישן", "היא הולכת")
    assert turned.text_score < -0.5, "noise is no such sentence to the writer"
    assert (failed, other) == (rows[1], rows[2])
