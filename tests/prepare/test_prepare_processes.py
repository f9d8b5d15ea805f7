"""Protects prepared data from depending on who decoded them, and the user from a crash that names no utterance."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from audit_documents import audited
from spoken import raw_times, record

from shibolet.errors import ProcessLost
from shibolet.listen.executor import Here, Processes
from shibolet.prepare import processes
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.processes import MakePieces, count_worthwhile, outcomes_of
from shibolet.prepare.shards import SCHEMA
from shibolet.prepare.stage import run_prepare
from shibolet.prepare.verdicts import Reviewed
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac

CONFIG = PrepareConfig(dev_frac=0.2, unheard="keep", max_duration_s=4.0)
WORK = MakePieces("he", CONFIG)


@dataclass(frozen=True, slots=True)
class CrashOn(MakePieces):
    """Takes its process with it at one utterance, as a decoder in C does."""

    fatal: str = ""

    @contextmanager
    def open(self) -> Iterator[Callable]:
        def make(jobs: list) -> list:
            if any(utterance.id == self.fatal for utterance, _ in jobs):
                os._exit(11)
            return [utterance.id for utterance, _ in jobs]

        yield make


def nobody(_: Utterance) -> None:
    return None


@pytest.fixture
def corpus(tmp_path) -> tuple[list[Utterance], dict[str, Reviewed]]:
    """Forty utterances of ten speakers; some are cut, one cannot be decoded, four lie in one file."""
    rng, utterances, verdicts = np.random.default_rng(0), [], {}
    for i in range(40):
        samples, words, times = record([2, 3, 3] if i % 4 == 0 else [3], rng)
        path = tmp_path / f"{i if i < 36 else 36}.flac"
        if i <= 36:
            path.write_bytes(b"fLaC and then nothing" if i == 7 else encode_flac(samples))
        starts_s, ends_s = raw_times(times, rng, outlier_frac=0)
        utterances.append(
            Utterance(
                id=f"u{i}", audio=AudioRef(path=str(path)), text=" ".join(words), source="crowd", speaker=f"s{i % 10}",
                duration_s=len(samples) / SAMPLE_RATE_HZ,
            )
        )  # fmt: skip
        row = {"text": " ".join(words), "words": tuple(words), "starts_s": tuple(starts_s), "ends_s": tuple(ends_s)}
        verdicts[f"u{i}"] = Reviewed(audited(f"u{i}", source="crowd", hypothesis=" ".join(words), **row))
    return utterances, verdicts


def test_the_bytes_are_the_same_whoever_decodes(corpus, tmp_path, monkeypatch):
    """Which process is first must not decide an order, a shard or a hash, nor may the number of processes."""
    monkeypatch.setattr(processes, "CHUNK_UTTERANCES", 3)
    utterances, verdicts = corpus
    for num in (0, 1, 3):
        told: list[int] = []
        made = run_prepare(
            utterances, verdicts, config=CONFIG, language="he", seed=0, out_dir=tmp_path / str(num), num_processes=num,
            on_progress=lambda done, _, told=told: told.append(done),
        )  # fmt: skip
        assert told[-1] == 40 and told == sorted(told)
        assert made.cut.utterances > 2 and made.dropped_by_rule["undecodable"].utterances == 1
    ones = [{path.name: path.read_bytes() for path in (tmp_path / str(num)).iterdir()} for num in (0, 1, 3)]
    assert len(ones[0]) == 5
    assert ones[0] == ones[1] == ones[2]


@pytest.mark.slow("prepare", seconds=10)
def test_an_utterance_that_crashes_its_process_is_named_with_its_file(corpus):
    """It could be one of thousands: nobody finds it by a dump of a stack."""
    work = CrashOn("he", CONFIG, fatal="u17")
    with closing(outcomes_of(corpus[0], nobody, work, 2)) as outcomes, pytest.raises(ProcessLost) as error:
        list(outcomes)
    assert "'u17' of crowd crashes" in str(error.value) and "17.flac" in str(error.value)


def test_a_crash_that_no_utterance_repeats_is_laid_to_the_machine(corpus):
    """Memory that was full must not be said to be a bad file."""
    error = processes._lost(corpus[0], nobody, CrashOn("he", CONFIG), Here())
    assert "none of them alone ('u0' to 'u39')" in str(error) and "memory" in str(error)


def test_processes_that_do_not_start_end_it_in_a_sentence_about_decoding(corpus, monkeypatch):
    """The sentence of those that listen would send the user to GPUs, which nobody uses here."""

    def nothing_starts(self: Processes, work: MakePieces, chunks: Iterator) -> Iterator:
        raise ProcessLost("no process that listens starts here")

    monkeypatch.setattr(Processes, "map", nothing_starts)
    with pytest.raises(ProcessLost, match="no process that decodes utterances starts here"):
        next(outcomes_of(corpus[0], nobody, WORK, 2))


@pytest.mark.parametrize("cores, hours, num", [(2, 0.9, 0), (1, 100.0, 0), (2, 1.1, 2), (16, 3.0, 16), (64, 3.0, 24)])
def test_processes_are_started_where_the_audio_is_worth_it(corpus, monkeypatch, cores, hours, num):
    """A demo must not wait for processes, nor a corpus for one."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    one = corpus[0][0]
    assert count_worthwhile([one] * round(3600 * hours / one.duration_s)) == num


def test_what_keeps_the_thread_from_writing_ends_the_stage(corpus, tmp_path, monkeypatch):
    """A full disk must not pass for a shard: there is no summary then."""
    utterances, verdicts = corpus

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        run_prepare(utterances, verdicts, config=CONFIG, language="he", seed=0, out_dir=tmp_path / "out")
    assert not list(Path(tmp_path / "out").glob("*.parquet")) and not (tmp_path / "out" / "summary.json").exists()


def test_shards_carry_what_datasets_would_write_beside_them():
    """Else `load_dataset` would give bytes in the place of audio."""
    datasets = pytest.importorskip("datasets")
    kinds = {"double": datasets.Value("float64"), "string": datasets.Value("string")}
    features = {field.name: kinds.get(str(field.type)) or datasets.Audio(SAMPLE_RATE_HZ) for field in SCHEMA}
    assert SCHEMA.equals(datasets.Features(features).arrow_schema, check_metadata=True)
