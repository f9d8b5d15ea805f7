"""Manifests of our own: they read back as written, move with their folder, and their hash sees what matters."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shibolet.errors import DataError
from shibolet.records.manifest import manifest_hash, read_manifest, write_manifest
from shibolet.records.utterance import AudioRef, Utterance


@pytest.fixture
def utterances(tmp_path):
    """One utterance inside the manifest's folder, one outside, one with text that splits lines elsewhere."""
    (tmp_path / "run" / "audio").mkdir(parents=True)
    inside, outside = tmp_path / "run" / "audio" / "a.flac", tmp_path / "b.parquet"
    inside.write_bytes(bytes(1000))
    outside.write_bytes(os.urandom(300_000))
    return [
        Utterance(id="a", audio=AudioRef(path=str(inside)), text="שלום", duration_s=1.25, source="s"),
        Utterance(
            id="b", audio=AudioRef(path=str(outside), row=3, column="sound", start_s=0.1, end_s=0.3),
            text="x\u2028y\x85z", duration_s=0.2, source="s", recording="r", speaker="p", domain="d", language="Hebrew",
            flags=("noisy",),
        ),
    ]  # fmt: skip


def test_round_trip(tmp_path, utterances):
    path = tmp_path / "run" / "manifest.jsonl"
    write_manifest(path, utterances)
    assert read_manifest(path) == utterances
    paths = [json.loads(line)["audio"]["path"] for line in path.read_text().split("\n") if line]
    assert paths == ["audio/a.flac", str(tmp_path / "b.parquet")]
    write_manifest(path, [])
    assert read_manifest(path) == []


def test_moved_folder(tmp_path, utterances):
    """A run that is copied to another disk still finds its audio and counts as unchanged."""
    write_manifest(tmp_path / "run" / "manifest.jsonl", utterances)
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    moved = read_manifest(tmp_path / "moved" / "manifest.jsonl")
    assert moved[0].audio.path == str(tmp_path / "moved" / "audio" / "a.flac")
    assert manifest_hash(moved) == manifest_hash(utterances)


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', '{"audio": {}, "text": 1}', "\udcff"])
def test_lines_that_are_not_ours(tmp_path, utterances, line):
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, utterances[:1])
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="line 2 is not an utterance"):
        read_manifest(path)


def test_missing_files(tmp_path, utterances):
    with pytest.raises(DataError, match=r"absent.jsonl cannot be read"):
        read_manifest(tmp_path / "absent.jsonl")
    os.remove(utterances[0].audio.path)
    with pytest.raises(DataError, match=r"a.flac cannot be read"):
        manifest_hash(utterances)


def test_hash_sees_every_change(utterances):
    """A stage that is skipped although its input changed would report the run before."""
    known = manifest_hash(utterances)
    assert known == manifest_hash(list(utterances)) and len(known) == 16
    first, second = utterances
    changed = [
        [second, first],
        [first],
        [replace(first, text="שלומ"), second],
        [replace(first, speaker="q"), second],
        [first, replace(second, audio=replace(second.audio, row=4))],
        [first, replace(second, audio=replace(second.audio, end_s=0.31))],
        [replace(first, audio=second.audio), second],
    ]
    hashes = {manifest_hash(variant) for variant in changed}
    assert len(hashes) == len(changed) and known not in hashes


@pytest.mark.parametrize("offset", [0, 150_000, 299_999])
def test_hash_sees_audio(utterances, offset):
    """The same name with other bytes: at the head, in the middle, at the tail of a large file."""
    known = manifest_hash(utterances)
    path = utterances[1].audio.path
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # some file systems keep coarse times
    assert manifest_hash(utterances) != known


def test_of_a_test_set_every_byte_counts(utterances):
    """A test set's audio is hashed whole: its scores decide."""
    sampled, whole = manifest_hash(utterances), manifest_hash(utterances, whole=True)
    path = utterances[1].audio.path
    with open(path, "r+b") as file:
        file.seek(100_000)  # between the samples
        byte = file.read(1)[0]
        file.seek(100_000)
        file.write(bytes([byte ^ 1]))
    assert manifest_hash(utterances) == sampled and manifest_hash(utterances, whole=True) != whole


@pytest.mark.parametrize("folder", ["/run", "/run/", "run", "/", "/a//b/../run"])
def test_paths_below_a_folder_are_those_that_pathlib_finds(folder, monkeypatch, tmp_path):
    """Most paths are whole and are not taken apart for it; whatever else is written must come to the same."""
    monkeypatch.chdir(tmp_path)
    for path in ("/run/a.wav", "/runs/a.wav", "run/a.wav", "./run/a.wav", "/run/./a.wav", "/run//a/../b.wav", "a.wav",
                 "/run/.a.wav", "/run/a/", "/a/b/../run/a.wav"):  # fmt: skip
        whole, below = Path(path).absolute(), Path(folder).absolute()
        expected = str(whole.relative_to(below) if whole.is_relative_to(below) else whole)
        ref = AudioRef(path=path, row=2, column="sound", start_s=0.5, end_s=1.0)
        assert ref.from_folder(Path(folder)) == replace(ref, path=expected), path


def test_all_of_the_audio_of_a_span():
    """Spans of one file are hashed as one."""
    ref = AudioRef(path="a.parquet", row=2, column="sound", start_s=0.5, end_s=1.0)
    whole = AudioRef(path="a.parquet", row=2, column="sound")
    assert ref.whole() == replace(ref, start_s=0.0).whole() == replace(ref, end_s=None).whole() == whole
    assert whole.whole() is whole
