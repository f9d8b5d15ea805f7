"""Checkpoints that are whole or ignored: written aside, synced, renamed, marked last; the newest verified wins.

    checkpoints/step-00000500/   state.json, *.safetensors, manifest.json (sizes and hashes), COMPLETE

Tensors of a kind are in `masters.safetensors`, and where there are many in `masters-1.safetensors` and so on, which are
written and hashed at the same time.

The same state gives the same bytes: no times, no pickles.
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shibolet.errors import CheckpointError, DataError
from shibolet.model.weights import sync_weights, write_weights
from shibolet.records.ahead import in_lanes
from shibolet.records.files import hash_file, hash_files, make_folder, sync_dir, take_over, write_bytes, write_json
from shibolet.records.reading import read_as, read_own

LOG = logging.getLogger(__name__)
_MARKER, _MANIFEST, _STATE, _PREFIX = "COMPLETE", "manifest.json", "state.json", "step-"
WEIGHTS = ("frozen", "masters")  # kinds of tensors, of which each parameter that ever trained has one
_PART_BYTES = 512 << 20  # of a file, or one tensor
_LANES = 8  # files that are deleted at once
_COPIED = 1 << 26  # numbers of a weight at a time
_REMEDY = "delete that checkpoint to go on from the one before"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the manifest says of a file."""

    bytes: int
    sha256: str  # 16 hex digits

    @classmethod
    def of(cls, file: Path) -> "Stamp":
        return cls(file.stat().st_size, hash_file(file))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    state: dict

    @property
    def step(self) -> int:
        return _step_of(self.path)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of a kind ("masters", "moments", "frozen"), on the CPU; none when the checkpoint has none."""
        files = [*self.path.glob(f"{name}.safetensors"), *self.path.glob(f"{name}-*.safetensors")]
        return {key: tensor for file in files for key, tensor in load_file(file).items()}

    def weights(self) -> dict[str, Tensor]:
        """Every parameter that was trained up to here, float32 where it has a master."""
        return {name: tensor for kind in WEIGHTS for name, tensor in self.tensors(kind).items()}


class CheckpointStore:
    """The checkpoints of one training run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_folder(root)

    def path(self, step: int) -> Path:
        return self.root / f"{_PREFIX}{step:08d}"

    def save(
        self, step: int, state: dict, tensors: Mapping[str, Mapping[str, Tensor]],
        when_written: Callable[[], None] = lambda: None, hurry: Event | None = None,
    ) -> Path:  # fmt: skip
        """Commit a checkpoint of tensors by kind; a crash at any moment leaves it whole or unmarked.

        `when_written` is called once the tensors may change, while the disk is still at work. `hurry`: as of
        `write_weights`.
        """
        path = self.path(step)
        if (path / _MARKER).exists():
            return path
        partial = self.root / f".{path.name}.partial"
        for leftover in (partial, path):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        files = {partial / name: part for kind, named in tensors.items() for name, part in _parts(kind, named)}
        hashes = dict(zip(files, write_weights(files, None, hurry), strict=True))
        when_written()
        sync_weights(hashes)
        write_json(partial / _STATE, state)
        stamps = {file.name: Stamp(file.stat().st_size, found) for file, found in hashes.items()}
        stamps[_STATE] = Stamp.of(partial / _STATE)
        write_json(partial / _MANIFEST, {name: asdict(stamps[name]) for name in sorted(stamps)})
        os.replace(partial, path)
        sync_dir(self.root)
        write_bytes(path / _MARKER, hash_file(path / _MANIFEST).encode())
        return path

    def copy(self, step: int, state: dict, target: "CheckpointStore") -> None:
        """Put a checkpoint that `at` gave into another store with a state of its own.

        Files are links where both are on one disk. Their hashes are those of the manifest: who reads them verifies it.
        """
        source, path = self.path(step), target.path(step)
        path.mkdir()
        stamps = read_as(source / _MANIFEST, dict[str, Stamp], _REMEDY)
        for name in stamps:
            if name != _STATE:
                take_over(source / name, path / name)
        write_json(path / _STATE, state)
        stamps[_STATE] = Stamp.of(path / _STATE)
        write_json(path / _MANIFEST, {name: asdict(stamps[name]) for name in sorted(stamps)})
        sync_dir(path)
        write_bytes(path / _MARKER, hash_file(path / _MANIFEST).encode())

    def steps(self) -> list[int]:
        """Steps of the checkpoints that were finished, the oldest first; nobody has looked whether they are whole."""
        return sorted(_step_of(path) for path in self._folders() if (path / _MARKER).exists())

    def latest(self, at_most: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that verifies, of at most that step; None when none was ever committed.

        Broken ones are named in the log; CheckpointError when there are only broken ones.
        """
        broken = []
        for path in sorted(self._folders(), reverse=True):
            if at_most is not None and _step_of(path) > at_most:
                continue
            if not (path / _MARKER).exists():
                LOG.warning("checkpoint %s was not finished and is ignored", path)
                continue
            if fault := _fault(path):
                LOG.warning("checkpoint %s is broken and is left out: %s", path, fault)
                broken.append(f"{path.name}: {fault}")
                continue
            return Checkpoint(path, read_own(path / _STATE, _REMEDY))
        if broken:
            raise CheckpointError(
                f"no checkpoint in {self.root} can be used ({'; '.join(broken)}); delete it to start anew"
            )
        return None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step; CheckpointError when it is not there or broken."""
        path = self.path(step)
        if fault := "not there" if not (path / _MARKER).exists() else _fault(path):
            raise CheckpointError(f"checkpoint {path}: {fault}")
        return Checkpoint(path, read_own(path / _STATE, _REMEDY))

    def keep_only(self, steps: Collection[int], last: int = 2, hurry: Event | None = None) -> None:
        """Delete all but the checkpoints of `steps` and the `last` newest; the marker goes first.

        Several files at once, as a system takes a second to forget 4 GB, and few before `hurry` is set.
        """
        committed = sorted(path for path in self._folders() if (path / _MARKER).exists())
        for path in committed[:-last]:
            if _step_of(path) not in steps:
                (path / _MARKER).unlink()
                sync_dir(path)
        for path in self._folders():
            if not (path / _MARKER).exists():  # those, and what a crash left of earlier ones
                in_lanes(os.unlink, [file for file in path.iterdir() if file.is_file()], _LANES, hurry)
                shutil.rmtree(path)

    def discard_after(self, step: int) -> None:
        """Delete what is broken or unfinished beyond `step`, so that the run can write it again."""
        for partial in self.root.glob(f".{_PREFIX}*.partial"):
            shutil.rmtree(partial)
        for path in self._folders():
            if _step_of(path) > step:
                if (path / _MARKER).is_file():
                    (path / _MARKER).unlink()
                shutil.rmtree(path)

    def _folders(self) -> list[Path]:
        named = [path for path in self.root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
        return [path for path in named if path.is_dir()]


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the parameters of the same names, rounded where these are: a GPU is faster at it.

    In parts, which are there once more in their own precision meanwhile.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            rows = max(1, _COPIED * len(weight) // max(1, weight.numel())) if weight.ndim else 1
            both = torch.atleast_1d(parameters[name], weight)
            for into, part in zip(*(one.split(rows) for one in both), strict=True):
                into.copy_(part.to(into.device))


def average_weights(checkpoints: Sequence[Checkpoint]) -> dict[str, Tensor]:
    """The mean of checkpoints that hold the same parameters, float32; one of them in memory at a time."""
    if len(checkpoints) == 1:
        return checkpoints[0].weights()
    mean: dict[str, Tensor] = {}
    for number, checkpoint in enumerate(checkpoints, start=1):
        for name, weight in checkpoint.weights().items():
            mean.setdefault(name, torch.zeros_like(weight, dtype=torch.float32)).lerp_(weight.float(), 1 / number)
    return mean


def _parts(kind: str, named: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The files of a kind by name, each of about `_PART_BYTES` of its tensors in their order."""
    parts: list[dict[str, Tensor]] = []
    room = 0
    for name, tensor in named.items():
        if not parts or tensor.nbytes > room:
            parts.append({})
            room = _PART_BYTES
        parts[-1][name] = tensor
        room -= tensor.nbytes
    yield from ((f"{kind}{f'-{number}' * bool(number)}.safetensors", part) for number, part in enumerate(parts))


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))


def _fault(path: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None."""
    manifest = path / _MANIFEST
    try:
        if hash_file(manifest).encode() != (path / _MARKER).read_bytes():
            return f"{_MANIFEST} is missing or was changed"
        stamps = read_as(manifest, dict[str, Stamp], _REMEDY)
    except (OSError, DataError) as error:
        return f"{_MANIFEST} or {_MARKER} cannot be read: {error}"
    for name, expected in stamps.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected.bytes:
            return f"{name} has {file.stat().st_size} bytes, {expected.bytes} were written"
    for (name, expected), found in zip(stamps.items(), hash_files([path / name for name in stamps]), strict=True):
        if found != expected.sha256:
            return f"{name} was changed"
    return None
