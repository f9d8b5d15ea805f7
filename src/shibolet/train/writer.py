"""Checkpoints written beside the training: the loop waits for a copy in host memory, a thread for the disk."""

import logging
import time
from collections.abc import Collection, Iterable
from functools import partial
from threading import Event, Thread

import torch
from torch import Tensor

from shibolet.errors import DiskError
from shibolet.listen.processes import give_way
from shibolet.records.ahead import Ahead
from shibolet.train.checkpoint import WEIGHTS, CheckpointStore
from shibolet.train.host_copies import HostCopies, Layout

LOG = logging.getLogger(__name__)


class CheckpointWriter:
    """Commits one checkpoint after the other; the copies of the next are taken while the disk still has this one.

    Host memory holds the masters and moments once more, from `reserve` to `close`.
    """

    def __init__(self, store: CheckpointStore, *, page_locked: bool) -> None:
        self._store = store
        self._copies = HostCopies(page_locked=page_locked)
        self._written = Event()  # the copies are free
        self._written.set()
        self._hurry = Event()  # somebody waits: until then the cores are the training's
        self._thread: Thread | None = None
        self._deleting: Ahead[None] | None = None  # of checkpoints that nobody keeps: seconds each
        self._failure: Exception | None = None
        self._committed: list[int] = []
        self._newest: tuple[int, dict[str, Tensor]] = (-1, {})  # a step, and its weights as they were copied

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def reserve(self, layout: Layout) -> None:
        """Begin to get memory for copies of tensors, each by its `key`."""
        self._copies.lay_out(layout)

    def submit(
        self, step: int, state: dict, tensors: Iterable[tuple[str, str, Tensor]], keep: Collection[int]
    ) -> float:
        """Copy the tensors, each with its kind and name, and commit them in the background.

        Then all but `keep` and the newest are deleted. Gives the seconds that the caller was held up. After a failure
        nothing is written any more.
        """
        started = time.perf_counter()
        self.hurry()
        self._written.wait()
        self._hurry.clear()
        copied: dict[str, dict[str, Tensor]] = {}
        for kind, name, tensor in tensors:
            copied.setdefault(kind, {})[name] = self._copies.copy(key(kind, name), tensor)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._newest = step, {k: copy for kind in WEIGHTS for k, copy in copied.get(kind, {}).items()}
        self._written = Event()  # its own: one before it may still be on its way to the disk, and end meanwhile
        given = (self._thread, step, state, copied, keep, self._written)
        self._thread = Thread(target=self._write, args=given, name="checkpoint")
        self._thread.start()
        return time.perf_counter() - started

    def copied(self, step: int) -> dict[str, Tensor] | None:
        """Every parameter that was trained up to a step, from the copies; None where these are of another step."""
        newest, weights = self._newest
        return weights if step == newest else None

    def hurry(self) -> None:
        """The training needs its cores no more: let what is being written have them."""
        self._hurry.set()

    def wait(self) -> None:
        """Until what was submitted is on disk; DiskError when it could not be written."""
        self._join()
        if isinstance(self._failure, OSError):
            raise DiskError(
                f"a checkpoint could not be written to {self._store.root}: {self._failure}; the ones before it are "
                "intact: make room and run the same command again"
            ) from self._failure
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Until nothing is being written any more, whether it could be or not; the memory goes."""
        self._join()
        try:
            self.end_deleting()
        except DiskError as error:
            LOG.warning("%s", error)
        self._newest = (-1, {})
        self._copies.close()

    def keep_only(self, steps: Collection[int]) -> None:
        """Delete the others but the newest, in the background."""
        self.end_deleting()
        self._deleting = Ahead(partial(self._store.keep_only, steps, hurry=self._hurry))

    def end_deleting(self) -> None:
        """Wait for that; DiskError when they could not be."""
        try:
            if self._deleting is not None:
                self._deleting.get()
        except OSError as error:
            raise DiskError(
                f"checkpoints in {self._store.root} that are no longer needed could not be deleted: {error}; nothing "
                "else is lost: see to it and run the same command again"
            ) from error

    def committed(self) -> list[int]:
        """Steps whose checkpoints came to stand on disk since the last call."""
        steps, self._committed = self._committed, []
        return steps

    def _join(self) -> None:
        self.hurry()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(
        self, before: Thread | None, step: int, state: dict, tensors: dict[str, dict[str, Tensor]],
        keep: Collection[int], written: Event,
    ) -> None:  # fmt: skip
        give_way()
        try:
            if before is not None:
                before.join()
            if self._failure is None:
                self.end_deleting()  # the disk need not have room for those too
                self._store.save(step, state, tensors, written.set, self._hurry)
                self._committed.append(step)
                self.keep_only(keep)
        except Exception as error:  # raised again in the loop's thread
            self._failure = error
        finally:
            written.set()


def key(kind: str, name: str) -> str:
    """Of a tensor of a checkpoint in a `Layout`."""
    return f"{kind}/{name}"
