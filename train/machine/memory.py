"""The memory that a process took, and that it may take."""

import re
import resource
from pathlib import Path

import torch

GIB = 2**30

_MEMINFO, _CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process held up to now: reserved by torch on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_bytes(device: torch.device) -> int:
    """Memory that a process may fill: of the GPU, or what this machine, or its container, has left."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    free = int(re.findall(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)[0]) * 1024
    limit = container_limit()
    return free if limit is None else min(free, limit)


def container_limit() -> int | None:
    """Bytes that this process's control group may hold, None without a limit."""
    limit = _CONTAINER.read_text().strip() if _CONTAINER.exists() else "max"
    return int(limit) if limit.isdecimal() else None
