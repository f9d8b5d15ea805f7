"""Files that went wrong in every way that we can think of, each from a seed: cut, flipped, of another type, absurd."""

import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# What a value becomes: other types, limits of them, text that nobody writes.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"),
    "", " ", "x", "0", "\ud800", "\u202eabc\u2066", "a\x00b", "\n", "../x", "/", ".", "x" * 100_000, "é" * 3, "[]",
    "null", "1e5", [], {}, [[]], [None], [1, "x"], {"": 1}, {"x": None}, ["x"] * 300, {"format": 1},
)  # fmt: skip


def mutated_value(rng: random.Random, value: Any) -> Any:
    """Plain data with one to three changes, each at a random place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.random():
            case chance if chance < 0.06:
                return {name: item for name, item in value.items() if name != key}
            case chance if chance < 0.1:
                return {(f"{name}x" if name == key else name): item for name, item in value.items()}
            case chance if chance < 0.13:
                return {**value, rng.choice(("x", "", "format", "ס")): rng.choice(ODD)}
            case chance if chance < 0.17:
                return {**value, key: value[rng.choice(list(value))]}
        return {**value, key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        match rng.random():
            case chance if chance < 0.08:
                return value[:place] + value[place + 1 :]
            case chance if chance < 0.14:
                return value[: place + 1] + value[place:]
            case chance if chance < 0.18:
                return []
        return [*value[:place], _changed(rng, value[place]), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, value * 1e6, value / 7, str(value), [value]))
    if isinstance(value, str) and rng.random() < 0.3:
        return rng.choice((value[:-1], value + value, value.upper(), value[::-1], f"{value}\u200b", f" {value} "))
    return _nested(rng) if rng.random() < 0.01 else rng.choice(ODD)


def _nested(rng: random.Random) -> Any:
    """Deeper than any reader goes."""
    value: Any = 1
    for _ in range(rng.choice((50, 800))):
        value = [value] if rng.random() < 0.5 else {"x": value}
    return value


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """A file that was cut, in which bits flipped, lines moved, or something was written over."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(_DAMAGES)(rng, content)
    return content


def _place(rng: random.Random, content: bytes) -> int:
    return rng.randrange(len(content) + 1)


def _flipped(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return b"\x01"
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _swapped(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _without(rng: random.Random, content: bytes) -> bytes:
    first = _place(rng, content)
    return content[:first] + content[first + rng.choice((1, 2, 16, 300)) :]


def _over(rng: random.Random, content: bytes) -> bytes:
    first, more = _place(rng, content), rng.choice(_JUNK)
    return content[:first] + more + content[first + rng.choice((0, len(more))) :]


_JUNK = (
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\xef\xbb\xbf",
    b'"',
    b"{",
    b"]",
    b"\n",
    b",",
    b"9" * 400,
    b"\x80",
    b"NaN",
    b"\\u",
)
_DAMAGES: Sequence[Callable[[random.Random, bytes], bytes]] = (
    _flipped, _flipped, _flipped, _swapped, _without, _over, _over,
    lambda rng, content: content[: _place(rng, content)],
    lambda rng, content: content[_place(rng, content) :],
    lambda rng, content: content + content[_place(rng, content) :],
    lambda rng, content: b"",
)  # fmt: skip


def mutated_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON file with another value in it, or with damage to its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    value = mutated_value(rng, json.loads(content))
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def mutated_jsonl(rng: random.Random, content: bytes) -> bytes:
    """A JSONL file with another value in one of its lines, or with damage to its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    lines = content.rstrip(b"\n").split(b"\n")
    place = rng.randrange(len(lines))
    lines[place] = mutated_json(rng, lines[place])
    return b"\n".join(lines) + b"\n"


def mutated_parquet(rng: random.Random, content: bytes) -> bytes:
    """A table with another column, or with damage to its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    table = pq.read_table(pa.BufferReader(content))
    name = rng.choice(table.schema.names)
    place, values = table.schema.get_field_index(name), table[name].to_pylist()
    match rng.random():
        case chance if chance < 0.1:
            table = table.slice(0, rng.choice((0, 1)))
        case chance if chance < 0.2:
            table = pa.concat_tables([table, table])
        case chance if chance < 0.25:
            table = table.drop_columns([name])
        case chance if chance < 0.6:  # other values of the same type, where it has them
            some = [mutated_value(rng, value) for value in values[:5]]
            try:
                table = table.set_column(place, name, pa.array([*some, *values[5:]], table.schema.field(name).type))
            except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
                table = table.set_column(place, name, pa.array(values[::-1], table.schema.field(name).type))
        case chance if chance < 0.8:
            odd = rng.choice([None, 5, "x", -1.0, float("nan"), [1], {"x": 1}])
            table = table.set_column(place, name, pa.array([odd] * len(table)))
        case _:
            table = table.set_column(place, name, pa.array(values[::-1], table.schema.field(name).type))
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()
