"""Answers in OpenAI's forms."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from shibolet.listen.formats import Writer
from shibolet.listen.recordings import Heard, Piece
from shibolet.serve.config import Refused
from shibolet.serve.form import Asked
from shibolet.serve.uploads import Upload
from shibolet.speech.text import get_language


def answer(asked: Asked, upload: Upload, pieces: Sequence[Piece]) -> Response:
    """A transcript in the form that was asked for."""
    text = " ".join(piece.text for piece in pieces if piece.text)
    match asked.shape:
        case "json":
            return JSONResponse({"text": text})
        case "text":
            return PlainTextResponse(f"{text}\n")
        case "verbose_json":
            return JSONResponse(_verbose(asked, upload, pieces, text))
        case "srt" | "vtt" as shape:
            out = io.StringIO()
            writer = Writer(out, shape, with_names=False)
            for piece in pieces:
                writer.add(Heard(path=Path(), piece=piece))
            writer.close()
            return PlainTextResponse(out.getvalue(), media_type="text/vtt" if shape == "vtt" else "text/plain")


def refusal(refused: Refused) -> Response:
    """A sentence in OpenAI's form for errors."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return JSONResponse({"error": error}, refused.status, refused.headers)


def _verbose(asked: Asked, upload: Upload, pieces: Sequence[Piece], text: str) -> dict[str, Any]:
    """Of what OpenAI says of a segment, what is known here is said; the rest is null."""
    segments = [
        {
            "id": number, "start": round(piece.start_s, 3), "end": round(piece.end_s, 3), "text": piece.text,
            "ending": piece.ending, "seek": 0, "temperature": 0.0, "tokens": [],
            "avg_logprob": None, "compression_ratio": None, "no_speech_prob": None,
        }
        for number, piece in enumerate(piece for piece in pieces if piece.text)
    ]  # fmt: skip
    words = [word for piece in pieces for word in piece.words]
    named = [{"word": one.text, "start": round(one.start_s, 3), "end": round(one.end_s, 3)} for one in words]
    return {
        "task": "transcribe", "language": get_language(asked.told.language).name.lower(),
        "duration": round(upload.duration_s, 3), "text": text, "segments": segments,
        **({"words": named} if asked.with_words else {}), **({"warnings": upload.notes} if upload.notes else {}),
    }  # fmt: skip
