"""Which process is meant: told so that another one, of this machine or not, can say whether it still runs."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What tells this process from all others; it goes into files."""
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "system": _system(), "born": _born(process)}


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Whether a process that told its "process" and "system" runs; None for one of another machine.

    Where only "host" and "process" are told, another one that has the number by now is taken for it.
    """
    told, here = ("system", _system()) if "system" in process else ("host", socket.gethostname())
    if not here or process.get(told) != here:
        return None
    born = _born(process.get("process"))
    return bool(born) and born == process.get("born", born)


def in_words(process: Mapping[str, Any]) -> str:
    """Give its number and host, for people."""
    if "process" not in process:
        return "another process"
    return f"process {process['process']} on {repr(process.get('host'))[1:-1]}"


def _system() -> str:
    """The start of this machine, and the space of process numbers within it; "" where that is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(process: object) -> str:
    """When a process of this machine began, in its clock's ticks; "" for one that has ended."""
    try:
        # behind its name, which may hold anything: the state, and 19 fields on the start
        fields = Path(f"/proc/{process}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
