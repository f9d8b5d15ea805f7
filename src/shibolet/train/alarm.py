"""How full the GPUs are: what the device uses, not only what the allocator holds, and a warning before it is all.

The allocator knows neither the CUDA context and NCCL's buffers nor its own fragments nor other processes.
"""

import torch

from shibolet.records.documents.training import Memory
from shibolet.train.state import Decisions

FULL_PCT = 95.0  # of a GPU's memory: 38 of 40 GB
_CROWDED_PCT = 85.0
_CALM_PCT = 93.0  # below it a crossing is over, so that memory which stays near the line is told once


def device_use(device: torch.device) -> tuple[float, ...]:
    """What a GPU uses, by whomever: GiB, and percent of it; nothing on a CPU."""
    if device.type != "cuda":
        return ()
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 2**30, 100 * (total - free) / total


def is_crowded(device: torch.device) -> bool:
    """Whether a GPU is so full that what the allocator holds back should go: a step would take it for its own."""
    return any(pct >= _CROWDED_PCT for pct in device_use(device)[1:])


def step_memory(device: torch.device, use: tuple[float, ...]) -> Memory | None:
    """The memory of a step: the fullest GPU's `use`, and this one's allocator's peak since the last call."""
    if not use:
        return None
    peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    torch.cuda.reset_peak_memory_stats(device)
    return Memory(
        device_used_gib=round(use[0], 3), device_used_pct=round(use[1], 2),
        allocated_peak_gib=round(peak / 2**30, 3), allocated_peak_pct=round(100 * peak / total, 2),
    )  # fmt: skip


def memory_alarm(memory: Memory | None, decisions: Decisions) -> str | None:
    """A sentence where memory is full that was not before: once for each crossing of `FULL_PCT`, also over a resume."""
    if memory is None:
        return None
    was_full = decisions.memory_full
    decisions.memory_full = memory.device_used_pct >= (_CALM_PCT if was_full else FULL_PCT)
    if was_full or not decisions.memory_full:
        return None
    return (
        f"{memory.device_used_gib:.1f} GiB of the fullest GPU are in use, {memory.device_used_pct:.1f}% "
        f"(the allocator's peak on the main rank: {memory.allocated_peak_gib:.1f} GiB); a smaller "
        "train.pack_tokens leaves room"
    )
