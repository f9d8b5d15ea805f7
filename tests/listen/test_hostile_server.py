"""Servers that do harm: protects the key and the audio, the memory and the time of whoever transcribes by one."""

import json
import re
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shibolet.errors import RecipeError, ServerError
from shibolet.listen import http_client
from shibolet.listen import server as module
from shibolet.listen.server import ServerEngine
from shibolet.recipe import load_recipe

CLIP = np.full(16000, 0.1, np.float32)
OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def listening(answer):
    """(address, requests so far) of a server that reads a request and then calls `answer` with its socket."""
    requests = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def one(connection: socket.socket) -> None:
            with connection:
                sent = b""
                while b"\r\n\r\n" not in sent:
                    sent += connection.recv(1 << 16)
                head, _, body = sent.partition(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
                )
                while len(body) < length:
                    body += connection.recv(1 << 16)
                requests.append(head.decode())
                try:
                    answer(connection)
                except OSError:  # the client has gone
                    pass

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", requests
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(module, "WAITS_S", (0.0,))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(module.KEY_VARIABLE, "sk-secret")


def says(body: bytes, head: bytes = OK):
    return lambda connection: connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def refused(address: str) -> str:
    """The sentence that a transcription ends with."""
    with pytest.raises(ServerError) as caught:
        ServerEngine(address, model="m").transcribe([CLIP])
    sentence = str(caught.value)
    assert sentence.isprintable() and len(sentence) < 700 and address in sentence and "sk-secret" not in sentence
    return sentence


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_neither_key_nor_audio_anywhere(status: int):
    """An open redirect, or a server that was taken over, would have the key and would write the transcript."""
    with listening(says(b'{"text": "stolen", "data": [{"id": "m"}]}')) as (elsewhere, stolen):
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}/v1/x\r\n".encode()
        with listening(says(b"", head)) as (address, requests):
            assert f"{address}/v1/audio/transcriptions answered {status}" in refused(address)
            assert f"sends on to {elsewhere}/v1/x" in refused(address)
            with pytest.raises(ServerError, match=f"sends on to {elsewhere}"):
                ServerEngine(address)  # which asks for its models with GET
            assert stolen == [] and all("sk-secret" in request for request in requests)


def drip(head: bytes, drop: bytes):
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(drop)
            time.sleep(0.02)

    return answer


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (OK + b"Content-Length: 1000000\r\n\r\n", b" "),
        (OK + b"\r\n", b" "),  # until the connection is closed
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1", b"0"),
        (OK, b"x"),
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", b"x"),
        (b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:9/\r\n\r\n", b"x"),
    ],
    ids=["length", "no-length", "chunks", "size-of-a-chunk", "header", "status", "continue", "error", "redirect"],
)
def test_an_answer_that_comes_byte_by_byte_ends(head: bytes, drop: bytes, monkeypatch):
    """A socket's timeout starts anew with each byte: such a server held a round for ever."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.4)
    with listening(drip(head, drop)) as (address, requests):
        started = time.monotonic()
        assert "no whole answer within 0.4 s, 2 times" in refused(address)
        assert time.monotonic() - started < 4 and len(requests) == 2


@pytest.mark.parametrize("head", [OK, b"HTTP/1.1 500 Oh\r\n"])
def test_an_endless_answer_is_not_kept(head: bytes):
    block, sent = b" " * (1 << 20), []

    def pour(connection: socket.socket) -> None:
        connection.sendall(head + b"\r\n")
        while True:
            connection.sendall(block)
            sent.append(len(block))

    with listening(pour) as (address, requests):
        assert "answered more than 4 MiB" in refused(address)
        assert len(requests) == 1 and sum(sent) < http_client.MAX_ANSWER_BYTES + (16 << 20)  # what the system buffers


def test_half_an_answer_is_asked_for_again():
    with listening(lambda c: c.sendall(OK + b'Content-Length: 99\r\n\r\n{"text": "a"}')) as (address, requests):
        assert "cannot be reached: IncompleteRead" in refused(address) and len(requests) == 2


SHAPES = {
    b"[]": r"without a text: \[\]",
    b"null": "without a text: None",
    b'"text"': "without a text",
    b'{"text": null}': "without a text",
    b'{"text": 7}': "without a text",
    b'{"text": ["a"]}': "without a text",
    b'{"text": NaN}': "without a text",
    b"[" * 100_000: r"no JSON \(it is nested too deeply",
    b'{"text": "\xff"}': "no JSON",
    b"7" * 5000: "no JSON",
    b"": "no JSON",
    b"{": "no JSON",
    b"\x1b[31mred": "no JSON",
    b'{"text": "\\ud800"}': "with halves of characters",
    b'{"text": "' + b"x" * 100_001 + b'"}': "of 100,001 characters for 1.0 s",
    b'{"error": "\\u001b[2J\\u202e"}': "without a text",
}


@pytest.mark.parametrize("body", SHAPES, ids=range(len(SHAPES)))
def test_an_answer_of_another_shape_is_one_sentence(body: bytes):
    with listening(says(body)) as (address, _):
        assert re.search(SHAPES[body], refused(address))


def test_a_compressed_answer_says_so():
    with listening(says(b"\x1f\x8b", OK + b"Content-Encoding: gzip\r\n")) as (address, _):
        assert "is compressed, as gzip" in refused(address)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"data": [[]]}',
        b'{"data": [{"id": 3}]}',
        b'{"data": [{"id": "a\\nb"}]}',
        b'{"data": 7}',
        b'{"data": "ab"}',
        b"{}",
    ],
)
def test_a_list_of_models_of_another_shape_is_one_sentence(body: bytes):
    with listening(says(body)) as (address, _), pytest.raises(ServerError, match="no list of models"):
        ServerEngine(address)


def test_a_key_is_not_shown(monkeypatch):
    with listening(says(b'{"error": {"message": "bad key: sk-secret"}}', b"HTTP/1.1 401 No\r\n")) as (address, _):
        assert "bad key: (the key)" in refused(address)
    with listening(says(b"", b"HTTP/1.1 302 No\r\nLocation: http://x/?sk-secret\r\n")) as (address, _):
        assert "http://x/?(the key)" in refused(address)
    with listening(says(b'{"said": "sk-secret"}')) as (address, _):
        assert "(the key)" in refused(address)
    monkeypatch.setenv(module.KEY_VARIABLE, "sk-secret\r\nHost: x")
    with pytest.raises(RecipeError, match="OPENAI_API_KEY has a space, a line's end") as caught:
        ServerEngine("http://127.0.0.1:9", model="m")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost", "file:///etc/passwd", "ftp://host/x", "http://", "http://host:x", "http://host:99999", "//host",
        "http://ho st", "http://host\r\nX: y", "http://[::1", "http://user:word@host", "http://host/?a=b", "http://h#x",
        "http://" + "a" * 70, "http://שרת", "",
    ],
)  # fmt: skip
def test_what_is_no_address_is_said_before_anything_runs(url: str):
    """urllib would open files and FTP."""
    with pytest.raises(RecipeError):
        ServerEngine(url, model="m")
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", ["evaluate.servers.baseline=" + json.dumps({"url": url})])
    assert "\n" not in str(caught.value) and "word" not in str(caught.value).replace("password", "")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "data", "id", "error", "message"]) | st.text(max_size=3), inner)
    ),
    max_leaves=8,
)


def fuzzed(num: int):
    return settings(max_examples=num, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def check_any_answer(status: int, content: bytes, target: str | None) -> None:
    """Whatever is answered is a text, or one sentence of the right kind."""
    headers = http_client.HTTPMessage()
    if target is not None:
        headers["Location"] = target
    answer = http_client.Answer(status, "reason", headers, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "exchange", lambda *_: answer)
        patch.setattr(module, "WAITS_S", ())
        for ask in (lambda: ServerEngine("http://h", model="m").transcribe([CLIP]), lambda: ServerEngine("http://h")):
            try:
                ask()
            except ServerError as error:
                assert str(error).isprintable() and len(str(error)) < 1000


BODIES = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
STATUSES = st.sampled_from([200, 204, 302, 400, 401, 500, 503, 999])
ANSWERS = {"status": STATUSES, "content": BODIES, "target": st.none() | st.text(max_size=20)}


@fuzzed(50)
@given(**ANSWERS)
def test_any_answer_is_a_text_or_a_sentence(status: int, content: bytes, target: str | None):
    check_any_answer(status, content, target)


@pytest.mark.slow("fuzz", seconds=45)
@fuzzed(10_000)
@given(**ANSWERS)
def test_ten_thousand_answers_are_texts_or_sentences(status: int, content: bytes, target: str | None):
    check_any_answer(status, content, target)
