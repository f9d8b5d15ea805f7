"""The routes of the server, and the way of a request: key, place, form, samples, model, answer."""

import asyncio
import hmac
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shibolet.errors import AudioError, RecipeError
from shibolet.listen.decoders import Decoders
from shibolet.listen.processes import WorkerLost
from shibolet.listen.recordings import Piece
from shibolet.serve.answers import answer, refusal
from shibolet.serve.config import Limits, Refused, is_full
from shibolet.serve.desk import Desk, Told
from shibolet.serve.form import Asked, Body, FirstAnswer, asked_of, form_of
from shibolet.serve.uploads import Upload, decode_beside

GONE_S = 1.0  # between two looks whether who asked is still there


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a server serves, and to whom."""

    name: str  # of the model, as clients say it
    usual: Told  # where a client says nothing else
    aligned: str | None = None  # the language in which words have times
    key: str | None = None  # that clients have to send; None: anybody may ask
    origins: tuple[str, ...] = ()  # of pages that may call it from a browser


class Service:
    """Answers requests; one event loop calls it."""

    def __init__(
        self, served: Served, limits: Limits, desk: Desk, decoders: Decoders, tell: Callable[[str], None]
    ) -> None:
        """`tell` is given a line for each request, without names and texts."""
        self._served, self._limits, self._desk, self._decoders, self._tell = served, limits, desk, decoders, tell
        self._num_asked, self._started = 0, int(time.time())
        self._decoding = asyncio.Semaphore(decoders.num_workers or 2)  # uploads that are in memory

    def app(self) -> Starlette:
        pages = {"allow_methods": ["GET", "POST"], "allow_headers": ["*"], "allow_origins": self._served.origins}
        return Starlette(
            routes=[
                Route("/v1/audio/transcriptions", self.transcribe, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/health", self.health),
            ],
            exception_handlers={Refused: _refuse, HTTPException: _refuse_route, 500: _fail},
            middleware=[Middleware(CORSMiddleware, **pages)] if self._served.origins else [],
        )

    async def health(self, request: Request) -> Response:
        """For who watches a server: without a key, and without what anybody asked."""
        waiting_s = round(self._desk.waiting_s(), 3)
        return JSONResponse({"status": "ok", "requests": self._num_asked, "waiting_s": waiting_s})

    async def models(self, request: Request) -> Response:
        self._require_key(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._require_key(request)
        if (name := request.path_params["name"]) != self._served.name:
            sentence = f"the model {name[:100]!r} is not here; this server has {self._served.name!r}"
            raise Refused(404, sentence, param="model", code="model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, str | int]:
        return {"id": self._served.name, "object": "model", "created": self._started, "owned_by": "shibolet"}

    async def transcribe(self, request: Request) -> Response | FirstAnswer:
        """The transcript of an upload, or the sentence that refuses it."""
        started, body = time.monotonic(), Body(request.receive, request.headers, self._limits.max_upload_bytes)
        try:
            self._require_key(request)
            with self._place():
                asked, upload = await self._read(Request(request.scope, body.receive))
                pieces = await self._pieces(request, self._desk.submit(asked.told, upload.clips))
        except Refused as refused:
            self._tell(f"{refused.status}: {refused.message}")
            return FirstAnswer(refusal(refused), body)
        except ClientDisconnect:
            self._tell("a client left before its answer")
            return Response(status_code=499)  # nobody reads it
        self._tell(f"200: {upload.duration_s:.1f} s of audio in {time.monotonic() - started:.2f} s")
        return answer(asked, upload, pieces)

    def _require_key(self, request: Request) -> None:
        if (key := self._served.key) is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise Refused(
                401, "this server wants its API key, as 'Authorization: Bearer KEY'", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the requests in hand, before anything of an upload is read."""
        if self._num_asked >= self._limits.max_requests:
            raise is_full(f"{self._num_asked} requests are in hand")
        self._num_asked += 1
        try:
            yield
        finally:
            self._num_asked -= 1

    async def _read(self, request: Request) -> tuple[Asked, Upload]:
        async with form_of(request, self._limits) as form:
            served = self._served
            asked = asked_of(
                form, name=served.name, usual=served.usual, aligned=served.aligned, limits=self._limits
            )  # fmt: skip
            async with self._decoding:
                content = await asked.file.read()
                decoding = self._decoders.submit(decode_beside, (content, self._limits))
                try:
                    return asked, await asyncio.wrap_future(decoding)
                except AudioError as error:
                    raise Refused(400, str(error), param="file", code=error.reason) from None
                except WorkerLost as lost:
                    raise Refused(400, f"the audio cannot be decoded: {lost}", param="file", code=lost.reason) from None

    async def _pieces(self, request: Request, hearing: Future) -> Sequence[Piece]:
        """What the desk wrote; who leaves before that leaves no work behind."""
        written = asyncio.wrap_future(hearing)
        try:
            while not (await asyncio.wait({written}, timeout=GONE_S))[0]:
                if await request.is_disconnected():
                    raise ClientDisconnect
            return written.result()
        except ClientDisconnect:
            raise
        except RecipeError as error:  # the model's family says what it cannot be asked
            raise Refused(400, str(error)) from None
        except Exception:  # told where it happened
            raise Refused(500, "the model failed on this recording; the server's log has the reason") from None
        finally:
            written.cancel()


async def _refuse(request: Request, refused: Refused) -> Response:
    return refusal(refused)


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    path = request.url.path[:200]
    known = "POST /v1/audio/transcriptions, GET /v1/models, GET /health"
    return refusal(
        Refused(
            error.status_code, f"{request.method} {path!r}: {error.detail}; there are {known}", headers=error.headers
        )
    )


async def _fail(request: Request, error: Exception) -> Response:
    return refusal(Refused(500, "the server failed; its log has the reason"))
