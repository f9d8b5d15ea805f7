"""Requests that do harm: protects memory, disk and time of the server, and the requests of everybody else."""

import json
import socket
import struct
import tempfile
import time

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_audio import chirp, encode
from serving import Running, running

from shibolet.errors import AudioError
from shibolet.listen.processes import WorkerLost
from shibolet.serve import app
from shibolet.serve.config import Limits
from shibolet.serve.uploads import decode

FLAC, MP3, WAV = (encode(chirp(3.0), format=kind) for kind in ("FLAC", "MP3", "WAV"))
LIMITS = Limits(max_upload_mib=1.0, max_audio_s=10.0, upload_s=0.5)
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def server():
    """One for all of them: it has to answer after each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        with running(LIMITS) as one:
            yield one


@pytest.fixture(autouse=True)
def _goes_on(server):
    yield
    server.wait_for("requests", 0)
    assert send(server, FLAC).json() == {"text": "Hebrew 300"}


def send(one: Running, content: bytes, name: str = "a.flac", kind: str = "audio/flac", **fields) -> httpx.Response:
    return one.client.post(one.address + PATH, files={"file": (name, content, kind)}, data=fields)


def sentence(answer: httpx.Response, status: int) -> str:
    """What a refusal says, in OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error["message"]


def claiming(flac: bytes, num_samples: int) -> bytes:
    """A FLAC whose header promises so many samples."""
    high = bytes([flac[21] & 0xF0 | num_samples >> 32])
    return flac[:21] + high + (num_samples & 0xFFFFFFFF).to_bytes(4, "big") + flac[26:]


def promising(mp3: bytes, num_frames: int) -> bytes:
    at = max(mp3.find(b"Xing"), mp3.find(b"Info")) + 8
    return mp3[:at] + num_frames.to_bytes(4, "big") + mp3[at + 4 :]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no bytes in it"),
        (b"not audio" * 100, "not audio that can be read"),
        (bytes(100_000), "not audio that can be read"),
        (np.random.default_rng(0).bytes(50_000), "not audio that can be read"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "not audio that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "a playlist"),
        (FLAC[: len(FLAC) // 2], "is not whole: the header says 3.00 s"),
        (WAV[: len(WAV) // 2], "is not whole: the header says 3.00 s"),
        (FLAC[:50], "the upload"),
        (claiming(FLAC, 16_000 * 3600 * 20), "is not whole: the header says 72000.00 s"),
        (encode(np.zeros(16_000 * 60, np.float32), format="FLAC"), "its header says 60 s, and this server takes 10 s"),
        (WAV[:24] + struct.pack("<I", 1) + WAV[28:], "sample rate 1 Hz"),
    ],
)  # fmt: skip
def test_uploads_that_are_no_whole_short_recording(server, content, said):
    assert said in sentence(send(server, content), 400)


def test_headers_that_lie_do_not_decide_what_is_decoded():
    """A length in a header is a promise: the limit counts samples, and a broken promise is told."""
    hidden = encode(np.zeros(16_000 * 60, np.float32), format="FLAC")
    for content in (claiming(hidden, 16_000), claiming(hidden, 0), claiming(FLAC, 16_000 * 9), promising(MP3, 10**6)):
        started = time.monotonic()
        with pytest.raises(AudioError, match=r"too long|not whole"):
            decode(content, LIMITS)
        assert time.monotonic() - started < 5
    assert decode(promising(MP3, 20), LIMITS).duration_s == pytest.approx(3.0, abs=0.1)


def test_decoding_of_a_small_file_that_holds_a_day_ends_at_the_limit(monkeypatch):
    """24 h of silence is 3 MB of FLAC, and 5.5 GB of samples."""
    from shibolet.serve import uploads

    blocks = 0

    class Endless:
        start_s, notes, is_cut_short = 0.0, (), False

        def __iter__(self):
            nonlocal blocks
            while True:
                blocks += 1
                yield np.zeros(16_000 * 30, np.float32)

    monkeypatch.setattr(uploads, "stream", lambda content: Endless())
    with pytest.raises(AudioError, match="it is longer than 10 s"):
        decode(FLAC, LIMITS)
    assert blocks < 10


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/cron.d/x", "a\x00b.flac", "con.flac", "x" * 3000, "‮gnp"])
@pytest.mark.parametrize("kind", ["audio/flac", "text/html", "application/x-sh"])
def test_the_name_and_the_type_of_a_file_do_nothing(server, monkeypatch, tmp_path, name, kind):
    """What is too large for memory goes to disk without a name, and is gone with the request."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert send(server, FLAC, name, kind).json() == {"text": "Hebrew 300"}
    assert list(tmp_path.iterdir()) == []


def raw(one: Running, *parts: bytes, wait_s: float = 0.0, limit_s: float = 20.0) -> tuple[int, str]:
    """Status and message of what is answered to these bytes, sent one after the other."""
    answer = b""
    with socket.create_connection(("127.0.0.1", one.port), timeout=limit_s) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(wait_s)
        except OSError:  # it does not listen any longer
            pass
        while block := connection.recv(1 << 16):
            answer += block
            head, _, body = answer.partition(b"\r\n\r\n")
            if b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n" and body:
                break
    return int(head.split()[1]), json.loads(body)["error"]["message"]


def head(kind: str = "multipart/form-data; boundary=X", length: int | None = None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\n{size}\r\n\r\n".encode()


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--X\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


FILE = part("file", FLAC, '; filename="a.flac"')


def test_a_body_without_end(server):
    """Chunks that never stop; it is refused at the limit, and the connection is let go soon after."""
    block = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    begin = part("file", b"", '; filename="a"')
    status, said = raw(server, head(), b"%x\r\n%s\r\n" % (len(begin), begin), *[block] * 400)
    assert status == 413 and "larger than 1 MiB" in said


def test_a_body_that_is_announced_as_huge_is_not_waited_for(server):
    started = time.monotonic()
    status, said = raw(server, head(length=10**12), bytes(1000))
    assert status == 413 and "larger than 1 MiB" in said and time.monotonic() - started < 10


def test_a_body_that_comes_by_the_byte(server):
    started = time.monotonic()
    status, said = raw(server, head(length=100_000), *[bytes([one]) for one in FILE[:8]], wait_s=0.1)
    assert time.monotonic() - started < 5
    assert status == 408 and "in 0.5 s" in said


def test_who_leaves_in_the_middle_holds_no_place(server):
    """`_goes_on` finds no request in hand."""
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(length=100_000) + FILE[:2000])


def test_who_leaves_while_it_is_heard_leaves_no_work(server):
    """Pages are closed; what nobody waits for must not hold up the others."""
    server.may_write.clear()
    body = FILE + b"--X--\r\n"
    ones = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for one in ones:
        server.writes.clear()
        one.sendall(head(length=len(body)) + body)
        assert one is not ones[0] or server.writes.wait(20)
    server.wait_for("waiting_s", 6.0)
    for one in ones:
        one.close()
    server.wait_for("waiting_s", 0.0)
    server.may_write.set()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (FILE + b"".join(part(f"f{i}", b"x") for i in range(1000)), 400, "Too many fields"),
        (FILE * 2, 400, "Too many files"),
        (part("file", FLAC), 400, "the form"),
        (part("prompt", b"x" * 100_000) + FILE, 400, "the form cannot be read"),
        (part("language", b"he") * 2 + FILE, 400, "given twice"),
        (part("model", FLAC, '; filename="m"'), 400, "is a file, and should be a text"),
        (b"--X\r\nContent-Disposition: form-data\r\n\r\nx\r\n", 400, "the form cannot be read"),
        (b"--X\r\n" + b"A: b\r\n" * 5000 + b"\r\nx\r\n", 400, "the form cannot be read"),
        (b"--X\r\n" + b"A" * 500_000 + b": b\r\n\r\nx\r\n", 400, "the form cannot be read"),
        (b"", 400, "the form"),
        (b"no form at all", 400, "the form cannot be read"),
        (part("language", b"\xff\xfe") + FILE, 400, "is not known here"),
    ],
)
def test_forms_that_are_none_or_too_many(server, body, status, said):
    body += b"--X--\r\n"
    found, sentence = raw(server, head(length=len(body)), body)
    assert found == status and said in sentence


@pytest.mark.parametrize(
    "kind", ["application/json", "audio/flac", "application/x-www-form-urlencoded", "", "multipart/mixed; boundary=X"]
)
def test_other_content_types_are_told_what_to_send(server, kind):
    status, said = raw(server, head(kind, len(FILE)), FILE)
    assert status == 415 and "send multipart/form-data" in said


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; x="'])
def test_a_form_without_a_boundary(server, kind):
    status, said = raw(server, head(kind, len(FILE)), FILE)
    assert status == 400 and "the form cannot be read" in said


PIECES = st.one_of(
    st.binary(max_size=50),
    st.sampled_from([b"--X", b"--X--", b"\r\n", b"\r\n\r\n", b'Content-Disposition: form-data; name="file"', b":", b'"',
                     b'; filename="', b"Content-Disposition: ", b"Content-Type: x; charset=utf-7", FILE, b"--"]),
)  # fmt: skip


def test_random_forms_are_answered(server):
    kind = {"Content-Type": "multipart/form-data; boundary=X"}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(body=st.lists(PIECES, max_size=12).map(b"".join))
    def is_answered(body: bytes) -> None:
        answer = server.client.post(server.address + PATH, content=body, headers=kind)
        assert answer.status_code == 200 or sentence(answer, 400)

    is_answered()


def test_a_model_that_fails_is_told_and_the_server_goes_on(server):
    """A defect of a library must not end what others use."""
    content = encode(chirp(1.0)[:1234], format="WAV")
    assert "the model failed" in sentence(send(server, content), 500)


def test_a_decoder_that_crashes_refuses_one_upload(server, monkeypatch):
    """A file that ends its process, or keeps it busy for ever, is its sender's own trouble."""

    def lose(worker, given):
        raise WorkerLost("decoder_crashed", "the decoder crashed")

    with monkeypatch.context() as patch:
        patch.setattr(app, "decode_beside", lose)
        answer = send(server, FLAC)
    assert "the decoder crashed" in sentence(answer, 400) and answer.json()["error"]["code"] == "decoder_crashed"


def test_a_key_with_other_letters_is_no_defect():
    """Headers are bytes; a comparison of such texts would raise."""
    with running(LIMITS, key="secret") as one:
        request = head(length=len(FILE)).replace(b"Host", b"Authorization: Bearer \xe4\xff\r\nHost")
        assert raw(one, request, FILE)[0] == 401
