"""Objects of a store: protects from half an object, from a changed one, and from errors that do not say what to do."""

import hashlib
import sys

import pytest

from shibolet.errors import StoreError
from shibolet.records import objects, store
from shibolet.records.files import digest_file, hash_file
from shibolet.records.objects import local_file


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """A request is tried twice: the driver's wait is then under a second."""
    monkeypatch.setattr(store, "TRIES", 2)


def test_a_path_is_no_url():
    assert store.is_url("s3://b/x") and store.is_url("gs://b/x")
    assert not any(map(store.is_url, ("b/x", "/b/x", "file:///x", "http://b/x", "s3:/b/x", None)))
    assert store.joined("s3://b/a", "../c/x.wav") == "s3://b/c/x.wav"


def test_an_object_is_fetched_once_and_again_when_it_changes(object_store):
    url = object_store.put("a/x.wav", b"first")
    copy = local_file(url)
    assert (copy.read_bytes(), copy.suffix) == (b"first", ".wav")
    before = object_store.requests.copy()
    assert local_file(url) == copy and object_store.requests == before  # this process knows it
    objects._KNOWN.clear()
    assert local_file(url) == copy and object_store.requests["GET"] == before["GET"]  # the next one looks only
    object_store.put("a/x.wav", b"other")
    assert local_file(url).read_bytes() == b"first"  # a stage works on one version
    objects._KNOWN.clear()
    assert local_file(url).read_bytes() == b"other"


def test_a_large_object_comes_in_parts_and_is_hashed_on_its_way(object_store, monkeypatch, tmp_path):
    content = bytes(range(256)) * (70 << 10)  # 17.5 MiB: a hash that is kept
    copy = local_file(object_store.put("big.wav", content))
    assert object_store.requests["GET"] == 3 and copy.read_bytes() == content
    read = []
    monkeypatch.setattr("shibolet.records.files._digest", read.append)
    assert digest_file(copy) == hashlib.sha256(content).hexdigest() and not read


def test_an_object_that_changes_between_its_parts_is_read_again(object_store, monkeypatch):
    monkeypatch.setattr(objects, "_BLOCK_BYTES", 4)
    url, parts = object_store.put("x.wav", b"aaaabbbb"), []
    read = store.read

    def read_and_change(url: str, start: int, end: int) -> bytes:
        parts.append(read(url, start, end))
        if len(parts) == 1:
            object_store.put("x.wav", b"ccccdddd")
        return parts[-1]

    monkeypatch.setattr(store, "read", read_and_change)
    assert local_file(url).read_bytes() == b"ccccdddd" and len(parts) == 4


def test_refusals_of_a_busy_store_are_waited_out_and_are_bounded(object_store):
    url = object_store.put("x.wav", b"sound")
    object_store.refuse_every = 2
    assert local_file(url).read_bytes() == b"sound" and object_store.refused == 1
    store.write(f"{store.parent_of(url)}/y", b"written")
    assert object_store.get("y") == b"written"


def test_a_store_that_refuses_for_good_is_given_up_with_its_last_word(object_store):
    object_store.refuse_every = 1
    with pytest.raises(StoreError, match=r"s3://speech/y cannot be written, after repeated tries: .*Errno 16"):
        store.write("s3://speech/y", b"")
    assert 2 <= object_store.refused <= 4


def test_what_cannot_be_had_is_one_sentence(object_store, monkeypatch):
    with pytest.raises(store.NoObject, match=r"speech/none.wav cannot be read: .* no such object, folder or bucket"):
        local_file("s3://speech/none.wav")
    with pytest.raises(store.NoObject, match=r"s3://nobody/x cannot be read"):
        local_file("s3://nobody/x")
    object_store.put("folder/x", b"")
    with pytest.raises(store.IsFolder, match=r"s3://speech/folder is a folder"):
        local_file("s3://speech/folder")
    assert objects.exists("s3://speech/folder/") and not objects.exists("s3://speech/other/")
    object_store.denies = ("HEAD", "GET")
    with pytest.raises(StoreError, match=r"s3://speech/folder/x cannot be read: Forbidden.* credentials"):
        local_file("s3://speech/folder/x")


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StoreError, match=r"the driver for gs:// is not installed; pip install gcsfs"):
        local_file("gs://speech/x")


def test_a_path_of_this_machine_stays_what_it_is(tmp_path):
    assert local_file(str(tmp_path)) == tmp_path
    (tmp_path / "x").write_bytes(b"x")
    assert objects.exists(tmp_path / "x") and not objects.exists(tmp_path / "y") and hash_file(tmp_path / "x")
