"""Weights in safetensors files: written several files at once, hashed as they are written, synced.

A file has the bytes that the library's `save_file` gives, which hashes nothing and takes one file after the other.
"""

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Event

import numpy as np
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from shibolet.model.folders import INDEX
from shibolet.records.ahead import in_lanes
from shibolet.records.files import remember_hash, write_bytes

SHARD_SIZE = "2GB"
_LANES = 8  # files at once: a core writes and hashes 1 GB/s
_SYNC_FILE_RANGE_WRITE = 2  # of linux/fs.h
_SYNC_BYTES = 64 << 20  # after so many the disk begins with them: at the end of a file it has been idle for a second
_PIECE_BYTES = 8 << 20  # is written and hashed while it is in a core's cache
_NAMES = {  # in the order in which a file has them: the widest last here are the first there
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
_RANKS = {dtype: rank for rank, dtype in enumerate(_NAMES)}


def write_weights(
    files: Mapping[Path, Mapping[str, Tensor]], metadata: Mapping[str, str] | None = None, hurry: Event | None = None
) -> list[str]:
    """Write each file of tensors by name, from whichever device; the hash of each file, 16 hex digits of SHA-256.

    Until `hurry` is set, where there is one, most cores are left to others. Returns, or raises what one of them failed
    of, when nothing is being written any more. Nothing is on disk for certain before `sync_weights`.
    """
    return in_lanes(lambda path: _write(path, files[path], metadata), list(files), _LANES, hurry)


def sync_weights(hashes: Mapping[Path, str]) -> None:
    """Have files that `write_weights` wrote on disk; `hash_file` then knows their hashes."""

    def sync(path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        remember_hash(path, hashes[path])

    in_lanes(sync, list(hashes), _LANES)


def write_sharded(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a model's weights into a folder, to the disk: the same files as `save_torch_state_dict` gives."""
    # By names and sizes: it takes weights that lie in one tensor for one weight.
    sizes = {name: torch.empty(weight.shape, dtype=weight.dtype, device="meta") for name, weight in state.items()}
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=SHARD_SIZE)
    files = {path / file: {name: state[name] for name in names} for file, names in split.filename_to_tensors.items()}
    sync_weights(dict(zip(files, write_weights(files, {"format": "pt"}), strict=True)))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_bytes(path / INDEX, json.dumps(index, indent=2).encode())


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> str:
    names = sorted(tensors, key=lambda name: (-_RANKS[tensors[name].dtype], name.encode()))
    digest = hashlib.sha256()
    path.unlink(missing_ok=True)  # it may be a link to a file of another folder
    with path.open("wb") as file:
        begun = 0  # bytes that the disk has begun with
        for data in (_header({name: tensors[name] for name in names}, metadata), *map(tensors.get, names)):
            view = memoryview(data if isinstance(data, bytes) else _bytes_of(data))
            for begin in range(0, len(view), _PIECE_BYTES):
                piece = view[begin : begin + _PIECE_BYTES]
                digest.update(piece)
                file.write(piece)
                if (end := file.tell()) - begun >= _SYNC_BYTES:
                    file.flush()
                    _begin_to_sync(file.fileno(), begun, end - begun)
                    begun = end
        file.flush()
        _begin_to_sync(file.fileno(), begun, 0)
    return digest.hexdigest()[:16]


def _begin_to_sync(descriptor: int, offset: int, num_bytes: int) -> None:
    """On Linux have the disk begin with these bytes, so that `sync_weights` has less to wait for; 0 is to the end."""
    if sys.platform == "linux" and (begin := getattr(ctypes.CDLL(None), "sync_file_range", None)):
        begin(descriptor, ctypes.c_int64(offset), ctypes.c_int64(num_bytes), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    """Its length and, as JSON, where each tensor lies behind it; padded to whole words of 8 bytes."""
    entries: dict = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
