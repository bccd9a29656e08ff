"""The processor of this machine, and the cores of it that this process may use."""

import os
import platform
import re
from pathlib import Path


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model(cpuinfo: str | None = None) -> str:
    """The processor's name in the text of /proc/cpuinfo, this machine's if not given."""
    text = read_text("/proc/cpuinfo") if cpuinfo is None else cpuinfo
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def read_text(path: str) -> str:
    """Text of a small system file, empty if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
