"""Manifests that others made: each is known by its content and gives the utterances that its own tools make of it."""

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from shibolet.errors import DataError
from shibolet.records.utterance import Utterance
from shibolet.speech import textfiles
from shibolet.speech.audio import SAMPLE_RATE_HZ, load
from shibolet.speech.manifests import open_manifest
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource

LHOTSE = Path(__file__).parent / "lhotse_files"


def ramp(duration_s: float) -> np.ndarray:
    """Samples that tell their own time: 0.1 a second."""
    return (np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ / 10).astype(np.float32)


def write_audio(path: Path, duration_s: float = 6.0, num_channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.repeat(ramp(duration_s)[:, None], num_channels, axis=1)
    sf.write(path, samples, SAMPLE_RATE_HZ, subtype=None if path.suffix == ".mp3" else "PCM_16")


def write_rows(path: Path, *rows: dict | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def read(manifest: Path, **settings) -> tuple[list[Utterance], list]:
    return read_source(DataSource(name="mine", manifest=manifest, **settings), manifest.parent / "cache")


def spans(utterances: list[Utterance]) -> list[tuple]:
    return [(u.id, u.audio.start_s, u.audio.start_s + u.duration_s) for u in utterances]


def rules(ledger: list) -> list[tuple[str, str]]:
    return [(line.id, line.rule) for line in ledger]


@pytest.mark.parametrize("name", ["train.json", "train.jsonl.gz"])
def test_nemo(tmp_path, name):
    """Spans start at `offset` and last `duration`; paths start at the file, or at a folder above it."""
    for file in ("a.wav", "b.wav"):
        write_audio(tmp_path / "audio" / file)
    path = write_rows(
        tmp_path / "manifests" / name,
        {"audio_filepath": "audio/a.wav", "text": "one", "duration": 6.0, "lang": "he", "speaker": 3},
        "{broken",
        {"audio_filepath": "audio/a.wav", "text": "two", "duration": 1.1, "offset": 2.2},
        {"audio_filepath": "audio/a.wav", "text": "three", "duration": 2.0},
        {"audio_filepath": str(tmp_path / "audio" / "b.wav"), "text": "four", "duration": None, "offset": None},
        {"audio_filepath": "audio/b.wav", "text": "beyond", "duration": 5.0, "offset": 3.0},
        {"audio_filepath": "audio/b.wav", "text": "no number", "duration": 1.0, "offset": "x"},
        {"audio_filepath": "audio/b.wav", "text": "huge", "duration": 1.0, "offset": 10**400},
        {"text": "no audio", "duration": 1.0},
    )
    utterances, ledger = read(path)
    b = str(tmp_path / "audio" / "b.wav")
    assert spans(utterances) == [
        ("audio/a.wav", 0.0, 6.0), ("audio/a.wav@2.2", 2.2, pytest.approx(3.3)), ("audio/a.wav-2", 0.0, 2.0),
        (b, 0.0, 6.0),
    ]  # fmt: skip
    assert [u.text for u in utterances] == ["one", "two", "three", "four"]
    assert (utterances[0].language, utterances[0].speaker) == ("Hebrew", "3")
    heard = load(utterances[1].audio)
    assert len(heard) == round(1.1 * SAMPLE_RATE_HZ) and heard[0] == pytest.approx(0.22, abs=1e-3)
    assert [line.rule for line in ledger] == ["not_json", "span_beyond_audio", "bad_span", "bad_span", "missing_audio"]


@pytest.fixture
def lhotse_files(tmp_path):
    """Lhotse's manifests, with the recordings that they name beside the folder they lie in."""
    for name in ("one", "left", "right", "rate"):
        write_audio(tmp_path / "audio" / f"{name}.wav")
    write_audio(tmp_path / "audio" / "stereo.wav", num_channels=2)
    return Path(shutil.copytree(LHOTSE, tmp_path / "data" / "manifests"))


@pytest.mark.parametrize("name", ["cuts.jsonl", "x_supervisions_train.jsonl.gz", "x_recordings_train.jsonl.gz"])
def test_lhotse_agrees_with_lhotse(lhotse_files, name):
    """The spans are those of `CutSet.trim_to_supervisions`; what we cannot take has its reason."""
    utterances, ledger = read(lhotse_files / name)
    cannot = {"s4": "one_of_several_channels", "s7": "text_not_string"}
    theirs = [span for span in json.loads((lhotse_files / "spans.json").read_text()) if span["id"] not in cannot]
    ours = {
        u.id: {
            "id": u.id, "recording": u.recording, "start_s": u.audio.start_s, "end_s": pytest.approx(u.audio.end_s),
            "text": u.text, "speaker": u.speaker,
        }
        for u in utterances
    }  # fmt: skip
    assert len(theirs) == 5 and [ours[span["id"]] for span in theirs] == theirs and len(ours) == 5
    assert Path(next(u for u in utterances if u.id == "s5").audio.path).name == "right.wav"
    reasons = [line.rule for line in ledger]
    assert set(cannot.values()) <= set(reasons)
    if name == "cuts.jsonl":
        assert sorted(reasons) == sorted([*cannot.values(), "mixed_cut", "transformed_audio", "missing_text"])
    else:
        assert sorted(reasons) == sorted(cannot.values())


def test_lhotse_words_belong_to_the_supervision(lhotse_files):
    """A cut that begins inside a supervision still has all of its words: they are heard where they were said."""
    utterances, ledger = read(lhotse_files / "truncated.jsonl", columns={"domain": "custom.room"})
    assert spans(utterances) == [("s1", 0.5, 1.75), ("s2", 2.1, pytest.approx(4.433))] and ledger == []
    assert [(u.domain, u.language) for u in utterances] == [("x", "Hebrew"), (None, "Hebrew")]


def test_lhotse_rows_that_are_broken(lhotse_files):
    """Whatever stands where Lhotse has numbers, lists or objects costs that row and no more."""
    cut = json.loads((lhotse_files / "truncated.jsonl").read_text())
    cut["supervisions"] = cut["supervisions"][:1]
    junk = [None, "x", 7, [], [[0]], {}, {"a": []}, True, float("nan"), 10**400]
    broken = [{**cut, key: value} for key in ("start", "supervisions", "recording", "custom") for value in junk]
    for value in junk:
        broken += [
            {**cut, "supervisions": [{**cut["supervisions"][0], key: value}]}
            for key in ("start", "duration", "channel", "text", "custom", "id", "speaker")
        ]
        broken += [{**cut, "recording": {**cut["recording"], key: value}} for key in ("sources", "transforms", "id")]
        broken += [
            {**cut, "recording": {**cut["recording"], "sources": [{**cut["recording"]["sources"][0], key: value}]}}
            for key in ("type", "channels", "source")
        ]  # fmt: skip
    path = write_rows(lhotse_files / "broken.jsonl", cut, *broken)
    utterances, ledger = read(path, columns={"id": None})
    assert len(utterances) + len(ledger) == 1 + len(broken)
    assert len(ledger) > 60 and len({u.id for u in utterances}) == len(utterances) > 20


def test_lhotse_pair_needs_both(lhotse_files):
    (lhotse_files / "x_recordings_train.jsonl.gz").rename(lhotse_files / "other.jsonl.gz")
    for name, held in (("x_supervisions_train.jsonl.gz", "supervisions"), ("other.jsonl.gz", "recordings")):
        with pytest.raises(DataError, match=f"holds Lhotse {held}; with the .* beside it"):
            read(lhotse_files / name)
    write_rows(lhotse_files / "x_recordings_train.jsonl.gz", {"id": "another", "sources": [], "sampling_rate": 1})
    with pytest.raises(DataError, match=r"missing_audio, .*no recording 'one' in x_recordings_train"):
        read(lhotse_files / "x_supervisions_train.jsonl.gz")


def test_common_voice(tmp_path):
    """The columns of a release, with the clips in their folder; rows that are cut off or not UTF-8 are named."""
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"
    rows = [
        f"{speaker}\t{file}\t{text}\t2\t0\t\t\t\the\t"
        for speaker, file, text in (("s1", "a.mp3", 'אמר "שלום"'), ("s2", "b.mp3", "עולם"), ("s1", "c.mp3", ""))
    ]
    for file in ("a.mp3", "b.mp3", "c.mp3"):
        write_audio(tmp_path / "he" / "clips" / file, 2.0)
    path = write_rows(tmp_path / "he" / "validated.tsv", "\ufeff" + header, *rows, "s3\tc.mp3")
    path.write_bytes(path.read_bytes() + b"s3\tc.mp3\t\xff\t2\t0\t\t\t\the\t\n")
    utterances, ledger = read(path)
    assert [(u.text, u.speaker, u.language) for u in utterances] == [
        ('אמר "שלום"', "s1", "Hebrew"), ("עולם", "s2", "Hebrew"),
    ]  # fmt: skip
    assert [Path(u.audio.path).name for u in utterances] == ["a.mp3", "b.mp3"]
    assert [line.rule for line in ledger] == ["empty_text", "not_a_row", "not_utf8"]


def test_tsv_of_our_columns(tmp_path):
    write_audio(tmp_path / "a.wav")
    path = write_rows(
        tmp_path / "x.tsv", "wav\tsaid\tstart_s\tend_s", "a.wav\tone\t1.5\t2", "a.wav\ttwo\t\t", "a.wav\tx\ty\t"
    )
    utterances, ledger = read(path, columns={"audio": "wav", "text": "said"})
    assert spans(utterances) == [("a.wav@1.5", 1.5, 2.0), ("a.wav", 0.0, 6.0)]
    assert rules(ledger) == [("a.wav@y", "bad_span")]


@pytest.mark.parametrize(("key", "column"), [("start", "start_s"), ("end", "end_s"), ("spekaer", "speaker")])
def test_a_span_or_speaker_under_another_name_is_asked_about(tmp_path, key, column):
    """Without it the row would be the whole file, or anybody's."""
    write_audio(tmp_path / "a.wav")
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"audio": "a.wav", "text": "שלום", key: 0.5, "note": "kept"}), encoding="utf-8")
    with pytest.raises(DataError, match=f"has '{key}', which is not read, and no '{column}': name it in the recipe"):
        read(path)
    for columns in ({column: key}, {column: None}):
        assert read(path, columns=columns)[0]


def test_folder(tmp_path):
    """Each audio file with its .txt, in order of names; what lacks either half is named, links go in no circles."""
    folder = tmp_path / "corpus"
    for file in ("b/2.wav", "a/1.flac", "a/3.WAV", "c/4.wav", "c/5.wav", "c/6.wav"):
        write_audio(folder / file, 1.0)
    for file, text in {"b/2.txt": "שתיים\nשלוש\n", "a/1.txt": "אחת", "a/3.TXT": "", "c/orphan.txt": "x"}.items():
        (folder / file).write_text(text, encoding="utf-8-sig")
    (folder / "c" / "5.txt").write_bytes(b"\xff\xfe")
    os.mkfifo(folder / "c" / "6.txt")
    os.mkfifo(folder / "c" / "7.wav")
    (folder / "c" / "7.txt").write_text("a pipe")
    (folder / "c" / "circle").symlink_to(folder)
    (folder / ".hidden").mkdir()
    write_audio(folder / ".hidden" / "9.wav", 1.0)
    write_audio(tmp_path / "elsewhere" / "8.wav", 1.0)
    (tmp_path / "elsewhere" / "8.txt").write_text("linked")
    (folder / "d").symlink_to(tmp_path / "elsewhere")
    utterances, ledger = read(folder)
    assert [(u.id, u.text) for u in utterances] == [
        ("a/1.flac", "אחת"), ("b/2.wav", "שתיים\nשלוש"), ("d/8.wav", "linked"),
    ]  # fmt: skip
    assert rules(ledger) == [
        ("a/3.WAV", "empty_text"), ("c/4.wav", "missing_text"), ("c/5.wav", "not_utf8"), ("c/6.wav", "missing_text"),
        ("c/7.wav", "not_a_file"), ("c/orphan.txt", "missing_audio"),
    ]  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="has no rows"):
        read(empty)


@pytest.mark.parametrize(
    "content, shown",
    [
        ('{"wav": "a.wav", "words": "a"}\n', "its first row has the fields wav, words"),
        ("a.wav|one\n", "its first line is 'a.wav|one"),
        ("a.wav\tone\n", "its columns are a.wav, one"),
        (b"PAR1\x00\x01", r"its first line is 'PAR1"),
    ],
)
def test_what_is_not_known(tmp_path, content, shown):
    """One sentence that shows what the file holds and names all that is known."""
    path = tmp_path / "x.data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert shown in message and "\n" not in message
    assert all(name in message for name in ("NeMo", "Lhotse", "Common Voice", "folder", "columns", "parquet"))


def test_manifests_that_cannot_be_read(tmp_path):
    """A pipe would wait for ever, a device never end; half a gzip must not pass for a smaller data set."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    write_audio(tmp_path / "a.wav")
    rows = [{"audio": "a.wav", "text": "one", "id": i} for i in range(3000)]
    cut = write_rows(tmp_path / "cut.jsonl.gz", *rows)
    cut.write_bytes(cut.read_bytes()[:-2000])
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero"), tmp_path / "loop.jsonl", cut, tmp_path / "absent"):
        with pytest.raises(DataError, match=f"manifest {path} cannot be read: "):
            read(path)


def test_a_line_without_end(tmp_path, monkeypatch):
    """A line of many megabytes is passed over, not read; the lines around it keep their numbers."""
    monkeypatch.setattr(textfiles, "MAX_LINE_BYTES", 1000)
    write_audio(tmp_path / "a.wav")
    good = {"audio": "a.wav", "text": "one"}
    path = write_rows(tmp_path / "x.jsonl", good, {**good, "text": "x" * 5000}, good, {**good, "text": "x" * 1500})
    utterances, ledger = read(path)
    assert len(utterances) == 2 and rules(ledger) == [("line 2", "too_long_line"), ("line 4", "too_long_line")]
    assert [where for where, _ in open_manifest(DataSource(name="mine", manifest=path)).rows] == [
        "line 1", "line 2", "line 3", "line 4",
    ]  # fmt: skip
