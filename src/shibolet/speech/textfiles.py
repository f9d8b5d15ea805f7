"""Text files as people have them, a line at a time: byte order marks, line ends, gzip, and what is no UTF-8.

Manifests, files of hypotheses and the `.txt` beside audio are all read here; what a line means is known elsewhere.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shibolet.errors import DataError
from shibolet.records.files import open_regular

MAX_LINE_BYTES = 16 * 2**20  # a longer line, or .txt, is not read
MAX_UNPACKED_RATIO = 50  # of a gzip; manifests have 8 to 21
MIN_UNPACKED_BYTES = 16 * 2**20  # that any gzip may have
_HEAD_BYTES = 64 * 1024  # looked at to tell what a file is
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",  # before the mark that it begins with
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_MIN_READABLE_FRAC = 0.95  # of characters up to U+06FF, for UTF-16 without a mark
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")


class BadRow(Exception):
    """Why a row is no utterance: a ledger rule, and the sentence for a person."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(rule, detail)
        self.rule, self.detail = rule, detail


def read_lines(path: Path) -> Iterator[tuple[int, str | BadRow]]:
    """Number and text of each line that is not blank, with its line end; a BadRow for one that cannot be read.

    One line is in memory at a time. Where the file has no line feed, lines end with carriage returns. OSError, EOFError
    or zlib.error for a file that is not UTF-8 at all, a broken gzip, and one that unpacks to absurd lengths.
    """
    with open_regular(path, _HEAD_BYTES) as raw:
        is_packed = raw.peek(2)[:2] == b"\x1f\x8b"
        with _Unpacked(raw, path.stat().st_size) if is_packed else raw as content:
            content = io.BufferedReader(content, _HEAD_BYTES) if is_packed else content
            head = content.peek(_HEAD_BYTES)
            if name := _wide_encoding(head):
                raise OSError(f"it is {name}: save it as UTF-8")
            newline = "\r" if b"\n" not in head and b"\r" in head else "\n"
            file = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline=newline)
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES and not line.endswith(newline):
                    while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(newline):
                        pass
                    yield number, BadRow("too_long_line", f"over {MAX_LINE_BYTES / 2**20:.0f} MiB")
                elif not line.isspace():
                    yield number, _checked(line)


def read_text(path: Path, name: str) -> str:
    """All of a small file; BadRow, by this name, where it cannot be read, OSError as in `Path.read_bytes`."""
    if (size := path.stat().st_size) > MAX_LINE_BYTES:
        raise BadRow("too_long_text", f"{name} has {size:,} bytes")
    content = path.read_bytes()
    if encoding := _wide_encoding(content[:_HEAD_BYTES]):
        raise BadRow("not_utf8", f"{name} is {encoding}: save it as UTF-8")
    text = _checked(content.decode("utf-8-sig", "surrogateescape"))
    if isinstance(text, BadRow):
        raise BadRow(text.rule, f"{name}: {text.detail}")
    return text


def parse_object(line: str | BadRow) -> dict[str, Any] | BadRow:
    """The object of a line of JSONL; a BadRow where it is none, or has a key twice."""
    if isinstance(line, BadRow):
        return line
    try:
        values = json.loads(line, object_pairs_hook=_without_doubles)
        if "\\u" in line:
            json.dumps(values, ensure_ascii=False).encode()  # an escaped half of a surrogate pair cannot be written
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"not JSON: {error}")
    return values if isinstance(values, dict) else BadRow("not_json", f"a {type(values).__name__}, not an object")


def require_one_object_a_line(first: str | BadRow, what: str) -> None:
    """DataError where the first line begins an array, or an object that goes over several lines."""
    line = first.strip() if isinstance(first, str) else ""
    value = _value_of(line) if line[:1] == "[" else 0
    if value is None or (isinstance(value, list) and value and all(isinstance(one, dict) for one in value)):
        raise DataError(f"{what} is a JSON array: one object a line is expected ('jq -c .[] FILE' writes them so)")
    if line == "{":
        raise DataError(
            f"{what} has an object over several lines: one a line is expected ('jq -c . FILE' writes it so)"
        )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """One sentence for a file that cannot be read, or a gzip that ends too soon."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from error


class _Unpacked(io.RawIOBase):
    """The content of a gzip; OSError once it is out of all proportion."""

    def __init__(self, raw: io.BufferedReader, num_packed: int) -> None:
        self._file = gzip.GzipFile(fileobj=raw)
        self._left = max(MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO * num_packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        num_read = self._file.readinto(buffer)
        self._left -= num_read
        if self._left < 0:
            raise OSError(f"it unpacks to over {MAX_UNPACKED_RATIO} times its size: if that is right, unpack it")
        return num_read


def one_line(text: str, max_chars: int = 300) -> str:
    """What stands in somebody's data, for a message: without line ends, and not all of it where it is long."""
    return " ".join(text.split())[:max_chars]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"'{next(key for key in keys if keys.count(key) > 1)}' occurs twice")
    return values


def _value_of(line: str) -> Any:
    """What a line is as JSON; None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _checked(text: str) -> str | BadRow:
    """The text without a mark at its start; a BadRow where a byte of it was not UTF-8."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        content = text.encode("utf-8", "surrogateescape")
        detail = f"byte 0x{ord(text[error.start]) & 0xFF:02x} at character {error.start:,} is not UTF-8"
        return BadRow("not_utf8", f"{detail}{_reads_as(content)}")
    return text[1:] if text[:1] == "\ufeff" else text


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the mark, or by what two bytes a character give."""
    found = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    for name in ("utf-16-le", "utf-16-be") if found is None else ():
        chars = head[: len(head) // 2 * 2].decode(name, "replace")
        readable = sum(char < "\u0700" and (char.isprintable() or char.isspace()) for char in chars)
        if chars and readable >= _MIN_READABLE_FRAC * len(chars):
            found = "UTF-16"
    return found


def _reads_as(content: bytes) -> str:
    """The end of a sentence on bytes that are no UTF-8: the code page they are most likely in."""
    runs = _HIGH_RUN.findall(content)
    high = b"".join(runs)
    letters = sum(0xE0 <= byte <= 0xFA for byte in high)  # of windows-1255; lower-case ones of windows-1252 too
    if letters >= 0.9 * len(high) and sum(len(run) > 1 for run in runs) * 2 > len(runs):
        return "; it reads as Hebrew in windows-1255: save it as UTF-8"
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return ": save it as UTF-8"
    return "; it may be windows-1252: save it as UTF-8"
