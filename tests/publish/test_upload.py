"""Uploads against a Hub on this machine: protects from an upload that is lost, half there, public, or sent twice."""

import hashlib
from pathlib import Path

import pytest

from shibolet.errors import UploadError
from shibolet.publish.upload import upload_folder

SMALL = {"README.md": b"---\nlanguage: he\n---\n\n# name\n", "config.json": b"{}\n"}
LARGE = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 70_000 for i in (1, 2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name, content in (SMALL | LARGE).items():
        (path / name).write_bytes(content)
    return path


def send(folder: Path, to: str = "org/name") -> str:
    return upload_folder(folder, to, private=True, message="Round 2", wait=lambda seconds: None)


def is_whole(hub, to: str = "org/name") -> bool:
    expected = SMALL | {name: hashlib.sha256(content).hexdigest() for name, content in LARGE.items()}
    stored = all(hub.large.get(hashlib.sha256(content).hexdigest()) == content for content in LARGE.values())
    return hub.repos[to]["files"] == expected and (hub.way == "xet" or stored)


def test_a_whole_upload_is_seen_and_private(hub, folder):
    assert send(folder) == f"{hub.url}/org/name/commit/{'1' * 40}"
    assert is_whole(hub) and hub.repos["org/name"]["private"] in (True, "private")
    called = " ".join(hub.requests)
    for endpoint in ("/api/repos/create", "/preupload/main", "/commit/main"):
        assert endpoint in called
    assert ("/info/lfs/objects/batch" in called) == (hub.way == "lfs") != ("/xet-write-token/main" in called)
    if hub.way == "xet":
        assert any(path.is_file() for path in hub.xet_store.rglob("*"))


@pytest.mark.parametrize("answer_lost", [False, pytest.param(True, marks=pytest.mark.slow("publish", seconds=5))])
def test_cut_off_at_any_request_the_next_call_completes_it(hub, folder, answer_lost, monkeypatch):
    monkeypatch.setattr("shibolet.publish.upload.ATTEMPTS", 1)
    send(folder, "org/whole")
    num_requests = len(hub.requests)
    assert num_requests >= 5
    for cut in range(num_requests):
        hub.repos.clear(), hub.large.clear(), hub.requests.clear()
        hub.cut, hub.answer_lost = cut, answer_lost
        with pytest.raises(UploadError, match="the upload to 'org/name' did not finish"):
            send(folder)
        hub.cut = None
        send(folder)
        assert is_whole(hub), f"cut at {cut}"


def test_a_second_upload_sends_nothing_again(hub, folder):
    send(folder)
    hub.requests.clear()
    send(folder)
    assert not [request for request in hub.requests if "/commit/" in request or "/objects/" in request.split("lfs")[0]]
    assert is_whole(hub)


def test_shards_of_an_earlier_export_go(hub, folder):
    hub.repos["org/name"] = {"private": True, "files": {"model-00003-of-00003.safetensors": "0" * 64, "notes.txt": b""}}
    send(folder)
    assert hub.repos["org/name"]["files"].pop("notes.txt") == b""
    assert is_whole(hub)


def test_a_short_failure_is_waited_out(hub, folder, monkeypatch):
    waits, answer = [], hub.answer

    def refuse_once(method, path, body):
        if "create" in path and not waits:
            return 503, {}, {}
        return answer(method, path, body)

    hub.answer = refuse_once
    upload_folder(folder, "org/name", private=True, message="Round 2", wait=waits.append)
    assert len(waits) == 1 and is_whole(hub)


def test_a_refusal_is_not_asked_again(hub, folder):
    hub.answer = lambda method, path, body: (403, {"error": "no right to write in org"}, {})
    with pytest.raises(UploadError, match=r"did not finish: .*403"):
        send(folder)
    assert sum("create" in request for request in hub.requests) == 1


def test_without_a_token_nothing_is_asked(hub, folder, monkeypatch):
    monkeypatch.setattr("shibolet.publish.upload.get_token", lambda: None)
    with pytest.raises(UploadError, match="hf auth login"):
        send(folder)
    assert not hub.requests
