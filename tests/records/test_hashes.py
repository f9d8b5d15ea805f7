"""Kept hashes: protect from hashing 10 GB at every start, and from believing a hash of other bytes."""

import hashlib
import os
import time

import pytest

from shibolet.records import files
from shibolet.records.files import digest_file, hash_file, hash_files, read_json, remember_hash, write_json
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import content_hash


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
        patch.setattr(files, "_digest", None)  # would be called
        assert hash_file(large) == first
    times = large.stat()
    time.sleep(0.02)  # the clock of the file system
    large.write_bytes(b"weighty")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and the same time of writing
    assert hash_file(large) != first
    assert len(kept_in(tmp_path)) == 1 and place.exists()


def test_a_long_recording_is_hashed_once_by_who_needs_all_digits(large, monkeypatch):
    """Each process that cuts utterances out of it would else read all of it; 16 digits do not pass as all 64."""
    remember_hash(large, "0" * 16)
    assert digest_file(large) == hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(files, "_digest", None)  # would be called
    assert content_hash(AudioRef(path=str(large))) == digest_file(large) == hashlib.sha256(b"weights").hexdigest()
    assert hash_file(large) == digest_file(large)[:16]


def test_a_hash_is_kept_without_waiting_for_the_disk(large, tmp_path, monkeypatch):
    """A checkpoint has dozens of files, and a busy disk takes a second to sync one."""
    for call in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(files.os, call, None)  # would be called
    monkeypatch.setattr(files, "_SETTLED_S", 3600.0)
    remember_hash(large, "0" * 16)
    assert hash_file(large) == "0" * 16
    assert len(kept_in(tmp_path)) == 1 and not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.parametrize("broken", ["empty", "cut", "other hash", "list", "folder"])
def test_a_kept_hash_that_is_not_whole_is_not_believed(large, tmp_path, broken):
    first = hash_file(large)
    [place] = kept_in(tmp_path)
    if broken == "empty":  # as a crash of the machine leaves it
        place.write_bytes(b"")
    elif broken == "cut":
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
    real = files._digest

    def and_grow(file):
        found = real(file)
        with large.open("ab") as more:
            more.write(b"more")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(files, "_digest", and_grow)
        hash_file(large)
    assert not kept_in(tmp_path)
    monkeypatch.setattr(files, "_SETTLED_S", 0.5)

    def slowly(file):
        time.sleep(0.6)
        return real(file)

    large.write_bytes(b"just now")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_digest", slowly)
        hash_file(large)
    assert not kept_in(tmp_path)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(large, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(hash_file(large)) == 16


def test_a_hash_is_found_under_every_name_of_a_file(large, tmp_path, monkeypatch):
    """A folder that is renamed once it is whole, as the trained model is, would otherwise be read again."""
    (tmp_path / ".final.partial").mkdir()
    written = tmp_path / ".final.partial" / "model.safetensors"
    written.write_bytes(b"trained")
    first = hash_file(written)
    (tmp_path / ".final.partial").rename(tmp_path / "final")
    monkeypatch.setattr(files, "_digest", None)  # would be called
    assert hash_file(tmp_path / "final" / "model.safetensors") == first


def test_what_was_hashed_while_it_was_written_is_not_read_again(large, tmp_path, monkeypatch):
    found = hash_file(large)
    large.write_bytes(b"written")
    monkeypatch.setattr(files, "_SETTLED_S", 3600.0)  # by itself, `hash_file` would keep nothing of it yet
    fresh = hash_file(large)
    assert fresh != found
    remember_hash(large, fresh)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_digest", None)  # would be called
        assert hash_file(large) == fresh
    link = tmp_path / "final.safetensors"
    os.link(large, link)  # which changes the times of both
    remember_hash(link, fresh)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_digest", None)
        assert hash_file(link) == hash_file(large) == fresh


def test_a_change_right_after_a_hash_was_remembered_is_seen(large, monkeypatch):
    """However coarse the clock of the disk: it has gone on before anything is kept."""
    monkeypatch.setattr(files, "_SETTLED_S", 2.0)
    for number in range(50):
        large.write_bytes(b"%07d" % number)
        before = hash_file(large)
        remember_hash(large, before)
        times = large.stat()
        large.write_bytes(b"changed")
        os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert hash_file(large) != before


def test_a_disk_whose_clock_stands_still_has_nothing_remembered(large, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_SETTLED_S", 0.05)
    monkeypatch.setattr(files.os, "utime", lambda *_: None)
    before = tmp_path / "before"
    before.touch()
    time.sleep(0.02)
    large.write_bytes(b"written")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda dir: before.open())
    remember_hash(large, hash_file(large))
    assert not kept_in(tmp_path)


def test_several_files_have_their_own_hashes_in_order(large, tmp_path):
    paths = [tmp_path / f"{number}.safetensors" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % (10 ** (number % 8)) + b"%d" % number)  # small ones and large ones
    assert hash_files(paths[::-1]) == [hash_file(path) for path in paths[::-1]]
    assert len(set(hash_files(paths))) == len(paths)
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        hash_files([*paths, tmp_path / "gone"])


@pytest.mark.parametrize("num_bytes", [0, 1, 99, 100, 101, 1000])
def test_a_hash_is_of_all_bytes_whatever_a_block_holds(tmp_path, monkeypatch, num_bytes):
    monkeypatch.setattr(files, "_BLOCK_BYTES", 100)
    content = bytes(number % 251 for number in range(num_bytes))
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()[:16]
