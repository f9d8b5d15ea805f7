"""How many GPUs there are, before torch is imported: that takes seconds, in which those that use them could start."""

import ctypes
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

_NUMBERED = re.compile(r"[0-9]+(,[0-9]+)*")


def num_gpus() -> int:
    """The GPUs that this process sees, as torch counts them; it is imported where NVIDIA's driver cannot tell."""
    if "torch" not in sys.modules and (found := _by_driver(os.environ.get("CUDA_VISIBLE_DEVICES"))) is not None:
        return found
    import torch

    return torch.cuda.device_count()


def _by_driver(visible: str | None) -> int | None:
    """None without a driver, with a torch that was built without CUDA, and where GPUs have other names than numbers."""
    if (visible is not None and not _NUMBERED.fullmatch(visible)) or not _is_built_with_cuda():
        return None
    found = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        if driver.nvmlInit_v2() or driver.nvmlDeviceGetCount_v2(ctypes.byref(found)):  # of this machine
            return None
    except (OSError, AttributeError):
        return None
    if visible is None:
        return found.value
    numbers = {int(number) for number in visible.split(",")}
    is_plain = len(numbers) == visible.count(",") + 1 and max(numbers) < found.value
    return len(numbers) if is_plain else None  # what CUDA makes of others is a rule of its own


def _is_built_with_cuda() -> bool:
    torch = find_spec("torch")
    return (
        torch is not None
        and torch.origin is not None
        and (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").exists()
    )
