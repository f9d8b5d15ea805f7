"""A request's body and its form: read in bounded size and time, and refused in a sentence where it asks for more."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal, get_args

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shibolet.errors import did_you_mean
from shibolet.serve.config import Limits, Refused
from shibolet.serve.desk import Told
from shibolet.speech.text import LANGUAGES, find_language

Shape = Literal["json", "text", "verbose_json", "srt", "vtt"]
FIELDS = ("file", "model", "language", "prompt", "response_format", "temperature", "stream")
GRANULARITIES = ("timestamp_granularities[]", "timestamp_granularities")  # as OpenAI's clients and people write it
MAX_FIELDS, MAX_FIELD_BYTES = 16, 16_384
_DRAIN_BYTES, _DRAIN_S = 16 << 20, 5.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for, checked."""

    file: UploadFile
    told: Told
    shape: Shape
    with_words: bool  # name them in verbose_json


class Body:
    """The body of a request as it comes; Refused at the byte that is too much."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], max_bytes: int) -> None:
        self._receive, self._max_bytes, self._num_bytes = receive, max_bytes, 0
        self._is_complete = False
        self._waits = headers.get("expect", "").lower() == "100-continue"  # it sends nothing before it is asked to
        announced = headers.get("content-length", "0")
        self._announced = int(announced) if announced.isdecimal() else 0

    async def receive(self) -> Message:
        if self._announced > self._max_bytes:
            raise self._too_large()
        message = await self._next()
        if self._num_bytes > self._max_bytes:
            raise self._too_large()
        return message

    async def _next(self) -> Message:
        self._waits = False
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> Refused:
        return Refused(
            413, f"the request is larger than {self._max_bytes / (1 << 20):g} MiB, which this server takes at most; "
            "compress the audio, or send it in parts", param="file", code="too_large",
        )  # fmt: skip

    async def throw_away(self) -> None:
        """Read what is still on its way, up to a limit."""
        limit = self._num_bytes + _DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not (self._is_complete or self._waits or self._num_bytes > limit):
                    await self._next()


class FirstAnswer:
    """An answer to a request of which more is on its way.

    A connection that is closed over it loses the answer too, so the rest is read behind the answer.
    """

    def __init__(self, answer: Response, body: Body) -> None:
        self._answer, self._body = answer, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_stay(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if is_body else message)

        await self._answer(scope, receive, send_and_stay)
        await self._body.throw_away()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def form_of(request: Request, limits: Limits) -> AsyncIterator[FormData]:
    """The form of a request; what it spooled to disk has no name there, and is gone at the end."""
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() != "multipart/form-data":
        raise Refused(
            415, f"the request's content type is {kind[:100] or 'missing'!r}; send multipart/form-data with the "
            "recording as 'file', as curl -F file=@recording.wav does",
        )  # fmt: skip
    try:
        async with asyncio.timeout(limits.upload_s):
            form = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except TimeoutError:
        raise Refused(
            408, f"the request did not come to its end in {limits.upload_s:g} s; send it again, or compress the audio",
            code="too_slow",
        ) from None  # fmt: skip
    except (HTTPException, FormParserError) as error:
        raise Refused(400, f"the form cannot be read: {getattr(error, 'detail', error)}") from None
    try:
        yield form
    finally:
        await form.close()


def asked_of(form: FormData, *, name: str, usual: Told, aligned: str | None, limits: Limits) -> Asked:
    """What a form asks for; `aligned` is the language in which the times of words can be found."""
    _require_known(form)
    fields = {key: _text(form, key) for key in FIELDS if key != "file" and key in form}
    if fields.get("model", name) != name:
        raise Refused(
            404, f"the model {fields['model'][:100]!r} is not here; this server has {name!r}", param="model",
            code="model_not_found",
        )  # fmt: skip
    _require_greedy(fields)
    shape = fields.get("response_format", "json")
    if shape not in get_args(Shape):
        raise Refused(
            400, f"response_format {shape[:100]!r} is not one of {', '.join(get_args(Shape))}", param="response_format"
        )
    told = _told(fields, usual, limits)
    words = _wants_words(form, shape)
    if words and told.language != aligned:
        raise Refused(
            400, f"the times of words in {told.language} need a forced aligner, which this server "
            f"{'has for ' + aligned if aligned else 'was started without'}; ask for segments",
            param=GRANULARITIES[0],
        )  # fmt: skip
    cued = told.language == aligned and (words or shape in ("srt", "vtt"))
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise Refused(400, "there is no recording in the form's field 'file'; curl has -F file=@NAME", param="file")
    return Asked(file, Told(told.language, told.context, with_words=cued), shape, words)


def _require_known(form: FormData) -> None:
    for key in form:
        if key not in (*FIELDS, *GRANULARITIES):
            raise Refused(
                400, f"the field {key[:100]!r} is not known{did_you_mean(key[:100], FIELDS)}; known are "
                f"{', '.join((*FIELDS, GRANULARITIES[0]))}", param=key[:100],
            )  # fmt: skip
        if key in FIELDS and len(form.getlist(key)) > 1:
            raise Refused(400, f"the field '{key}' is given twice", param=key)


def _text(form: FormData, key: str) -> str:
    value = form[key]
    if isinstance(value, UploadFile):
        raise Refused(400, f"the field '{key}' is a file, and should be a text", param=key)
    return value.strip()


def _require_greedy(fields: Mapping[str, str]) -> None:
    try:
        temperature = float(fields.get("temperature") or 0)
    except ValueError:
        temperature = None
    if temperature != 0:
        raise Refused(
            400, f"temperature {fields['temperature'][:20]!r} is not taken: this server writes the likeliest text, "
            "which is temperature 0; leave it out", param="temperature",
        )  # fmt: skip
    if fields.get("stream", "false").lower() not in ("false", "0", ""):
        raise Refused(
            400, "this server does not stream: it answers when all is written; leave out 'stream'", param="stream"
        )


def _told(fields: Mapping[str, str], usual: Told, limits: Limits) -> Told:
    name = usual.language
    if asked := fields.get("language"):
        if (language := find_language(asked)) is None:
            known = ", ".join(f"{one.code} ({one.name})" for one in LANGUAGES)
            raise Refused(400, f"the language {asked[:40]!r} is not known here, only {known}", param="language")
        name = language.name
    context = fields.get("prompt", usual.context)
    if len(context) > limits.max_prompt_chars:
        raise Refused(
            400, f"the prompt has {len(context):,} characters, and {limits.max_prompt_chars:,} may be told; shorten it",
            param="prompt",
        )  # fmt: skip
    return Told(name, " ".join(context.split()))


def _wants_words(form: FormData, shape: str) -> bool:
    asked = {str(value) for key in GRANULARITIES for value in form.getlist(key)}
    if strange := asked - {"segment", "word"}:
        raise Refused(
            400, f"timestamp_granularities {min(strange)[:40]!r} is neither segment nor word", param=GRANULARITIES[0]
        )
    if asked and shape != "verbose_json":
        raise Refused(400, "timestamp_granularities needs response_format verbose_json", param=GRANULARITIES[0])
    return "word" in asked
