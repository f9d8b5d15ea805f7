"""The transcription engine behind a server that speaks OpenAI's `/v1/audio/transcriptions`: vLLM's, or another's.

What it answers is data from outside: `listen/http_client.py` bounds it, and nothing of it is believed unchecked.
"""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from uuid import uuid4

import numpy as np

from shibolet.errors import ServerError
from shibolet.listen.engine import Engine, Written
from shibolet.listen.http_client import MAX_ANSWER_BYTES, Answer, TooLong, check_key, check_url, exchange
from shibolet.listen.loops import is_loop
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac
from shibolet.speech.text.rules import strip_official_prefix

PARALLEL_REQUESTS = 64  # a server batches what it has at once
TIMEOUT_S = 300.0  # of a whole request, from the connection to the last byte
WAITS_S = (1.0, 4.0, 15.0)  # before a request is sent again
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
NOT_ALLOWED = {401, 403}
MIN_SAMPLES = SAMPLE_RATE_HZ // 2  # shorter audio is padded with zeros: servers refuse it
MAX_TEXT_CHARS = 100_000  # of a clip of at most 30 s: no decoder is let run on for so long
KEY_VARIABLE = "OPENAI_API_KEY"


class ServerEngine(Engine):
    """Transcription by a server; it decides on beams and limits, and the language unless it is told one."""

    def __init__(
        self, url: str, *, model: str | None = None, language_code: str | None = None, model_key: str = "--model"
    ) -> None:
        """`url` is the server's root, with or without /v1; `model` may be left out where the server has only one.

        `model_key` is the option or the recipe's key that names it, for the sentence that asks for that.
        """
        self._url = check_url(url).rstrip("/").removesuffix("/v1") + "/v1"
        self._key = check_key(KEY_VARIABLE, os.environ.get(KEY_VARIABLE))
        self._language_code = language_code
        self._model_key = model_key
        self._model = model or self._only_model()
        self.identity = f"{self._model} at {self._url}"
        self.clips_at_once = 4 * PARALLEL_REQUESTS

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            return list(pool.map(self._write_one, clips))

    def _write_one(self, clip: np.ndarray) -> Written:
        fields = {"model": self._model, "response_format": "json", "temperature": "0"}
        if self._language_code is not None:
            fields["language"] = self._language_code
        padded = np.pad(clip, (0, max(0, MIN_SAMPLES - len(clip))))
        body, kind = _multipart(fields, encode_flac(padded))
        answer = self._ask("/audio/transcriptions", body, {"Content-Type": kind})
        text = answer.get("text") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise ServerError(f"{self._url} answered without a text: {self._shown(answer)}")
        if len(text) > MAX_TEXT_CHARS or not _is_unicode(text):
            problem = f"of {len(text):,} characters" if len(text) > MAX_TEXT_CHARS else "with halves of characters"
            raise ServerError(f"{self._url} answered a text {problem} for {len(clip) / SAMPLE_RATE_HZ:.1f} s of audio")
        text = strip_official_prefix(text)[1].strip()
        return Written(text, "loop" if is_loop(text, len(clip) / SAMPLE_RATE_HZ) else "end")

    def _only_model(self) -> str:
        advice = f"; where a server has no list of its models, name the one to use with {self._model_key}"
        answer = self._ask("/models", advice=advice)
        try:
            names = [model["id"] for model in answer["data"]]
        except (KeyError, TypeError):
            names = [None]
        if not all(isinstance(name, str) and name.isprintable() for name in names):
            raise ServerError(
                f"{self._url}/models answered no list of models: {self._shown(answer)}; is it a server like OpenAI's?"
                f"{advice}"
            )
        if len(names) != 1:
            raise ServerError(
                f"{self._url} serves {self._shown(names or 'no model')}: say which one with {self._model_key}"
            )
        return names[0]

    def _ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, advice: str = ""
    ) -> Any:
        """The JSON that the server answers; what may pass is tried again.

        `advice` ends the sentence about a server that answers, and not with what was asked for.
        """
        url, problem = self._url + path, ""
        all_headers = {**(headers or {}), **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        for wait_s in (*WAITS_S, None):
            try:
                answer = exchange(url, body, all_headers, TIMEOUT_S)
                if 200 <= answer.status < 300:
                    return _json(answer)
                problem = f"answered {answer.status}: {self._said(answer)}"
                if answer.status not in TRANSIENT:
                    problem += advice if answer.status not in NOT_ALLOWED else ""
                    break
            except TooLong:
                problem = f"answered more than {MAX_ANSWER_BYTES >> 20} MiB, which is not a transcript"
                break
            except ValueError as error:
                problem = f"answered no JSON ({self._shown(error)}){advice}"
                break
            except (OSError, HTTPException) as error:  # refused, reset, timed out, cut off
                reason = getattr(error, "reason", None) or error
                problem = f"cannot be reached: {self._shown(reason) or type(error).__name__}"
            if wait_s is not None:
                time.sleep(wait_s)
        else:
            problem += f", {len(WAITS_S) + 1} times"
        raise ServerError(f"the server {url} {problem}")

    def _said(self, answer: Answer) -> str:
        """What an answer that is none says."""
        if target := answer.headers.get("Location") if 300 <= answer.status < 400 else None:
            return (
                f"it sends on to {self._shown(target)}, which is not followed: audio and key go to no other address; "
                "if you trust that one, name it"
            )
        text: Any = answer.content.decode("utf-8", "replace")
        try:
            found = json.loads(text)
            text = (found.get("error") or {}).get("message") or found.get("message") or text
        except (ValueError, AttributeError, RecursionError):
            pass
        return self._shown(text) or self._shown(answer.reason)

    def _shown(self, value: Any) -> str:
        """What came from the server, in one line, without the key."""
        said = str(value)[:10_000]
        return _one_line(said.replace(self._key, "(the key)") if self._key else said)


def _json(answer: Answer) -> Any:
    """ValueError for what is none."""
    if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise ValueError(f"it is compressed, as {coding}, which was not asked for")
    try:
        return json.loads(answer.content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _one_line(value: Any) -> str:
    """What came from outside, fit for a terminal: in one line, without control characters, cut."""
    line = " ".join(str(value)[:10_000].split())
    return "".join(char if char.isprintable() else "\ufffd" for char in line)[:300]


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON can say halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _multipart(fields: dict[str, str], flac: bytes) -> tuple[bytes, str]:
    """Body and content type of a form with a file (RFC 7578)."""
    mark = uuid4().hex
    head = "".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="clip.flac"\r\n'
        "Content-Type: audio/flac\r\n\r\n"
    )
    return head.encode() + flac + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"
