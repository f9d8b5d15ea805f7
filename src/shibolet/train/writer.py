"""Checkpoints written beside the training: the loop waits for a copy in host memory, a thread for the disk."""

import time
from collections.abc import Collection, Iterable
from threading import Thread

import torch
from safetensors import SafetensorError
from torch import Tensor

from shibolet.errors import DiskError
from shibolet.train.checkpoint import CheckpointStore


class CheckpointWriter:
    """Commits one checkpoint at a time; the next waits for the one before.

    The copies stay allocated between checkpoints (page-locked next to a GPU: that is what makes copying fast, and slow
    to allocate), so host memory holds the masters and moments once more.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._copies: dict[str, Tensor] = {}
        self._thread: Thread | None = None
        self._failure: Exception | None = None
        self._committed: list[int] = []

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def submit(
        self, step: int, state: dict, tensors: Iterable[tuple[str, str, Tensor]], keep: Collection[int]
    ) -> float:
        """Copy the tensors, each with its file and name, and commit them in the background.

        Then all but `keep` and the newest are deleted. Gives the seconds that the caller was held up. Raises what went
        wrong with the checkpoint before.
        """
        started = time.perf_counter()
        self.wait()
        copied: dict[str, dict[str, Tensor]] = {}
        for file, name, tensor in tensors:
            copied.setdefault(file, {})[name] = self._copy(f"{file}/{name}", tensor)
        self._copies = {f"{file}/{name}": copy for file, named in copied.items() for name, copy in named.items()}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._thread = Thread(target=self._write, args=(step, state, copied, keep), name="checkpoint", daemon=True)
        self._thread.start()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until what was submitted is on disk; DiskError when it could not be written."""
        self.close()
        if isinstance(self._failure, OSError | SafetensorError):
            raise DiskError(
                f"a checkpoint could not be written to {self._store.root}: {self._failure}; the ones before it are "
                "intact: make room and run the same command again"
            ) from self._failure
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Until nothing is being written any more, whether it could be or not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def committed(self) -> list[int]:
        """Steps whose checkpoints came to stand on disk since the last call."""
        steps, self._committed = self._committed, []
        return steps

    def _copy(self, key: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get(key)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return copy.copy_(tensor, non_blocking=True)

    def _write(self, step: int, state: dict, tensors: dict[str, dict[str, Tensor]], keep: Collection[int]) -> None:
        try:
            self._store.save(step, state, tensors)
            self._store.keep_only(keep)
            self._committed.append(step)
        except Exception as error:  # raised again in the loop's thread
            self._failure = error
