"""Protects hours of transcription: what was written before a run was cut off is not written again."""

import numpy as np
import pytest

from shibolet.errors import DataError
from shibolet.listen.engine import Engine, Written
from shibolet.recipe import load_recipe
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
