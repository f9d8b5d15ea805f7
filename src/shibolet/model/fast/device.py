"""What decoders of all families need of a device: memory for rows, graphs of steps, copies that nobody waits for."""

from collections.abc import Callable
from operator import itemgetter
from threading import RLock

import torch
from torch import Tensor

CPU_BYTES = 4 << 30  # what rows and what fills them may take where no device says what it has
MAX_OF_FREE = 0.6  # of what nobody uses, where that is less: then alone the number of rows depends on others
ROW_STEP = 16  # many rows are a multiple of this, which matrix units take
_SHARED = (0, 0)  # the pool that no graph has for itself
CAPTURING = RLock()  # a process captures one graph at a time


def in_steps(rows: int) -> int:
    """At most so many rows, in a number that matrix units take."""
    return rows - rows % ROW_STEP if rows > ROW_STEP else rows


def fitting_rows(num_rows: int, row_bytes: int, device: torch.device) -> int:
    """So many rows, or those that there is memory for now; what the allocator holds back is free."""
    if device.type != "cuda":
        return num_rows
    # What the allocator holds for graphs is none of it, though nothing is allocated there between their launches.
    index = torch.cuda.current_device() if device.index is None else device.index
    values = itemgetter("device", "segment_pool_id", "total_size", "allocated_size")
    segments = map(values, torch.cuda.memory_snapshot())
    held = sum(size - used for of, pool, size, used in segments if of == index and tuple(pool) == _SHARED)
    free = torch.cuda.mem_get_info(device)[0] + held
    return max(1, min(num_rows, in_steps(int(free * MAX_OF_FREE) // row_bytes)))


def graph_of(work: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph | None:
    """A graph of what `work` does, which is done once before; None where there are no graphs, and nothing is done."""
    if device.type != "cuda":
        return None
    with CAPTURING:
        work()  # loads kernels, which a graph cannot
        # In a stream of its own: what cuBLAS keeps for a stream belongs to this graph then, and to no other decoder's.
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # others may use the GPU
            work()
    return graph


def send_to(device: torch.device, tensor: Tensor) -> Tensor:
    """A tensor of the host on a device; copied from memory that is not page-locked, the host would wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
