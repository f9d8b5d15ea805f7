"""Protects prepared data from depending on who decoded them, and the user from a crash that names no utterance."""

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from audit_documents import audited
from spoken import raw_times, record

from shibolet.errors import DataError, ProcessLost
from shibolet.listen import decoders
from shibolet.listen.decoders import Decoders, InThisProcess, Share, Worker
from shibolet.listen.executor import Here
from shibolet.listen.processes import WorkerLost
from shibolet.prepare import processes, shards
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.processes import Chunk, Job, MakePieces, is_worth_processes, make_chunk
from shibolet.prepare.shards import SCHEMA
from shibolet.prepare.stage import run_prepare
from shibolet.prepare.verdicts import Reviewed, ReviewedRows
from shibolet.records import files
from shibolet.records.audited import write_audited
from shibolet.records.manifest import read_manifest
from shibolet.records.review import Answer
from shibolet.records.shards import read_shard
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac, load

CONFIG = PrepareConfig(dev_frac=0.2, unheard="keep", max_duration_s=4.0, shard_utterances=7)


def crash_on_u17(jobs: Sequence[Job]) -> list[Chunk]:
    """Takes its process with it at one utterance, as a decoder in C does."""
    if any(utterance.id == "u17" for utterance, _ in jobs):
        os._exit(11)
    return make_chunk(jobs, "he", CONFIG)


class LostOver(InThisProcess):
    """A worker whose process is lost over several utterances at once, and over one of `ids`."""

    def __init__(self, *ids: str, reason: str = "decoder_crashed") -> None:
        self.ids, self.reason = ids, reason

    def run(self, function: Callable, jobs: Sequence[Job], *, timeout_s: float) -> list[Chunk]:
        if len(jobs) > 1 or jobs[0][0].id in self.ids:
            raise WorkerLost(self.reason, "gone")
        return function(jobs)


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
        with closing(Decoders(num)) as workers:
            made = run_prepare(
                utterances, verdicts, config=CONFIG, language="he", seed=0, out_dir=tmp_path / str(num),
                on_progress=lambda done, _, told=told: told.append(done), decoders=workers,
            )  # fmt: skip
        assert told[-1] == 40 and told == sorted(told)
        assert made.cut.utterances > 2 and made.dropped_by_rule["undecodable"].utterances == 1
    ones = [{path.name: path.read_bytes() for path in (tmp_path / str(num)).iterdir()} for num in (0, 1, 3)]
    assert len(ones[0]) > 3 + 2 * shards.OPEN_SHARDS
    assert ones[0] == ones[1] == ones[2]


class Elsewhere(Here):
    """As on a cluster: work and chunks are read from pickles there, and results here; nodes lack some files."""

    is_elsewhere = True

    def __init__(self, *unseen: Path) -> None:
        super().__init__()
        self.unseen = unseen

    def map(self, work: MakePieces, chunks: Iterable[list[Job]]) -> Iterator[list[Chunk]]:
        with pickle.loads(pickle.dumps(work)).open() as do:
            for jobs in chunks:
                theirs = [(self._as_there(utterance), verdict) for utterance, verdict in jobs]
                made, unseen = pickle.loads(pickle.dumps(do(pickle.loads(pickle.dumps(theirs)))))
                yield work.keep((made, [path.removesuffix(".gone") for path in unseen]))

    def _as_there(self, utterance: Utterance) -> Utterance:
        gone = Path(utterance.audio.path) in self.unseen
        return replace(utterance, audio=AudioRef(path=f"{utterance.audio.path}.gone")) if gone else utterance


def test_the_bytes_of_a_cluster_are_those_of_this_process(corpus, tmp_path):
    """What passes between machines is pickled: no audio may be left behind, or come to another row."""
    utterances, verdicts = corpus
    prepare = partial(run_prepare, utterances, verdicts, config=CONFIG, language="he", seed=0)
    prepare(out_dir=tmp_path / "here")
    prepare(out_dir=tmp_path / "cluster", decoders=Share(0), executor=Elsewhere())
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("here", "cluster"))
    assert here == there and len(here) > 6


def test_audio_that_a_node_does_not_see_is_not_dropped(corpus, tmp_path):
    """A folder that is not mounted on one node would take hours out of the training set, and look like bad data."""
    utterances, verdicts = corpus
    unseen = Path(utterances[12].audio.path)
    prepare = partial(run_prepare, utterances, verdicts, config=CONFIG, language="he", seed=0, decoders=Share(0))
    with pytest.raises(DataError, match=r"12\.flac was not found where it was to be heard"):
        prepare(out_dir=tmp_path / "cluster", executor=Elsewhere(unseen))
    assert not (tmp_path / "cluster" / "summary.json").exists()
    unseen.unlink()  # here neither: then it is the data's fault, and a line of the ledger
    made = prepare(out_dir=tmp_path / "cluster", executor=Elsewhere())
    assert made.dropped_by_rule["missing_file"].utterances == 1


def test_utterances_that_end_every_process_of_a_cluster_are_named(corpus, tmp_path):
    """Dropping them would make the training set depend on a machine's memory."""

    class Ends(Here):
        def map(self, work: MakePieces, chunks: Iterable[list[Job]]) -> Iterator[WorkerLost]:
            yield from (WorkerLost("listener_crashed", "it crashed in 3 tries") for _ in chunks)

    with pytest.raises(ProcessLost, match=r"utterances from 'u\d+' of crowd on could not be prepared: it crashed in 3"):
        run_prepare(*corpus, config=CONFIG, language="he", seed=0, out_dir=tmp_path, decoders=Share(0), executor=Ends())


def test_a_row_lies_where_the_manifest_says(corpus, tmp_path):
    """Shards are written at the same time: no row may come to another's place, nor a text to another's audio."""
    utterances, verdicts = corpus
    run_prepare(utterances, verdicts, config=CONFIG, language="he", seed=0, out_dir=tmp_path)
    rows = read_manifest(tmp_path / "manifest.jsonl")
    for row in rows:
        columns = ("id", "text", "sha256", "audio")
        id, text, sha256, flac = list(read_shard(Path(row.audio.path), *columns))[row.audio.row]
        assert (id, text, sha256) == (row.id, row.text, hashlib.sha256(flac).hexdigest())
        assert len(load(row.audio)) == round(row.duration_s * SAMPLE_RATE_HZ)
    assert len({row.audio.path for row in rows}) > 2 * shards.OPEN_SHARDS


def test_verdicts_of_a_table_are_those_of_their_utterances(corpus, tmp_path):
    """They are read many at a time, and not in the table's order: none may come to another utterance."""
    utterances, verdicts = corpus
    write_audited(tmp_path / "utterances.parquet", [verdict.row for verdict in reversed(verdicts.values())])
    bad = Answer(id="u5", verdict="bad", text=utterances[5].text)
    verdicts["u5"] = Reviewed(verdicts["u5"].row, "bad")
    made = []
    for name, own in (("table", ReviewedRows([tmp_path / "utterances.parquet"], {"u5": bad})), ("plain", verdicts)):
        run_prepare(utterances, own, config=CONFIG, language="he", seed=0, out_dir=tmp_path / name)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1] and b"review:bad" in made[0]["ledger.jsonl"]


@pytest.mark.slow("prepare", seconds=10)
def test_an_utterance_that_crashes_its_process_is_named_with_its_file(corpus):
    """It could be one of thousands: nobody finds it by a dump of a stack."""
    with closing(Worker()) as worker, pytest.raises(ProcessLost) as error:
        processes._run(worker, [(utterance, None) for utterance in corpus[0][15:20]], crash_on_u17)
    assert "'u17' of crowd crashes" in str(error.value) and "17.flac" in str(error.value)


@pytest.mark.parametrize("reason, does", [("decoder_crashed", "crashes"), ("decoder_hung", "hangs")])
def test_what_ends_a_process_is_said_of_the_utterance(corpus, reason, does):
    """Of the one that does it alone, and not of its neighbours."""
    jobs, make = [(utterance, None) for utterance in corpus[0]], partial(make_chunk, language="he", config=CONFIG)
    with pytest.raises(ProcessLost, match=f"'u3' of crowd {does} the process that decodes it"):
        processes._run(LostOver("u3", "u9", reason=reason), jobs, make)


def test_a_crash_that_no_utterance_repeats_changes_nothing(corpus, tmp_path, monkeypatch):
    """Memory that was full for a moment must neither end the stage nor lose or move a row."""
    monkeypatch.setattr(decoders, "InThisProcess", LostOver)
    utterances, verdicts = corpus
    for name in ("lost", "whole"):
        run_prepare(utterances, verdicts, config=CONFIG, language="he", seed=0, out_dir=tmp_path / name)
        monkeypatch.undo()
    lost, whole = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("lost", "whole"))
    assert lost == whole


def test_a_file_that_changed_is_hashed_again(corpus):
    """The processes stay from stage to stage: what they know of a file must not outlive it."""
    path = Path(corpus[0][0].audio.path)
    before = processes._hash_of(corpus[0][0].audio)
    path.write_bytes(path.read_bytes() + b"more")
    assert processes._hash_of(corpus[0][0].audio) != before


@pytest.mark.parametrize(
    "cores, hours, elsewhere, worth",
    [
        (2, 0.9, False, False), (1, 100.0, False, False), (2, 1.1, False, True), (16, 3.0, False, True),
        (1, 100.0, True, True), (1, 0.9, True, False),
    ],
)  # fmt: skip
def test_processes_are_started_where_the_audio_is_worth_it(corpus, monkeypatch, cores, hours, elsewhere, worth):
    """A demo must not wait for processes, nor a corpus for one; a cluster has cores where this machine has one."""
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    one = corpus[0][0]
    assert is_worth_processes([one] * round(3600 * hours / one.duration_s), elsewhere) == worth


def test_the_hash_of_a_shard_is_known_when_it_is_there(corpus, tmp_path, monkeypatch):
    """Else what seals the stage and what verifies it read each gigabyte again."""
    monkeypatch.setattr(files, "_KEPT_BYTES", 1)
    utterances, verdicts = corpus
    run_prepare(utterances, verdicts, config=CONFIG, language="he", seed=0, out_dir=tmp_path)
    written = sorted(tmp_path.glob("*.parquet"))
    true = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in written]
    monkeypatch.setattr(files, "_digest", lambda file: pytest.fail("it was read"))
    assert files.hash_files(written) == true


def test_what_keeps_the_thread_from_writing_ends_the_stage(corpus, tmp_path, monkeypatch):
    """A full disk must not pass for a shard: there is no summary then."""
    utterances, verdicts = corpus

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        run_prepare(utterances, verdicts, config=CONFIG, language="he", seed=0, out_dir=tmp_path / "out")
    assert not list(Path(tmp_path / "out").glob("*.parquet")) and not (tmp_path / "out" / "summary.json").exists()


def test_a_shard_that_lacks_a_group_gets_no_name(corpus, tmp_path, monkeypatch):
    """The disk may have room again before anybody has looked at what a thread came to."""
    utterances, verdicts = corpus
    write, calls = pq.ParquetWriter.write_table, []

    def full_once(*args: object) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        write(*args)

    monkeypatch.setattr(shards, "BATCH_ROWS", 2)
    prepare = partial(run_prepare, utterances, verdicts, config=CONFIG, language="he", seed=0)
    prepare(out_dir=tmp_path / "whole")
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_once)
    with pytest.raises(OSError, match="No space left"):
        prepare(out_dir=tmp_path / "out")
    assert len(calls) >= 1
    for path in (tmp_path / "out").glob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


def test_shards_carry_what_datasets_would_write_beside_them():
    """Else `load_dataset` would give bytes in the place of audio."""
    datasets = pytest.importorskip("datasets")
    kinds = {"double": datasets.Value("float64"), "string": datasets.Value("string")}
    features = {field.name: kinds.get(str(field.type)) or datasets.Audio(SAMPLE_RATE_HZ) for field in SCHEMA}
    assert SCHEMA.equals(datasets.Features(features).arrow_schema, check_metadata=True)
