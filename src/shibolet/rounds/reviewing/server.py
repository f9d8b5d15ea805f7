"""The page of a review over HTTP, for browsers of this machine alone.

It listens on 127.0.0.1. The first part of every path is a token; whoever does not know it gets the same 404 for
everything. The header Host has to name this address, so that no foreign site reads it under a name of its own (DNS
rebinding), and what is posted has to be JSON from the page itself. Paths are words of a table and numbers: no file is
named by a request, and nothing is written but answers.
"""

import hmac
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shibolet.errors import DataError, DiskError, ShiboletError
from shibolet.records.answers import Given
from shibolet.records.files import disk_errors
from shibolet.records.reading import fault, parse_own
from shibolet.report.review_page import ServedPage
from shibolet.rounds.reviewing.address import HOST, Address
from shibolet.rounds.reviewing.desk import MAX_SOUND_S, Desk
from shibolet.rounds.reviewing.label_studio import answers_in

LOG = logging.getLogger(__name__)

MAX_ANSWER_BYTES, MAX_FILE_BYTES = 4 << 20, 32 << 20
MAX_CONNECTIONS, IDLE_S = 64, 30.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _Asked(BaseModel):
    """What may stand behind the question mark of an address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    place: int = Field(0, ge=0)
    start_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    length_s: float = Field(MAX_SOUND_S, gt=0, le=MAX_SOUND_S, allow_inf_nan=False)
    after: int = Field(0, ge=0)
    name: str = Field("the file", max_length=255)


class Refused(ShiboletError):
    """A request that is not answered, with the status that says so."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewServer(ThreadingHTTPServer):
    """Serves one desk until it is shut down; DiskError where the port cannot be had."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: Address, desk: Desk, page: ServedPage) -> None:
        self.address, self.desk, self.page = address, desk, page
        self.hosts = {f"{name}:{address.port}" for name in (HOST, "localhost")}
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((HOST, address.port), _Handler)
        except OSError as error:
            raise DiskError(
                f"port {address.port} of {HOST} cannot be had: {error.strerror}; name another with --port"
            ) from error

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.debug("a connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "shibolet", ""
    timeout = IDLE_S
    server: ReviewServer

    def do_GET(self) -> None:
        self._answer({
            "": lambda asked: ("text/html; charset=utf-8", self.server.page.content),
            "rows": lambda asked: ("application/json", self.server.desk.rows_json),
            "entry": lambda asked: _json(self.server.desk.entry(asked.place)),
            "sound": lambda asked: (
                "audio/wav", self.server.desk.sound(asked.place, asked.start_s, asked.length_s),
            ),
            "changes": lambda asked: _json(_changes(self.server.desk, asked.after)),
            "standing": lambda asked: _json(asdict(self.server.desk.standing())),
            "answers.jsonl": lambda asked: ("application/jsonl", _lines(self.server.desk)),
        })  # fmt: skip

    def do_POST(self) -> None:
        self._answer({"answer": self._take_answer, "import": self._take_file})

    def _answer(self, actions: dict[str, Callable[[_Asked], tuple[str, bytes]]]) -> None:
        try:
            kind, content = self._checked(actions)
            status = HTTPStatus.OK
        except Refused as error:
            status, kind, content = error.status, *_json({"error": str(error)})
        except DiskError as error:
            status, kind, content = HTTPStatus.INSUFFICIENT_STORAGE, *_json({"error": str(error)})
        except ShiboletError as error:
            status, kind, content = HTTPStatus.UNPROCESSABLE_ENTITY, *_json({"error": str(error)})
        except Exception:
            LOG.exception("a request to the review failed")
            status, kind, content = HTTPStatus.INTERNAL_SERVER_ERROR, *_json({"error": "a defect of shibolet"})
        if status != HTTPStatus.OK:
            self.close_connection = True  # its body may not have been read
        self.send_response(status)
        headers = {**_HEADERS, "Content-Security-Policy": self.server.page.policy, "Content-Type": kind}
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _checked(self, actions: dict[str, Callable[[_Asked], tuple[str, bytes]]]) -> tuple[str, bytes]:
        if self.headers.get("Host", "") not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "the address in the browser is not the one that was printed")
        parts = urlsplit(self.path)
        token, slash, name = parts.path.removeprefix("/").partition("/")
        is_known = hmac.compare_digest(token.encode(), self.server.address.token.encode())
        if not (is_known and slash and name in actions):
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        try:
            asked = _Asked.model_validate(dict(parse_qsl(parts.query, max_num_fields=8)))
        except (ValidationError, ValueError) as error:
            what = fault(error) if isinstance(error, ValidationError) else str(error)
            raise Refused(HTTPStatus.BAD_REQUEST, what) from error
        with disk_errors():
            return actions[name](asked)

    def _body(self, max_bytes: int) -> bytes:
        """What was posted; refused where another site may have sent it, or where it is too long."""
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "only the page of the review may post here")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "what is posted has to be application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if len(length) > 12 or int(length) > max_bytes:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {max_bytes:,} bytes may be posted here")
        return self.rfile.read(int(length))

    def _take_answer(self, asked: _Asked) -> tuple[str, bytes]:
        try:
            given = Given.model_validate(parse_own(self._body(MAX_ANSWER_BYTES)))
        except ValidationError as error:
            raise DataError(fault(error)) from error
        except ValueError as error:
            raise DataError(str(error)) from error
        return _json({"num": self.server.desk.answer(given)})

    def _take_file(self, asked: _Asked) -> tuple[str, bytes]:
        new, old, unknown = self.server.desk.take_in(answers_in(self._body(MAX_FILE_BYTES), asked.name))
        return _json({"new": new, "old": old, "unknown": unknown})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: an address has the token in it."""


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, ensure_ascii=False).encode()


def _changes(desk: Desk, after: int) -> dict[str, Any]:
    found = desk.changes(after)
    return {"num": after + len(found), "answers": [one.model_dump() for one in found]}


def _lines(desk: Desk) -> bytes:
    return b"".join(json.dumps(one.model_dump(), ensure_ascii=False).encode() + b"\n" for one in desk.changes(0))
