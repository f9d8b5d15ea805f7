"""Room in host memory for copies of a checkpoint's tensors, which the disk then takes its time with.

Next to a GPU it is page-locked: copies come at the speed of the bus, and stay until the training ends, as getting ten
GiB takes seconds. It is got in blocks by threads of their own, while there is something else to do.
"""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from math import prod

import torch
from torch import Tensor

from shibolet.errors import OutOfMemory
from shibolet.records.ahead import Ahead

_BLOCK_BYTES = 1 << 30  # or one tensor
_PORTABLE = 1  # cudaHostRegisterPortable: whichever GPU the copies come from
_ALIGNED = 512  # bytes; copies begin at multiples of it

Layout = Mapping[str, tuple[torch.Size, torch.dtype]]


class HostCopies:
    """Copies of tensors by key; a layout uses the blocks of the one before, and new ones where these are too few."""

    def __init__(self, *, page_locked: bool) -> None:
        self._page_locked = page_locked
        self._blocks: list[Tensor] = []  # of bytes
        self._copies: dict[str, Tensor] = {}
        self._laying = Ahead(lambda: None)

    def lay_out(self, layout: Layout) -> None:
        """Begin to make room for a copy of each of these; earlier copies are good until the next `copy`."""
        self._laying.get()
        self._laying = Ahead(lambda: self._lay_out(layout))

    def copy(self, key: str, tensor: Tensor) -> Tensor:
        """A copy in the host's memory; it is whole once the device has been waited for."""
        self._laying.get()
        return self._copies[key].copy_(tensor, non_blocking=True)

    def close(self) -> None:
        """Give the memory back."""
        with suppress(OutOfMemory):  # then nothing was copied
            self._laying.get()
        self._copies.clear()
        while self._blocks:
            if self._page_locked:
                torch.cuda.cudart().cudaHostUnregister(self._blocks[-1].data_ptr())
            self._blocks.pop()

    def _lay_out(self, layout: Layout) -> None:
        copies = {}
        free = [(block, 0) for block in self._blocks]
        left = dict(layout)
        while True:
            for at, (block, begin) in enumerate(free):
                for key in list(left):
                    shape, dtype = left[key]
                    end = begin + prod(shape) * dtype.itemsize
                    if end <= len(block):
                        copies[key] = block[begin:end].view(dtype).view(shape)
                        begin = -(-end // _ALIGNED) * _ALIGNED
                        del left[key]
                free[at] = block, begin
            if not left:
                self._copies = copies
                return
            free = [(block, 0) for block in self._new_blocks(list(_sizes(left)))]

    def _new_blocks(self, sizes: list[int]) -> list[Tensor]:
        """Blocks of these sizes; where one cannot be had, `close` gives back the others."""
        found: dict[int, Tensor] = {}

        def get(at: int) -> None:
            found[at] = _block(sizes[at], page_locked=self._page_locked)

        try:
            with ExitStack() as threads:  # waits for all of them
                for at in range(len(sizes)):
                    threads.callback(Ahead(partial(get, at)).get)
        finally:
            new = [found[at] for at in sorted(found)]
            self._blocks += new
        return new


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


def _block(num_bytes: int, *, page_locked: bool) -> Tensor:
    """Zeroed memory in pages of its own."""
    try:
        pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError, AttributeError):  # no such pages here
            pages.madvise(mmap.MADV_HUGEPAGE)
        block = torch.frombuffer(pages, dtype=torch.uint8)
        if page_locked:
            block.numpy()[:: mmap.PAGESIZE] = 0  # has pages here and now, and not while the driver holds its lock
            _lock_pages(block)
    except (OSError, RuntimeError) as error:
        raise OutOfMemory(
            f"the host's memory does not hold a copy of masters and moments, which a checkpoint needs ({error}); train "
            "fewer parts, or take a machine with more memory"
        ) from error
    return block


def _lock_pages(block: Tensor) -> None:
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.nbytes, _PORTABLE))
