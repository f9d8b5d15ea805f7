"""Hearing a set: batches and files are the same however many processes transcribe."""

import os
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from engines import Together

from shibolet.errors import AudioError, DataError, ShiboletError
from shibolet.evaluate import hear as module
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.hear import hear
from shibolet.evaluate.stage import evaluate_set, read_rows
from shibolet.listen.engine import Engine, Written
from shibolet.listen.executor import Executor, Here, Processes
from shibolet.listen.lazy import Engines, Lazy
from shibolet.records.candidate import named
from shibolet.records.utterance import AudioRef, Utterance

RATE = 16000
CONFIG = EvaluateConfig(batch_utterances=3)


class Loops(Engine):
    """Looped in every clip of a quarter of a second or more, and wrote it again."""

    identity, clips_at_once = "loops", 4

    def write(self, clips):
        return [Written("אאא", "again" if len(clip) >= RATE / 4 else "end") for clip in clips]


def test_texts_that_were_written_again_are_counted_and_known_line_by_line(utterances, tmp_path):
    """Protects from a model whose loops are hidden by a bias: its fault would vanish from every figure."""
    scores = evaluate_set(
        Loops(), utterances, set_name="here", language="Hebrew", config=CONFIG, out_dir=tmp_path / "out",
        named=named("Round 2"), identity="0",
    )  # fmt: skip
    long = {one.id for one in utterances if one.duration_s >= 0.25 and one.id != "u4"}
    assert {row.id for row in read_rows(tmp_path / "out") if row.written_again} == long and "u7" in long
    assert 0 < scores.loops.written_again == len(long) < len(utterances) and scores.loops.utterances == 0


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Twenty utterances of different lengths: one is longer than a piece, one is no audio."""
    made, rng = [], np.random.default_rng(0)
    for i in range(20):
        path, num = tmp_path / f"{i}.wav", 31 * RATE if i == 7 else 3000 + 331 * i
        sf.write(path, 0.1 * rng.standard_normal(num), RATE)
        if i == 4:
            path.write_bytes(b"not a wave file")
        utterance = Utterance(
            id=f"u{i}", audio=AudioRef(path=str(path)), text="אאא בב", duration_s=num / RATE, source="here",
            recording=f"r{i // 2}", speaker="s", domain="clean",
        )  # fmt: skip
        made.append(utterance)
    return [*made, replace(made[2], id="cut", audio=made[2].audio.cut(0.05, 0.2), duration_s=0.15)]


def files_of(executor: Executor, utterances, out_dir: Path, **engine) -> dict[str, bytes]:
    folder = out_dir.with_name(f"{out_dir.name}-notes")
    folder.mkdir()
    engines = Engines(Lazy(partial(Together, folder, **engine)), Together.clips_at_once, executor)
    evaluate_set(
        engines, utterances, set_name="here", language="Hebrew", config=CONFIG, out_dir=out_dir,
        named=named("together"), identity="1",
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in out_dir.iterdir()}


def test_several_processes_write_the_files_that_one_writes(tmp_path: Path, utterances) -> None:
    """A score that hangs on the number of GPUs could not be compared with another."""
    one = files_of(Here(), utterances, tmp_path / "one")
    assert one.keys() == {"hypotheses.jsonl", "listing.txt", "scores.json"}
    with closing(Processes([{}] * 2)) as two:
        assert files_of(two, utterances, tmp_path / "two") == one
    loaded = {path.name for path in (tmp_path / "two-notes").glob("loaded-*")}
    assert len(loaded) == 2 and f"loaded-{os.getpid()}" not in loaded


def test_a_killed_process_changes_no_score_and_a_batch_that_kills_is_told(tmp_path: Path, utterances) -> None:
    """A set with a batch left out would be another set."""
    one, dies_of = files_of(Here(), utterances, tmp_path / "one"), 3000 + 331 * 9
    with closing(Processes([{}] * 2)) as two:
        assert files_of(two, utterances, tmp_path / "killed", dies_of=dies_of, times=1) == one
        assert len(list((tmp_path / "killed-notes").glob("died-*"))) == 1
        with pytest.raises(ShiboletError, match=r"a batch of 3 utterances, the first of which is 'u\d+', could not be"):
            files_of(two, utterances, tmp_path / "lost", dies_of=dies_of, times=9)
    assert not (tmp_path / "lost").exists()


def test_a_node_that_does_not_see_a_file_is_no_empty_text(utterances, monkeypatch) -> None:
    """A set would else be scored with words missing that nobody had listened to."""

    def blind(ref: AudioRef) -> np.ndarray:
        raise AudioError(f"{ref.path}: no such file", "missing_file")

    monkeypatch.setattr(module.audio, "load", blind)
    with pytest.raises(DataError, match=r"0\.wav was not found where it was to be heard"):
        hear(Loops(), utterances[:1], CONFIG, None)
    Path(utterances[0].audio.path).unlink()
    assert [one.reason for one in hear(Loops(), utterances[:1], CONFIG, None).failures] == ["missing_file"]


class Waiting(Together):
    """Writes down a batch only when every utterance of the next one was decoded."""

    def __init__(self, folder: Path, decoded: list, num: int) -> None:
        super().__init__(folder)
        self.decoded, self.num, self.num_calls = decoded, num, 0

    def write(self, clips):
        self.num_calls += 1
        until = time.monotonic() + 60
        while len(self.decoded) < min(self.num, (self.num_calls + 1) * self.clips_at_once):
            assert time.monotonic() < until, "the next batch is not decoded meanwhile"
            time.sleep(0.001)
        assert len(self.decoded) <= (self.num_calls + 2) * self.clips_at_once, "all of a set is in memory"
        return super().write(clips)


def test_a_batch_is_decoded_while_the_one_before_is_transcribed(tmp_path: Path, utterances, monkeypatch) -> None:
    """Decoding and measuring 200 utterances takes seconds of one core, for which a GPU would wait."""
    decoded: list = []
    decode = module._decode
    monkeypatch.setattr(module, "_decode", lambda ref, **given: (decode(ref, **given), decoded.append(ref))[0])
    short = [utterance for utterance in utterances if utterance.duration_s < 30]
    expected = hear(Together(tmp_path), short, CONFIG, None)
    decoded.clear()
    assert hear(Waiting(tmp_path, decoded, len(short)), short, CONFIG, None) == expected
    assert len(decoded) == len(short) > 15
