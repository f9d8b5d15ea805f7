"""Ways to damage a file: cut, emptied, one bit flipped, or valid and different as what it is."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

Change = Callable[[Path], None]  # rewrites a file as a valid one of the same kind with another content
WAYS = ("cut", "emptied", "bit", "different")


def damage(path: Path, way: str, change: Change) -> bool:
    """Damage a file; False where this way would change nothing in it.

    A flipped bit leaves size and time of the file as they are, as a disk does that forgets.
    """
    before, stat = path.read_bytes(), path.stat()
    path.unlink()  # the round's other copies may share the file
    if way == "cut":
        path.write_bytes(before[: len(before) // 2])
    elif way == "emptied":
        path.write_bytes(b"")
    elif way == "bit":
        middle = len(before) // 2
        path.write_bytes(
            before[:middle] + bytes(byte ^ 1 for byte in before[middle : middle + 1]) + before[middle + 1 :]
        )
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        path.write_bytes(before)
        change(path)
    return path.read_bytes() != before


def json_value(*keys: str | int, value: Any = None) -> Change:
    """Another value at a place of a JSON file; none given: twice the number and one, or the text with a word more."""

    def change(path: Path) -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        before = inner[keys[-1]]
        inner[keys[-1]] = _other(before) if value is None else value
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    return change


def _other(before: Any) -> Any:
    return f"{before} אחר" if isinstance(before, str) else 2 * before + 1


def first_hash(path: Path) -> None:
    """Of a marker of an earlier version, which has no checksum: another hash for the first of its outputs."""
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["sha256"]
    document["outputs"][next(iter(document["outputs"]))] = "0123456789abcdef"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def line_value(key: str, value: Any = None) -> Change:
    """Another value in the first line of a JSONL file."""

    def change(path: Path) -> None:
        lines = path.read_text(encoding="utf-8").split("\n")
        row = json.loads(lines[0])
        row[key] = _other(row[key]) if value is None else value
        path.write_text("\n".join([json.dumps(row, ensure_ascii=False), *lines[1:]]), encoding="utf-8")

    return change


def line_less(path: Path) -> None:
    """A JSONL file without its last line."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")


def line_more(line: str) -> Change:
    """A text file with a line more."""
    return lambda path: path.write_bytes(path.read_bytes() + f"{line}\n".encode())


def evidence_text(path: Path) -> None:
    """Of evidence: the second clip's line says what the first one's says, and places are as before."""
    head, *lines = path.read_bytes().split(b"\n")
    first, second = json.loads(lines[0]), json.loads(lines[1])
    second["hypothesis"] = first["hypothesis"][::-1]
    lines[1] = json.dumps(second, ensure_ascii=False).encode().ljust(len(lines[1]))
    begins, position = {}, 0
    found = json.loads(head)
    for content_id, line in zip(found["begins"], lines):
        begins[content_id] = position
        position += len(line) + 1
    path.write_bytes(b"\n".join([json.dumps({**found, "begins": begins}).encode(), *lines]))


def texts_reversed(path: Path) -> None:
    """A Parquet table of which every text is written backwards."""
    table = pq.read_table(path)
    place = table.schema.get_field_index("text")
    texts = [text and text[::-1] for text in table["text"].to_pylist()]
    pq.write_table(table.set_column(place, table.schema.field("text"), [texts]), path)


def rows_less(path: Path) -> None:
    """A Parquet table of which a third of the rows is gone."""
    table = pq.read_table(path)
    pq.write_table(table.slice(0, max(1, 2 * len(table) // 3)), path)


def one_weight(path: Path) -> None:
    """Of safetensors: another value of the last weight, under a header that is right."""
    content = bytearray(path.read_bytes())
    (header_bytes,) = struct.unpack("<Q", content[:8])
    assert len(content) > header_bytes + 16
    content[-4:] = struct.pack("<f", 0.25)
    path.write_bytes(bytes(content))


def bytes_more(path: Path) -> None:
    """A file of another program's format, a byte longer."""
    path.write_bytes(path.read_bytes() + b"\0")
