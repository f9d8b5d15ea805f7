"""How many processors this process may use: those of the machine, less what a scheduler or a container withholds."""

import os
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """At least 1: by the process's affinity (taskset, Slurm) and by the quota of its control groups (containers)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(_quota() or cores)))


def _quota() -> float | None:
    """Processors by `cpu.max` of control groups (version 2) from the process's own to the outermost; None: no limit."""
    quotas = []
    with suppress(OSError, ValueError):
        own = next(line[3:] for line in _OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
        folder = _CGROUPS / own.strip("/")
        for one in (folder, *folder.parents):
            with suppress(OSError, ValueError):
                quota, period = (one / "cpu.max").read_text().split()
                quotas.append(int(quota) / int(period))  # "max" is no number: no limit
            if one == _CGROUPS:
                break
    return min(quotas, default=None)
