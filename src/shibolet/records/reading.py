"""Our own JSON and JSON lines, read as this program writes them; anything else is a sentence about file and place.

Files of others (models, manifests, answers of servers) have readers of their own: they may hold what ours never do.
"""

import json
import logging
import math
from codecs import BOM_UTF8
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from shibolet.errors import DataError

LOG = logging.getLogger(__name__)
Kind = TypeVar("Kind")

_MAX_DIGITS = 20  # of an integer of 64 bits, with its sign
_MAX_PLACE = 120  # characters of a key that a sentence names


def parse_own(content: bytes) -> Any:
    """The value of JSON text; ValueError for what is none, or none of ours.

    None of ours: NaN and infinities, a key that stands twice, an integer over 64 bits, half of a surrogate pair.
    """
    try:
        text = content.decode()
        value = _DECODER.decode(text)
        if "\\u" in text:  # we write no escapes, and half of a pair is no text
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise ValueError("it is UTF-16, not UTF-8" if is_utf16 else f"it is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half of a surrogate pair") from error
    return value


def read_own(path: Path, remedy: str) -> Any:
    """The value in a JSON file of ours; DataError when it is not there, cannot be read or is not whole."""
    content = read_content(path, remedy)
    try:
        return parse_own(content)
    except ValueError as error:
        raise DataError(f"{path} is not whole ({error}); {remedy}") from error


def read_as(path: Path, kind: type[Kind], remedy: str) -> Kind:
    """The value of this type in a JSON file of ours; DataError as `read_own`, and where it is of another type."""
    try:
        return _adapter(kind).validate_python(read_own(path, remedy))
    except ValidationError as error:
        raise DataError(f"{path}: {fault(error)}; {remedy}") from error


def read_cached(path: Path, kind: type[Kind]) -> Kind | None:
    """What a file keeps that can be made again: None where there is none, and, said, where it is broken."""
    try:
        return read_as(path, kind, "it is made again") if path.exists() else None
    except DataError as error:
        LOG.warning("%s", error)
        return None


def read_lines(path: Path, kind: type[Kind], remedy: str) -> list[Kind]:
    """The lines of a JSONL file, each an object of this kind; DataError names the line that is none.

    `kind` is a dataclass or a model of pydantic. Blank lines are left out, and a mark before the first one (BOM).
    """
    content = read_content(path, remedy).removeprefix(BOM_UTF8)
    lines = enumerate(content.split(b"\n"), 1)  # of bytes: U+2028 may stand inside a text
    return [parse_line(path, number, line, kind, remedy) for number, line in lines if line.strip()]


def parse_line(path: Path, number: int, line: bytes, kind: type[Kind], remedy: str) -> Kind:
    """The object of this kind in line `number` of a file; DataError for what is none."""
    try:
        return _adapter(kind).validate_python(parse_own(line))
    except ValidationError as error:
        raise DataError(f"{path}, line {number}: {fault(error)}; {remedy}") from error
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not whole ({error}); {remedy}") from error


def read_content(path: Path, remedy: str) -> bytes:
    """The bytes of a file; DataError when it is not there or cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise DataError(f"{path} cannot be read: it is not a file; {remedy}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}; {remedy}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {remedy}") from error


def fault(error: ValidationError) -> str:
    """The first of pydantic's errors, after the place that it is about."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place[:_MAX_PLACE]}: {first['msg']}" if place else first["msg"]


@lru_cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)[:_MAX_PLACE]}' stands twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or not -(1 << 63) <= (number := int(digits)) < 1 << 63:
        raise ValueError(f"the integer {digits[:_MAX_DIGITS]}... has more than 64 bits")
    return number


def _number(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:_MAX_PLACE]} is not a finite number")
    return number


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_number
)
