"""Room in host memory for copies of a checkpoint's tensors, which the disk then takes its time with.

Next to a GPU it is page-locked: copies come at the speed of the bus, and stay until the training ends, as getting ten
GiB takes seconds. It is got in blocks by threads of their own, while there is something else to do. The driver locks
one block at a time and does nothing else meanwhile, so blocks are small, and between two of them it is left alone.
"""

import mmap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from threading import Event, Lock

import torch
from torch import Tensor

from shibolet.errors import OutOfMemory
from shibolet.records.ahead import Ahead, in_lanes

_BLOCK_BYTES = 128 << 20  # or one tensor; it is locked in some 40 ms
_LANES = 8  # blocks that get their pages at once
_PORTABLE = 1  # cudaHostRegisterPortable: whichever GPU the copies come from
_ALIGNED = 512  # bytes; copies begin at multiples of it

Layout = Mapping[str, tuple[torch.Size, torch.dtype]]


class HostCopies:
    """Copies of tensors by key; a layout uses the blocks of the one before, and new ones where these are too few."""

    def __init__(self, *, page_locked: bool) -> None:
        self._page_locked = page_locked
        self._blocks: list[Tensor] = []  # of bytes
        self._copies: dict[str, Tensor] = {}
        self._layout: Layout = {}  # of these
        self._laying = Ahead(lambda: None)
        self._locking = Lock()
        self._awaited = Event()  # somebody wants to copy, and waits for all the room there is to be
        self._is_closed = False

    def lay_out(self, layout: Layout) -> None:
        """Begin to make room for a copy of each of these; earlier copies are good until the next `copy`."""
        self._awaited.set()  # whoever lays out anew waits for the room of before
        self._laying.get()
        self._awaited.clear()
        self._laying = Ahead(lambda: self._lay_out(layout))

    def copy(self, key: str, tensor: Tensor) -> Tensor:
        """A copy in the host's memory; it is whole once the device has been waited for."""
        self._awaited.set()
        self._laying.get()
        return self._copies[key].copy_(tensor, non_blocking=True)

    def close(self) -> None:
        """Give the memory back."""
        self._is_closed = True
        self._awaited.set()
        with suppress(OutOfMemory):  # then nothing was copied
            self._laying.get()
        self._copies, self._layout = {}, {}
        while self._blocks:
            if self._page_locked:
                torch.cuda.cudart().cudaHostUnregister(self._blocks[-1].data_ptr())
            self._blocks.pop()

    def _lay_out(self, layout: Layout) -> None:
        if layout.items() <= self._layout.items():
            return
        copies = {}
        free = [(block, 0) for block in self._blocks]
        left = dict(layout)
        while True:
            for at, (block, begin) in enumerate(free):
                for key in list(left):
                    if begin >= len(block):
                        break
                    shape, dtype = left[key]
                    end = begin + prod(shape) * dtype.itemsize
                    if end <= len(block):
                        copies[key] = block[begin:end].view(dtype).view(shape)
                        begin = -(-end // _ALIGNED) * _ALIGNED
                        del left[key]
                free[at] = block, begin
            if not left:
                self._copies, self._layout = copies, layout
                return
            free = [(block, 0) for block in self._new_blocks(list(_sizes(left)))]

    def _new_blocks(self, sizes: list[int]) -> list[Tensor]:
        """Blocks of these sizes; where one cannot be had, `close` gives back the others."""
        found: dict[int, Tensor] = {}

        def get(at: int) -> None:
            found[at] = self._new_block(sizes[at])

        try:
            in_lanes(get, range(len(sizes)), _LANES)
        finally:
            new = [found[at] for at in sorted(found)]
            self._blocks += new
        return new

    def _new_block(self, num_bytes: int) -> Tensor:
        self._require_open()
        block = _block(num_bytes, is_touched=self._page_locked)
        if self._page_locked:
            with self._locking, _memory_errors():
                self._require_open()
                started = time.perf_counter()
                _lock_pages(block)
                self._awaited.wait(time.perf_counter() - started)  # others, who wait for the driver, have their turn
        return block

    def _require_open(self) -> None:
        """OutOfMemory after `close`, which would only give back what is got now."""
        if self._is_closed:
            raise OutOfMemory("no more copies are made")


def _sizes(layout: Layout) -> Iterator[int]:
    """Of blocks that hold a layout in its order."""
    size = 0
    for shape, dtype in layout.values():
        own = -(-prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED
        if size and size + own > _BLOCK_BYTES:
            yield size
            size = 0
        size += own
    yield size


def _block(num_bytes: int, *, is_touched: bool) -> Tensor:
    """Zeroed memory in pages of its own, which are there once it `is_touched`."""
    with _memory_errors():
        pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError, AttributeError):  # no such pages here
            pages.madvise(mmap.MADV_HUGEPAGE)
        block = torch.frombuffer(pages, dtype=torch.uint8)
        if is_touched:
            block.numpy()[:: mmap.PAGESIZE] = 0  # has pages here and now, and not while the driver holds its lock
    return block


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise OutOfMemory(
            f"the host's memory does not hold a copy of masters and moments, which a checkpoint needs ({error}); train "
            "fewer parts, or take a machine with more memory"
        ) from error


def _lock_pages(block: Tensor) -> None:
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.nbytes, _PORTABLE))
