"""What a W&B run that was written offline holds, read from its `.wandb` files: records of protobuf in a LevelDB log."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record

_BLOCK_BYTES, _FILE_HEADER_BYTES = 32768, 7


@dataclass
class WandbRun:
    """All sessions of one run, in the order in which they were written."""

    ids: set[str] = field(default_factory=set)
    history: list[dict[str, Any]] = field(default_factory=list)  # lines, media as their JSON
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)  # key -> columns and data
    alerts: list[tuple[str, str]] = field(default_factory=list)
    artifacts: list[tuple[str, list[str]]] = field(default_factory=list)  # name, and names of the version
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    tags: set[str] = field(default_factory=set)

    def number(self, key: str) -> list[float]:
        """The values of a key, line by line."""
        return [line[key] for line in self.history if key in line]

    def types(self) -> dict[str, set[str]]:
        """The types of each key in the whole history; all numbers are one."""
        found: dict[str, set[str]] = {}
        for line in self.history:
            for key, value in line.items():
                kind = "number" if isinstance(value, int | float) else type(value).__name__
                found.setdefault(key, set()).add(kind)
        return found


def read_run(tracking: Path) -> WandbRun:
    """The run in the folder `tracking` of a run folder."""
    wandb.teardown()  # its process writes after `finish` has returned
    run = WandbRun()
    for path in sorted(tracking.glob("wandb/offline-run-*/*.wandb")):
        for content in _records(path.read_bytes()):
            _add(run, Record.FromString(content), path.parent / "files")
    return run


def _add(run: WandbRun, record: Record, files: Path) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.ids.add(record.run.run_id)
        run.group, run.tags, run.name = record.run.run_group, set(record.run.tags), record.run.display_name
        run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    elif kind == "alert":
        run.alerts.append((record.alert.title, record.alert.text))
    elif kind == "request" and record.request.HasField("log_artifact"):
        _add_artifact(run, record.request.log_artifact.artifact)
    elif kind == "artifact":
        _add_artifact(run, record.artifact)
    elif kind == "history":
        line: dict[str, Any] = {}
        for item in record.history.item:
            key, *inner = [item.key] if item.key else item.nested_key
            place = line if not inner else line.setdefault(key, {})
            place["/".join(inner) or key] = json.loads(item.value_json)
        run.history.append(line)
        for key, value in line.items():
            if isinstance(value, dict) and value.get("_type") == "table-file":
                run.tables[key] = json.loads((files / value["path"]).read_text())


def _add_artifact(run: WandbRun, artifact: ArtifactRecord) -> None:
    run.artifacts.append((artifact.name, sorted(artifact.aliases)))


def _records(content: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log: blocks of fragments with a checksum, a length and a type (1 whole, 2 to 4 parts)."""
    at, parts = _FILE_HEADER_BYTES, b""
    while at + 7 <= len(content):
        left = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        if kind == 0:  # the rest of the block is empty
            at += left
            continue
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
