"""Protects the verdict from sets that were trained on: the same audio is found, whatever its name and place."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shibolet.evaluate.overlap import overlap, read_trained_on
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.stage import run_prepare
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import encode_flac

RATE = 16000
CONFIG = PrepareConfig(drop_low_quality=False, dev_frac=0.1)


def speech(folder: Path, number: int, seconds: float = 2.0, **fields) -> Utterance:
    path = folder / f"{number}.flac"
    noise = 0.1 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
    path.write_bytes(encode_flac(noise.astype(np.float32)))
    given = {"text": "שלום עולם", "duration_s": seconds, "source": "crowd", "recording": f"r{number}", **fields}
    return Utterance(id=f"u{number}", audio=AudioRef(path=str(path)), **given)


def train(utterances: list[Utterance], out_dir: Path) -> set[str]:
    """Prepares; gives the ids that train."""
    run_prepare(utterances, {}, config=CONFIG, language="he", seed=0, out_dir=out_dir)
    return {id for path in out_dir.glob("train-*.parquet") for id in pq.read_table(path)["origin_id"].to_pylist()}


@pytest.fixture
def corpus(tmp_path) -> list[Utterance]:
    return [speech(tmp_path, i, speaker=f"s{i % 6}") for i in range(12)]


def test_the_training_set_itself_is_found_under_other_names_and_the_dev_part_is_not(corpus, tmp_path):
    kept = train(corpus, tmp_path / "prepared")
    assert 6 <= len(kept) < 12
    (tmp_path / "moved").mkdir()
    renamed = []
    for u in corpus:
        path = shutil.copy(u.audio.path, tmp_path / "moved" / f"x{u.id}.flac")
        renamed.append(replace(u, id=f"other-{u.id}", audio=AudioRef(path=path), recording=None, speaker=None))
    found = overlap(renamed, read_trained_on(tmp_path / "prepared"), "mine")
    assert set(found.ids) == {f"other-{id}" for id in kept} and found.of == 12
    assert found.sentence == f"{len(kept)} of 12 utterances of set 'mine' are in the training data."
    assert (found.recordings, found.speakers, found.note) == ((0, 0), (0, 0), None)


def test_prepared_audio_is_found_where_it_was_exported(corpus, tmp_path):
    train(corpus, tmp_path / "prepared")
    (shard,) = (tmp_path / "prepared").glob("train-*.parquet")
    rows = pq.read_table(shard).to_pylist()
    exported = [
        Utterance(
            id=row["id"], audio=AudioRef(path=str(shard), row=i), text=row["text"], duration_s=row["duration_s"],
            source="exported",
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip
    assert overlap(exported, read_trained_on(tmp_path / "prepared"), "x").utterances == len(rows)


def test_another_span_of_the_same_recording_is_other_speech(tmp_path):
    """A recording that is dealt to training and test by its utterances is only noted."""
    whole = speech(tmp_path, 0, seconds=30.0, recording="talk")
    spans = [
        replace(whole, id=f"p{i}", audio=replace(whole.audio, start_s=3.0 * i, end_s=3.0 * i + 3), duration_s=3.0)
        for i in range(10)
    ]
    train([*spans[:5], *(speech(tmp_path, i) for i in range(1, 9))], tmp_path / "prepared")
    trained = read_trained_on(tmp_path / "prepared")
    assert "talk" in trained.recordings, "dealt to dev: nothing is tested"
    found = overlap(spans[5:], trained, "rest")
    assert found.utterances == 0 and found.sentence is None
    assert found.note == "Set 'rest' shares names with the training data: 1 of 1 recordings."
    shifted = replace(spans[4], audio=replace(spans[4].audio, start_s=12.2, end_s=15.2))
    assert overlap([shifted], trained, "rest").utterances == 1
    at_the_cut = replace(spans[5], audio=replace(spans[5].audio, start_s=14.8))
    assert overlap([at_the_cut], trained, "rest").utterances == 0
    assert overlap([whole], trained, "rest").utterances == 1, "a part of it was trained on"


def test_new_speech_of_known_voices_is_a_note(corpus, tmp_path):
    train(corpus, tmp_path / "prepared")
    trained = read_trained_on(tmp_path / "prepared")
    voices = sorted(trained.speakers)[:2]
    fresh = [speech(tmp_path, 50 + i, speaker=speaker) for i, speaker in enumerate([*voices, "new", None])]
    found = overlap(fresh, trained, "fresh")
    assert (found.utterances, found.speakers) == (0, (2, 3))
    assert found.note == "Set 'fresh' shares names with the training data: 2 of 3 speakers."
    broken = replace(fresh[0], audio=AudioRef(path=str(tmp_path / "gone.wav")), speaker=None)
    assert overlap([broken], trained, "fresh").utterances == 0


def test_shards_without_hashes_say_nothing(corpus, tmp_path):
    assert read_trained_on(tmp_path / "nowhere") is None
    train(corpus, tmp_path / "prepared")
    (shard,) = (tmp_path / "prepared").glob("train-*.parquet")
    pq.write_table(pq.read_table(shard).drop_columns(["sha256", "origin_sha256"]), shard)
    assert read_trained_on(tmp_path / "prepared") is None
