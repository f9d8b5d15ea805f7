"""Data of many files: protects from reading them otherwise than small data, and from a file that takes a round down."""

import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.errors import AudioError, DataError, ProcessLost
from shibolet.listen.decoders import Decoders
from shibolet.records.batches import ForEach, in_threads
from shibolet.records.files import write_jsonl
from shibolet.records.manifest import manifest_hash
from shibolet.rounds import reading
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource

RATE = 16000


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with closing(Decoders(2)) as found:
        yield found


@pytest.fixture
def many(monkeypatch) -> None:
    monkeypatch.setattr(reading, "MANY_FILES", 4)
    monkeypatch.setattr(reading, "TOGETHER", 3)


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    """Sounds of several formats, spans of one of them, and files that are not there, no audio, or spelled otherwise."""
    for i, kind in enumerate(("flac", "wav", "ogg", "flac", "wav")):
        sf.write(tmp_path / f"{i}.{kind}", 0.1 * np.random.default_rng(i).standard_normal(RATE * (1 + i)), RATE)
    (tmp_path / "text.flac").write_text("no audio")
    composed, decomposed = (unicodedata.normalize(form, "é.flac") for form in ("NFC", "NFD"))
    (tmp_path / "0.flac").rename(tmp_path / composed)
    files = [decomposed, "1.wav", "absent.wav", "2.ogg", "text.flac", "3.flac", "4.wav", "4.wav", " "]
    rows = [{"audio": name, "text": "שלום עולם", "id": f"u{i}"} for i, name in enumerate(files)]
    rows[6:8] = [row | {"start_s": start_s, "end_s": start_s + 1} for start_s, row in enumerate(rows[6:8])]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return DataSource(name="mine", manifest=tmp_path / "rows.jsonl")


def test_many_files_are_read_as_few_are(source: DataSource, decoders: Decoders, many, tmp_path: Path) -> None:
    def read_by(for_each: ForEach) -> tuple:
        told = []
        utterances, ledger = read_source(source, tmp_path, lambda *done: told.append(done), "Hebrew", for_each)
        hashes = [manifest_hash(utterances, whole=whole, for_each=for_each) for whole in (False, True)]
        return utterances, ledger, hashes, told

    utterances, ledger, _, told = found = read_by(reading.by(decoders))
    assert found == read_by(in_threads) and told == [(9, 9)]
    assert [one.id for one in utterances] == ["u0", "u1", "u3", "u5", "u6", "u7"]
    assert [line.rule for line in ledger] == ["missing_file", "undecodable", "missing_audio"]
    assert all(worker._child for worker in decoders._workers), "no process read anything"
    (tmp_path / "1.wav").unlink()
    with pytest.raises(DataError, match=r"1\.wav cannot be read: No such file"):
        manifest_hash(utterances, for_each=reading.by(decoders))


def test_few_files_start_no_process(source: DataSource, decoders: Decoders, tmp_path: Path) -> None:
    """A process takes longer to start than a few hundred headers to read."""
    utterances, _ = read_source(source, tmp_path, None, "Hebrew", reading.by(decoders))
    assert manifest_hash(utterances, for_each=reading.by(decoders)) and not decoders._threads


def lost_on_seven(path: str) -> int:
    if path == "7":
        os._exit(1)
    return int(path)


def test_a_file_that_takes_its_reader_down_is_named(decoders: Decoders, many) -> None:
    """A library that crashes on a header would else take the round with it, without a word."""
    for_each = reading.by(decoders)
    assert list(for_each(lost_on_seven, "123456")) == [1, 2, 3, 4, 5, 6]
    results = for_each(lost_on_seven, "56789")
    assert [next(results), next(results)] == [5, 6]
    with pytest.raises(ProcessLost, match="reads 7 crashes or hangs: take the file out"):
        next(results)
    assert list(for_each(lost_on_seven, "12345")) == [1, 2, 3, 4, 5]  # those after it find processes


def fails_on_seven(path: str) -> int:
    if path == "7":
        raise AudioError("seven", "missing_file")
    return int(path)


def test_an_error_comes_in_the_order_of_the_files(decoders: Decoders, many) -> None:
    results = reading.by(decoders)(fails_on_seven, "4567777777777")
    assert [next(results) for _ in range(3)] == [4, 5, 6]
    with pytest.raises(AudioError, match="seven") as caught:
        next(results)
    assert caught.value.reason == "missing_file"


def test_a_round_imports_little_before_its_first_stage() -> None:
    """Each of these takes half a second or more; what hears is imported while data are read."""
    script = (
        "import shibolet.cli, shibolet.rounds.plan, shibolet.rounds.flow, shibolet.audit.stage, sys\n"
        "print([m for m in ('scipy', 'torch', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
