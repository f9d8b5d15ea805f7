"""One request to one server over HTTP, bounded in time and in size; it goes to the address that was named, or nowhere.

No redirect is followed: it would take the audio, and the key with it, to a server that nobody named.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPMessage, HTTPResponse, HTTPSConnection, IncompleteRead
from threading import Timer
from typing import Self
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request

from shibolet.errors import RecipeError

MAX_ANSWER_BYTES = 4 << 20  # an hour of speech is 0.06 MB of text; long lists of models take more


class TooLong(Exception):
    """An answer of more than `MAX_ANSWER_BYTES`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whatever its status; `content` is whole."""

    status: int
    reason: str
    headers: HTTPMessage
    content: bytes


def check_url(url: str) -> str:
    """The root of a server as it was given; RecipeError for what is no such address."""
    shown, advice = repr(url[:200]), "write the server's root, such as http://localhost:8000"
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise RecipeError(f"server {shown}: an address is in ASCII, without spaces and control characters; {advice}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")  # as the system's resolver is asked
    except ValueError as error:
        raise RecipeError(f"server {shown} is not an address ({error}); {advice}") from error
    if not usable:
        raise RecipeError(f"server {shown} is not an address of http or https; {advice}")
    if "@" in parts.netloc:
        raise RecipeError(f"the server's address at '{parts.hostname}' has a user or a password in it; take them out")
    if "?" in url or "#" in url:
        raise RecipeError(f"server {shown}: an address with '?' or '#' is no root of a server; {advice}")
    return url


def check_key(where: str, key: str | None) -> str | None:
    """A key that goes into a header; RecipeError, which does not show it, for what cannot be sent."""
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise RecipeError(f"{where} has a space, a line's end or another character in it that no key has")
    return key or None


def exchange(url: str, body: bytes | None, headers: Mapping[str, str], limit_s: float) -> Answer:
    """Send one request (POST with a body, else GET) and read the answer, in `limit_s` at most, whatever arrives.

    Raises OSError or HTTPException for what is between here and the server (TimeoutError: time is up), and TooLong.
    Proxies are those of the environment.
    """
    request = Request(url, data=body, headers=dict(headers))
    with _Limit(limit_s) as request.limit, _opener().open(request, timeout=limit_s + 1) as response:
        return Answer(response.status, response.reason, response.headers, _read(response))


def _read(response: HTTPResponse) -> bytes:
    content = bytearray()
    while block := response.read(1 << 16):
        content += block
        if len(content) > MAX_ANSWER_BYTES:
            raise TooLong
    if response.length:  # closed before the end that was announced
        raise IncompleteRead(bytes(content), response.length)
    return bytes(content)


class _Limit:
    """Shuts the socket of a request when its time is up.

    A socket's own timeout starts anew with every byte: a server that sends one in a while would never end.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self._is_over = limit_s, False
        self._sockets: list[socket.socket] = []
        self._timer = Timer(limit_s, self._end)
        self._timer.daemon = True

    def watch(self, opened: socket.socket) -> None:
        self._sockets.append(opened)
        if self._is_over:
            self._end()

    def _end(self) -> None:
        self._is_over = True
        for opened in list(self._sockets):
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed in the meantime
                pass

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        self._timer.cancel()
        # Also without an error: where a length is not announced, a shut socket looks like the end.
        if self._is_over and (error is None or isinstance(error, Exception)):
            raise TimeoutError(f"no whole answer within {self._limit_s:g} s") from error


class _Connection(HTTPConnection):
    """A connection whose socket is watched."""

    def __init__(self, *args, limit: _Limit, **settings) -> None:
        super().__init__(*args, **settings)
        self._limit = limit

    def connect(self) -> None:
        super().connect()
        self._limit.watch(self.sock)


class _TlsConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Handler(HTTPSHandler):
    http_request = HTTPSHandler.https_request

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_Connection, request, limit=request.limit)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_TlsConnection, request, limit=request.limit)


@cache
def _opener() -> OpenerDirector:
    """http and https, and none of urllib's other habits: redirects, files, FTP."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), _Handler()):
        opener.add_handler(handler)
    return opener
