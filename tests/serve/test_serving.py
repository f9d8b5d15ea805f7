"""The server and the clients that people have: OpenAI's, curl, and shibolet's own."""

import json
import shutil
import subprocess
import threading
from pathlib import Path

import httpx
import openai
import pytest
from made_audio import chirp, encode
from serving import Lengths

from shibolet.listen.recordings import hear_recordings
from shibolet.listen.server import ServerEngine
from shibolet.serve.config import Limits
from shibolet.serve.desk import Told
from shibolet.serve.run import served_name


def flac(duration_s: float) -> bytes:
    return encode(chirp(duration_s), format="FLAC")


def client_of(address: str, key: str = "k", **settings) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=30, **settings)


def post(address: str, content: bytes = b"", headers: dict | None = None, **fields) -> httpx.Response:
    files = {"file": ("a.flac", content)} if content else {"nothing": (None, "")}
    return httpx.post(f"{address}/v1/audio/transcriptions", files=files, data=fields, headers=headers, timeout=30)


def test_the_openai_client_gets_every_form(serve):
    """Pages and phones are written against it."""
    one = serve()
    client = client_of(one.address)
    create = client.audio.transcriptions.create
    audio = ("a.flac", flac(1.0))
    assert create(model="org/asr", file=audio).text == "Hebrew 100"
    assert create(model="org/asr", file=audio, response_format="text") == "Hebrew 100\n"
    assert create(model="org/asr", file=audio, response_format="srt") == (
        "1\n00:00:00,000 --> 00:00:01,000\nHebrew 100\n\n"
    )
    assert create(model="org/asr", file=audio, response_format="vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01")
    said = create(
        model="org/asr", file=audio, response_format="verbose_json", timestamp_granularities=["segment"], language="en",
        prompt=" Haifa,\n Oren", temperature=0,
    )  # fmt: skip
    assert (said.text, said.language, said.duration) == ("English 100Haifa, Oren", "english", 1.0)
    [segment] = said.segments
    assert (segment.id, segment.start, segment.end, segment.text) == (0, 0.0, 1.0, said.text)
    assert [model.id for model in client.models.list()] == [client.models.retrieve("org/asr").id] == ["org/asr"]


def test_a_long_recording_is_cut_as_transcribe_cuts_it(serve, tmp_path):
    """Who tries a file with the command and then with the server must find the same text, at the same times."""
    one = serve()
    (tmp_path / "a.flac").write_bytes(flac(75.0))
    engine = Lengths(Told("Hebrew"), one)
    pieces = [heard.piece for heard in hear_recordings([tmp_path / "a.flac"], engine, None) if heard.piece]
    said = post(one.address, flac(75.0), response_format="verbose_json").json()
    assert [(segment["start"], segment["end"], segment["text"]) for segment in said["segments"]] == [
        (round(piece.start_s, 3), round(piece.end_s, 3), piece.text) for piece in pieces
    ]
    assert len(pieces) > 2 and said["duration"] == 75.0
    assert said["text"] == " ".join(piece.text for piece in pieces)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_as_the_docs_write_it(serve, tmp_path):
    one = serve(key="secret")
    (tmp_path / "a.flac").write_bytes(flac(2.0))

    def curl(*args: str) -> str:
        command = ["curl", "-sS", *args, f"{one.address}/v1/audio/transcriptions"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30).stdout

    key = ("-H", "Authorization: Bearer secret")
    assert json.loads(curl(*key, "-F", "file=@a.flac")) == {"text": "Hebrew 200"}
    assert curl(*key, "-F", "file=@a.flac", "-F", "response_format=text") == "Hebrew 200\n"
    assert json.loads(curl("-F", "file=@a.flac"))["error"]["code"] == "invalid_api_key"
    assert "'file'" in json.loads(curl(*key, "-F", "file=a.flac"))["error"]["message"]


def test_shibolet_itself_transcribes_by_it(serve):
    """`shibolet transcribe --server` and rounds can use what a round has made, wherever it runs."""
    one = serve()
    engine = ServerEngine(one.address, language_code="en")
    assert engine.transcribe([chirp(1.0), chirp(2.5)]) == ["English 100", "English 250"]


def in_threads(one, *durations_s: float) -> tuple[list[threading.Thread], list[str]]:
    """Clients that ask at once, and a list that their answers come into."""
    texts: list[str] = []

    def ask(duration_s: float) -> None:
        texts.append(post(one.address, flac(duration_s)).json()["text"])

    clients = [threading.Thread(target=ask, args=(duration_s,)) for duration_s in durations_s]
    for client in clients:
        client.start()
    return clients, texts


def test_requests_that_come_together_are_decoded_together(serve):
    one = serve()
    one.may_write.clear()
    [first], before = in_threads(one, 0.5)
    assert one.writes.wait(20)
    others, texts = in_threads(one, *[1.0] * 8)
    one.wait_for("waiting_s", 8.0)
    one.may_write.set()
    for client in (first, *others):
        client.join()
    assert (before, texts) == (["Hebrew 50"], ["Hebrew 100"] * 8)
    assert list(map(len, one.batches)) == [1, 4, 4]


def test_a_key_is_asked_for_before_anything_is_read(serve):
    one = serve(key="secret")
    for headers in (None, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer secre"}):
        answer = post(one.address, flac(1.0), headers)
        assert answer.status_code == 401 and "Authorization: Bearer" in answer.json()["error"]["message"]
        assert httpx.get(f"{one.address}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{one.address}/health").json()["status"] == "ok", "who watches a server has no key"
    with pytest.raises(openai.AuthenticationError):
        client_of(one.address).models.list()
    assert client_of(one.address, "secret").audio.transcriptions.create(model="org/asr", file=("a", flac(1.0))).text


def test_a_full_server_says_when_to_come_again(serve):
    """Clients such as OpenAI's wait as long as they are told, and ask again by themselves."""
    one = serve(Limits(max_requests=1))
    one.may_write.clear()
    [first], _ = in_threads(one, 1.0)
    one.wait_for("requests", 1)
    answer = post(one.address, flac(1.0))
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert answer.json()["error"]["message"].startswith("the server is full")
    one.may_write.set()
    first.join()
    assert post(one.address, flac(1.0)).status_code == 200


def test_audio_that_waits_is_bounded_too(serve):
    """Sixty recordings of an hour would be 14 GB."""
    one = serve(desk_s=3.0)
    one.may_write.clear()
    clients, _ = in_threads(one, 2.5)
    assert one.writes.wait(20)
    clients += in_threads(one, 2.5)[0]
    one.wait_for("waiting_s", 2.5)
    answer = post(one.address, flac(1.0))
    assert answer.status_code == 503 and "s of audio wait" in answer.json()["error"]["message"]
    one.may_write.set()
    for client in clients:
        client.join()


@pytest.mark.parametrize(
    ("fields", "status", "param", "sentence"),
    [
        ({"model": "whisper-1"}, 404, "model", "this server has 'org/asr'"),
        ({"temperature": "0.2"}, 400, "temperature", "temperature 0; leave it out"),
        ({"temperature": "warm"}, 400, "temperature", "leave it out"),
        ({"stream": "true"}, 400, "stream", "does not stream"),
        ({"language": "fr"}, 400, "language", "only he (Hebrew), en (English)"),
        ({"response_format": "xml"}, 400, "response_format", "json, text, verbose_json, srt, vtt"),
        ({"promt": "Haifa"}, 400, "promt", "did you mean 'prompt'?"),
        ({"prompt": "x" * 2001}, 400, "prompt", "2,001 characters, and 2,000 may be told"),
        ({"prompt": "too long"}, 400, None, "the context is too long"),
        ({"timestamp_granularities[]": "word", "response_format": "verbose_json"}, 400, "timestamp_granularities[]",
         "was started without; ask for segments"),
        ({"timestamp_granularities[]": "segment"}, 400, "timestamp_granularities[]", "needs response_format verbose"),
        ({"timestamp_granularities": "letter", "response_format": "verbose_json"}, 400, "timestamp_granularities[]",
         "neither segment nor word"),
    ],
)  # fmt: skip
def test_what_is_not_offered_is_refused_and_not_left_out(serve, fields, status, param, sentence):
    """A client whose option does nothing would believe that it does."""
    answer = post(serve().address, flac(0.5), **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert sentence in error["message"] and "\n" not in error["message"]


def test_only_named_pages_may_call_from_a_browser(serve):
    one = serve(origins=("https://page.example",))

    def allowed(origin: str) -> str | None:
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = httpx.options(f"{one.address}/v1/audio/transcriptions", headers=asks)
        return answer.headers.get("access-control-allow-origin")

    assert allowed("https://page.example") == "https://page.example" and allowed("https://other.example") is None


def test_other_addresses_say_which_there_are(serve):
    one = serve()
    for method, path, status in (("GET", "/", 404), ("GET", "/v1/audio/transcriptions", 405), ("POST", "/health", 405)):
        answer = httpx.request(method, one.address + path)
        assert answer.status_code == status and "/v1/audio/transcriptions" in answer.json()["error"]["message"]


def test_a_model_is_called_by_its_run_and_not_by_its_path(tmp_path: Path):
    """A list of models must not tell folders of the machine to whoever asks."""
    final = tmp_path / "round2" / "train" / "final"
    final.mkdir(parents=True)
    assert served_name(str(final)) == "round2" and served_name(str(tmp_path)) == tmp_path.name
    assert served_name("org/asr") == "org/asr" and served_name("builtin:round1") == "builtin:round1"
