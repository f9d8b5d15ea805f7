"""A transcription server as an engine, against one that answers as vLLM's does, or fails as servers do."""

import email.parser
import email.policy
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile as sf

from shibolet.errors import ServerError
from shibolet.listen import server as module
from shibolet.listen.server import ServerEngine
from shibolet.listen.transcribe import Transcriber
from shibolet.recipe import load_recipe
from shibolet.rounds.shared import open_round

RATE = 16000


class Handler(BaseHTTPRequestHandler):
    """Says how many hundredths of a second it was sent; `failures` are answered first."""

    models, failures, seen, keys, answer, no_list = ["org/asr"], [], [], [], None, None

    def do_GET(self):
        self.keys.append(self.headers.get("Authorization"))
        if self.no_list is not None:
            return self._send(*self.no_list)
        self._send(200, {"object": "list", "data": [{"id": name} for name in self.models]})

    def do_POST(self):
        form = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + form).get_payload()
        fields = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}
        samples, rate_hz = sf.read(io.BytesIO(fields.pop("file")), dtype="float32")
        assert rate_hz == RATE
        type(self).seen.append((self.path, {name: value.decode() for name, value in fields.items()}, len(samples)))
        if self.failures:
            status, body = type(self).failures.pop(0)
            if status is None:
                self.connection.close()
                return
            self._send(status, body)
        else:
            text = f"language None<asr_text>{len(samples) * 100 // RATE}"
            self._send(200, {"text": text} if self.answer is None else self.answer)

    def _send(self, status: int, body) -> None:
        content = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """(address, handler class) of a server that runs for one test; nobody waits between two tries."""
    handler = type("Own", (Handler,), {"models": ["org/asr"], "failures": [], "seen": [], "keys": []})
    monkeypatch.setattr(module, "WAITS_S", (0.0, 0.01, 0.01))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(module.KEY_VARIABLE, raising=False)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", handler
    httpd.shutdown()
    httpd.server_close()


def clips(*durations_s: float) -> list[np.ndarray]:
    return [np.full(round(s * RATE), 0.1, np.float32) for s in durations_s]


def test_texts_come_back_in_order_whatever_answers_first(server):
    address, handler = server
    durations_s = [round(0.6 + 0.13 * (i * 7 % 40), 2) for i in range(40)]
    engine = ServerEngine(f"{address}/v1/", language_code="he")
    assert engine.identity == f"org/asr at {address}/v1"
    assert engine.transcribe(clips(*durations_s)) == [str(round(s * 100)) for s in durations_s]
    assert {path for path, *_ in handler.seen} == {"/v1/audio/transcriptions"}
    fields = {"model": "org/asr", "response_format": "json", "temperature": "0", "language": "he"}
    assert all(sent == fields for _, sent, _ in handler.seen)


def test_very_short_audio_is_padded_as_a_model_here_hears_it(server):
    assert ServerEngine(server[0]).transcribe(clips(0.01)) == ["50"]


def test_what_may_pass_is_tried_again(server):
    """Protects hours of work from one hiccup."""
    address, handler = server
    engine = ServerEngine(address)
    handler.failures[:] = [(503, "busy"), (None, ""), (429, {"error": {"message": "slow down"}})]
    assert engine.transcribe(clips(1.0)) == ["100"]
    assert len(handler.seen) == 4


@pytest.mark.parametrize(
    ("failures", "sentence", "tries"),
    [
        ([(500, {"error": {"message": "out of\nmemory"}})] * 4, "answered 500: out of memory, 4 times", 4),
        ([(400, {"message": "Unsupported language: he"})], "answered 400: Unsupported language: he", 1),
        ([(400, {"error": "plain words"})], "plain words", 1),
        ([(200, "<html>")], "answered no JSON", 1),
        ([(200, {"texts": []})], "answered without a text", 1),
        ([(None, "")] * 4, "cannot be reached", 4),
    ],
)
def test_what_does_not_pass_is_one_sentence(server, failures, sentence, tries):
    address, handler = server
    engine = ServerEngine(address)
    handler.failures[:] = failures
    with pytest.raises(ServerError, match=sentence) as raised:
        engine.transcribe(clips(1.0))
    assert "\n" not in str(raised.value) and address in str(raised.value) and raised.value.exit_code == 3
    assert len(handler.seen) == tries


def test_nobody_there_is_one_sentence(server, monkeypatch):
    with pytest.raises(ServerError, match=r"cannot be reached: .*, 4 times"):
        ServerEngine("http://127.0.0.1:9")


def test_the_model_must_be_named_where_there_are_several(server):
    address, handler = server
    handler.models[:] = ["one", "two"]
    with pytest.raises(ServerError, match=r"\['one', 'two'\].*--model"):
        ServerEngine(address)
    assert ServerEngine(address, model="two").identity.startswith("two at")


@pytest.mark.parametrize(
    "no_list", [(404, {"error": "no such route"}), (405, "<html>"), (200, "<html>"), (200, {"data": None})]
)
@pytest.mark.parametrize("key", ["--model", "evaluate.servers.candidate.model"])
def test_a_server_without_a_list_of_models_asks_for_the_name_of_one(server, no_list, key):
    """Such servers transcribe all the same: the sentence has to say how to go on."""
    address, handler = server
    handler.no_list = no_list
    with pytest.raises(ServerError, match=f"name the one to use with {key}$"):
        ServerEngine(address, model_key=key)
    assert ServerEngine(address, model="m").transcribe(clips(1.0)) == ["100"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_is_not_asked_for_a_name(server, status):
    address, handler = server
    handler.no_list = (status, {"message": "no"})
    with pytest.raises(ServerError, match=f"answered {status}: no$"):
        ServerEngine(address)


def test_a_key_is_sent_where_there_is_one(server, monkeypatch):
    address, handler = server
    ServerEngine(address)
    monkeypatch.setenv(module.KEY_VARIABLE, "k")
    ServerEngine(address)
    assert handler.keys == [None, "Bearer k"]


def test_a_server_that_loops_is_found_out(server):
    address, handler = server
    handler.answer = {"text": "לא " * 50}
    assert [one.ending for one in ServerEngine(address).write(clips(2.0, 30.0))] == ["loop", "end"]


def test_a_recipe_names_the_server_of_a_round(server, tmp_path):
    address, _ = server
    recipe = load_recipe("demo", [f"evaluate.servers.baseline.url={address}"])
    with open_round(recipe, tmp_path / "run", "evaluate", lambda sentence: None) as current:
        assert current.transcriber("builtin:round1", "round1", "Hebrew").identity == f"org/asr at {address}/v1"
        assert isinstance(current.transcriber("builtin:round1", "round2", "Hebrew"), Transcriber)
