"""Transcripts as text: plain, JSON, one JSON object a piece, and the two subtitle formats."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from shibolet.listen.recordings import Heard, Piece, Word

Format = Literal["txt", "json", "jsonl", "srt", "vtt"]

CUE_CHARS = 84  # two lines of 42, as broadcasters have it
CUE_S = 6.0
CUE_PAUSE_S = 0.8  # a pause this long ends a cue


@dataclass(frozen=True, slots=True)
class Cue:
    """What stands on the screen at a time."""

    start_s: float
    end_s: float
    text: str


def cues(piece: Piece) -> list[Cue]:
    """A piece as subtitles: cut between words where their times are known, else one cue as long as the piece."""
    if not piece.words:
        return [Cue(piece.start_s, piece.end_s, piece.text)] if piece.text else []
    groups: list[list[Word]] = [[]]
    for word in piece.words:
        group = groups[-1]
        if group and (
            len(" ".join(w.text for w in [*group, word])) > CUE_CHARS
            or word.end_s - group[0].start_s > CUE_S
            or word.start_s - group[-1].end_s > CUE_PAUSE_S
        ):
            groups.append([])
        groups[-1].append(word)
    return [Cue(group[0].start_s, group[-1].end_s, " ".join(word.text for word in group)) for group in groups]


class Writer:
    """Writes what is heard as it comes, to one stream, in one format; `close` when all of it has come."""

    def __init__(self, out: TextIO, format: Format, *, with_names: bool) -> None:
        self._out, self._format, self._with_names = out, format, with_names
        self._num_cues, self._pieces, self._recordings = 0, [], []
        if format == "vtt":
            self._out.write("WEBVTT\n\n")

    def add(self, heard: Heard) -> None:
        """The next piece of a recording, or its end."""
        lines = "".join(getattr(self, f"_{self._format}")(heard))
        self._out.write(lines)
        if lines:
            self._out.flush()

    def close(self) -> None:
        if self._format == "json":
            self._out.write(json.dumps(self._recordings, ensure_ascii=False, indent=1) + "\n")
        self._out.flush()

    def _txt(self, heard: Heard) -> Iterator[str]:
        if heard.piece is not None and heard.piece.text:
            yield (f"{heard.path}\t" if self._with_names else "") + heard.piece.text + "\n"

    def _jsonl(self, heard: Heard) -> Iterator[str]:
        if heard.piece is not None:
            yield json.dumps({"file": str(heard.path), **heard.piece.to_json()}, ensure_ascii=False) + "\n"
        elif heard.error is not None or heard.warnings:
            error = {} if heard.error is None else {"error": str(heard.error)}
            yield json.dumps({"file": str(heard.path), **error, **_warnings(heard)}, ensure_ascii=False) + "\n"

    def _json(self, heard: Heard) -> Sequence[str]:
        if heard.piece is not None:
            self._pieces.append(heard.piece)
            return ()
        self._recordings.append(
            {
                "file": str(heard.path),
                "duration_s": round(self._pieces[-1].end_s, 3) if self._pieces else 0.0,
                "text": " ".join(piece.text for piece in self._pieces if piece.text),
                "pieces": [piece.to_json() for piece in self._pieces],
                "error": None if heard.error is None else str(heard.error),
                **_warnings(heard),
            }
        )
        self._pieces = []
        return ()

    def _srt(self, heard: Heard) -> Iterator[str]:
        for cue in cues(heard.piece) if heard.piece is not None else ():
            self._num_cues += 1
            yield f"{self._num_cues}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_lines(cue.text)}\n\n"

    def _vtt(self, heard: Heard) -> Iterator[str]:
        for cue in cues(heard.piece) if heard.piece is not None else ():
            text = _lines(cue.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            yield f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{text}\n\n"


def _warnings(heard: Heard) -> dict[str, list[str]]:
    return {"warnings": list(heard.warnings)} if heard.warnings else {}


def _clock(at_s: float, point: str) -> str:
    """`01:02:03,045`."""
    ms = round(1000 * at_s)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _lines(text: str) -> str:
    """A cue's text in one line, or in two of about the same length."""
    words = text.split()
    if len(text) <= CUE_CHARS // 2 or len(words) < 2:
        return " ".join(words)
    firsts = [" ".join(words[:i]) for i in range(1, len(words))]
    best = min(range(len(firsts)), key=lambda i: abs(2 * len(firsts[i]) - len(text)))
    return f"{firsts[best]}\n{' '.join(words[best + 1 :])}"
