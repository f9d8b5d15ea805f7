"""What the host has to find out while a thread launches kernels: by processes, since pure Python would hold it up."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from shibolet.errors import ProcessLost
from shibolet.listen.decoders import AnyWorker, Decoders, InThisProcess
from shibolet.listen.processes import WorkerLost
from shibolet.records.cores import usable_cores

TOGETHER = 8  # items of a job, which costs this process 0.2 ms
MAX_WORKERS = 4
Function = Callable[[AnyWorker, Sequence], list]


def workers_beside(device: torch.device) -> int:
    """Processes that work beside a model there; a CPU that computes has none to spare."""
    return max(1, min(MAX_WORKERS, usable_cores() // 4)) if device.type == "cuda" else 0


class Beside:
    """A function of many items whose results are wanted later; the processes end with this object.

    What a process is lost over is done in place, and where none starts, everything is.
    """

    def __init__(self, function: Function, num_workers: int) -> None:
        """`function` gives a result for each item and has a worker do what is dear; 0 workers: in place, at once.

        It must not hold the object that holds this one, which would never end.
        """
        self._function = function
        self._workers = Decoders(num_workers) if num_workers else None
        if self._workers is not None:
            weakref.finalize(self, self._workers.close)

    def start(self) -> None:
        """Have the processes load their libraries now."""
        if self._workers is not None:
            self._workers.start()

    def begin(self, items: Sequence) -> Callable[[], list]:
        """Begin with items; a call that waits for their results, in order."""
        if (workers := self._workers) is None:
            found = self._in_place(items)
            return lambda: found
        parts = [items[first : first + TOGETHER] for first in range(0, len(items), TOGETHER)]
        return partial(self._collect, [(part, workers.submit(self._function, part)) for part in parts])

    def _collect(self, begun: Sequence[tuple[Sequence, Any]]) -> list:
        found = []
        for part, future in begun:
            try:
                found += future.result()
            except WorkerLost:
                found += self._in_place(part)
            except (ProcessLost, OSError):
                self._workers = None
                found += self._in_place(part)
        return found

    def _in_place(self, items: Sequence) -> list:
        return self._function(InThisProcess(), items) if items else []
