"""Files of the main rank's run folder at nodes that do not see it: the main one's are the truth.

Nodes may share the folder, as most clusters do, or have one each. What ranks read of it (shards, a checkpoint to go on
from) is then sent before they read it, over the network that they train over; checkpoints and results are written on
the main node alone. A folder that was filled so says it, and no training is led from there by mistake.
"""

import shutil
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from uuid import uuid4

import torch
import torch.distributed as dist

from shibolet.errors import DataError
from shibolet.records.files import hash_file, write_bytes, writing
from shibolet.train.nodes import this_node
from shibolet.train.ranks import IDLE_PATIENCE, any_rank, by_main, from_main, of_all

COPY_MARKER = "COPY_OF_ANOTHER_NODE"  # in a run folder
_CHUNK_BYTES = 16 << 20

_receivers: dist.ProcessGroup | None = None  # the main rank, and the first one of each node without its files
_is_receiver = False


def look_for_main(run: Path) -> None:
    """Find out which nodes see the main rank's run folder; `run` is that of this node. Every rank calls it.

    DataError where the main rank would go on from a copy, or where another run lies in the way of one.
    """
    global _receivers, _is_receiver
    token = from_main(f".main-{uuid4().hex}")
    by_main(lambda: _begin_as_main(run, token))
    node, here = this_node(), (run / token).exists()
    faults = of_all(None if here or not node.is_first else _fault_of_copy(run))
    lacking = [rank for rank, sees in enumerate(of_all(here)) if not sees and rank % node.num_ranks == 0]
    by_main(lambda: (run / token).unlink(missing_ok=True))
    if fault := next(filter(None, faults), None):
        raise DataError(fault)
    _receivers = dist.new_group([0, *lacking], backend="gloo", timeout=IDLE_PATIENCE) if lacking else None
    _is_receiver = _receivers is not None and dist.get_rank() in lacking
    if _is_receiver:
        write_bytes(run / COPY_MARKER, b"shards and checkpoints here are copies of those of the main node\n")


def _begin_as_main(run: Path, token: str) -> None:
    if (run / COPY_MARKER).exists():
        raise DataError(
            f"{run} has copies of another node's run folder; make that node the main one, or, where it is lost, delete "
            f"{run / COPY_MARKER} to go on from what was copied"
        )
    write_bytes(run / token, b"")


def _fault_of_copy(run: Path) -> str | None:
    if (run / COPY_MARKER).exists() or not (run / ".stages").exists():
        return None
    return (
        f"node {this_node().index} does not see the main node's run folder, and {run} there holds a run of its own; "
        "name a new folder with -o, or a folder that both nodes see"
    )


def are_needed() -> bool:
    """Whether some node does not see the main rank's files; the same on every rank."""
    return dist.is_initialized() and _receivers is not None


def copy_from_main(folder: Path, parts: Sequence[str] = ("",)) -> None:
    """Make `folder` at nodes that do not see the main rank's what these parts of it are there.

    Every rank calls it, with its own path. Files that are equal stay; all others in the folder go.
    """
    if not are_needed():
        return
    if _is_receiver or dist.get_rank() == 0:
        told = [None if _is_receiver else _files_of(folder, parts)]
        dist.broadcast_object_list(told, src=0, group=_receivers)
        files = told[0]
        lacking = {name for name, stamp in files.items() if _is_receiver and _stamp(folder / name) != stamp}
        wanted: list[set[str]] = [set()] * dist.get_world_size(_receivers)
        dist.all_gather_object(wanted, lacking, group=_receivers)
        for name in sorted(set().union(*wanted)):
            _send(folder / name, files[name], to_disk=name in lacking)
        if _is_receiver:
            _remove_others(folder, files)
    any_rank(False)


def _files_of(folder: Path, parts: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Size and hash of each file of these parts, by its path in the folder."""
    files = sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): _stamp(file) for file in files}


def _stamp(file: Path) -> tuple[int, str] | None:
    return (file.stat().st_size, hash_file(file)) if file.is_file() else None


def _send(file: Path, stamp: tuple[int, str], *, to_disk: bool) -> None:
    """From the main rank to all receivers, of which some may not need it."""
    size, _ = stamp
    sizes = [min(_CHUNK_BYTES, size - at) for at in range(0, size, _CHUNK_BYTES)]
    if not _is_receiver:
        with file.open("rb") as source:
            for num in sizes:
                dist.broadcast(torch.frombuffer(bytearray(source.read(num)), dtype=torch.uint8), 0, _receivers)
        return
    with writing(file, durable=False) if to_disk else nullcontext() as target:
        for num in sizes:
            chunk = torch.empty(num, dtype=torch.uint8)
            dist.broadcast(chunk, 0, _receivers)
            if target is not None:
                target.write(chunk.numpy())
    if to_disk and _stamp(file) != stamp:
        raise DataError(f"{file} did not arrive as the main node has it; run the same command again")


def _remove_others(folder: Path, files: Collection[str]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)
