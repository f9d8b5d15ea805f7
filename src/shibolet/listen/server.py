"""The transcription engine behind a server that speaks OpenAI's `/v1/audio/transcriptions`: vLLM's, or another's."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from uuid import uuid4

import numpy as np

from shibolet.errors import ServerError
from shibolet.listen.engine import Engine, Written
from shibolet.listen.loops import is_loop
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac
from shibolet.speech.text.rules import strip_official_prefix

PARALLEL_REQUESTS = 64  # a server batches what it has at once
TIMEOUT_S = 300.0
WAITS_S = (1.0, 4.0, 15.0)  # before a request is sent again
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
MIN_SAMPLES = SAMPLE_RATE_HZ // 2  # shorter audio is padded with zeros: servers refuse it
KEY_VARIABLE = "OPENAI_API_KEY"


class ServerEngine(Engine):
    """Transcription by a server; it decides on beams and limits, and the language unless it is told one."""

    def __init__(self, url: str, *, model: str | None = None, language_code: str | None = None) -> None:
        """`url` is the server's root, with or without /v1; `model` may be left out where the server has only one."""
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._language_code = language_code
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
        if not isinstance(answer.get("text"), str):
            raise ServerError(f"{self._url} answered without a text: {str(answer)[:200]}")
        text = strip_official_prefix(answer["text"])[1].strip()
        return Written(text, "loop" if is_loop(text, len(clip) / SAMPLE_RATE_HZ) else "end")

    def _only_model(self) -> str:
        names = [model.get("id") for model in self._ask("/models").get("data", [])]
        if len(names) != 1:
            raise ServerError(f"{self._url} serves {names or 'no model'}: say which one with --model")
        return names[0]

    def _ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> dict:
        """The JSON that the server answers; what may pass is tried again."""
        key = os.environ.get(KEY_VARIABLE)
        all_headers = {**(headers or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        for wait_s in (*WAITS_S, None):
            try:
                request = urllib.request.Request(self._url + path, data=body, headers=all_headers)
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problem = f"answered {error.code}: {_said(error)}"
                if error.code not in TRANSIENT:
                    break
            except json.JSONDecodeError as error:
                problem = f"answered no JSON ({error})"
                break
            except (OSError, HTTPException) as error:  # refused, reset, timed out, cut off
                problem = f"cannot be reached: {getattr(error, 'reason', None) or error or type(error).__name__}"
            except ValueError as error:  # no URL at all
                problem = f"is no address: {error}"
                break
            if wait_s is not None:
                time.sleep(wait_s)
        else:
            problem += f", {len(WAITS_S) + 1} times"
        raise ServerError(f"the server {self._url}{path} {problem}")


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


def _said(error: urllib.error.HTTPError) -> str:
    """What the body of an error says, in one line."""
    text = error.read().decode("utf-8", "replace")
    try:
        found = json.loads(text)
        text = (found.get("error") or {}).get("message") or found.get("message") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:300] or error.reason
