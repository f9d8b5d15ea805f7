"""Kept hashes: protect from hashing 10 GB at every start, and from believing a hash of other bytes."""

import os
import time

import pytest

from shibolet.records import files
from shibolet.records.files import hash_file, read_json, write_json


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large and that nobody has changed for a while."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_KEPT_BYTES", 4)
    monkeypatch.setattr(files, "_SETTLED_S", -1.0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def kept_in(tmp_path):
    return list((tmp_path / "cache").rglob("hashes/*.json"))


def test_a_large_file_is_hashed_once_until_it_changes(large, tmp_path, monkeypatch):
    first = hash_file(large)
    [place] = kept_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.hashlib, "file_digest", None)  # would be called
        assert hash_file(large) == first
    times = large.stat()
    time.sleep(0.02)  # the clock of the file system
    large.write_bytes(b"weighty")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and the same time of writing
    assert hash_file(large) != first
    assert len(kept_in(tmp_path)) == 1 and place.exists()


@pytest.mark.parametrize("broken", ["cut", "other hash", "list", "folder"])
def test_a_kept_hash_that_is_not_whole_is_not_believed(large, tmp_path, broken):
    first = hash_file(large)
    [place] = kept_in(tmp_path)
    if broken == "cut":
        place.write_bytes(place.read_bytes()[:20])
    elif broken == "other hash":
        write_json(place, read_json(place) | {"hash": "0" * 16})
    elif broken == "list":
        write_json(place, [1])
    else:
        place.unlink()
        place.mkdir()
    assert hash_file(large) == first


def test_a_file_that_has_just_changed_is_hashed_again(large, tmp_path, monkeypatch):
    """Two changes within a tick of the clock leave the same times."""
    monkeypatch.setattr(files, "_SETTLED_S", 3600.0)
    hash_file(large)
    assert not kept_in(tmp_path)


def test_a_file_that_changes_while_it_is_hashed_is_not_kept(large, tmp_path, monkeypatch):
    """However long hashing takes: what counts is how long the file was left alone before."""
    real = files.hashlib.file_digest

    def and_grow(file, name):
        found = real(file, name)
        with large.open("ab") as more:
            more.write(b"more")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(files.hashlib, "file_digest", and_grow)
        hash_file(large)
    assert not kept_in(tmp_path)
    monkeypatch.setattr(files, "_SETTLED_S", 0.5)

    def slowly(file, name):
        time.sleep(0.6)
        return real(file, name)

    large.write_bytes(b"just now")
    with monkeypatch.context() as patch:
        patch.setattr(files.hashlib, "file_digest", slowly)
        hash_file(large)
    assert not kept_in(tmp_path)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(large, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(hash_file(large)) == 16
