"""One process at a time in a place: a file that its owner writes anew every few seconds, on a condition.

A store knows no locks that end with their owner.  An owner of this machine is asked after by its number; one
of another machine is taken for dead when it has not written for PATIENCE seconds.  No clocks are compared.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError, to_stderr
from turbomim.pipeline.system.remedies import Exists, explain

# seconds: between two writes of the owner, without one until others take over, and between two looks
BEAT, PATIENCE, LOOK = 5.0, 30.0, 1.0


class Lease:
    """A lease that `take` has got, until its release; mark: tells it from all others."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self.mark = secrets.token_hex(8)
        self._owner = {**_this_process(), "lease": self.mark}
        self._lock = threading.Lock()
        self._beats, self._written = 0, 0.0
        self._version = ""
        self._lost: UserError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def check(self) -> None:
        """Raise UserError if another process has it now, or may have it soon."""
        if time.monotonic() - self._written > PATIENCE / 2:
            self._renew()
        if self._lost is not None:
            raise self._lost

    def take(self, tell: Callable[[str], None] = to_stderr) -> None:
        """Take it; `tell` hears in a line of a wait for an owner on another machine.

        Raises UserError if another process has it, with its number and host, and OSError as the place does.
        """
        seen, since, told = "", time.monotonic(), False
        while not self._write(if_absent=True):
            try:
                version = self._place.status(self._name).version
                owner = _read_owner(self._place, self._name)
            except FileNotFoundError:
                continue
            alive = _is_alive(owner)
            if alive or (seen and version != seen):
                raise UserError(
                    f"{str(self._place)!r} is in use by {_in_words(owner)}: wait for its end, or choose "
                    "another place"
                )
            seen = version
            waited = time.monotonic() - since
            if (alive is False or waited > PATIENCE) and self._write(version=version):
                break
            if alive is None and not told:
                tell(
                    f"{self._place} was left by {_in_words(owner)}, or is in use by it: waiting "
                    f"{PATIENCE:.0f} s to see if it still works there"
                )
                told = True
            time.sleep(LOOK if alive is None else 0)
        self._thread.start()

    def release(self) -> None:
        """Let others have it.  It is removed, unless another process took it."""
        self._ended.set()
        self._thread.join()
        if read_lease(self._place, self._name) == self.mark:
            self._place.delete(self._name)

    def _write(self, **condition: Any) -> bool:
        """Write it on a condition; whether it is ours now."""
        begun = time.monotonic()
        self._beats += 1
        content = json.dumps({**self._owner, "beat": self._beats}).encode()
        try:
            self._version = self._place.put(self._name, content, **condition)
        except Exists:
            # a request that was made again, its first answer lost, meets its own result
            try:
                version = self._place.status(self._name).version
                if _read_owner(self._place, self._name).get("lease") != self.mark:
                    return False
            except FileNotFoundError:
                return False
            self._version = version
        self._written = begun
        return True

    def _beat(self) -> None:
        """Write it every BEAT seconds, until the end or until another process has it."""
        while self._lost is None and not self._ended.wait(BEAT):
            self._renew()

    def _renew(self) -> None:
        """Write it again, and take note if it cannot be."""
        with self._lock:
            if self._lost is not None:
                return
            try:
                held = self._write(version=self._version)
                text = f"{str(self._place)!r} was taken over by another process: this one stops"
            except OSError as error:
                held = False
                text = f"cannot write {self._place.at(self._name)!r}: {explain(error, 'check the store')}"
            if not held:
                self._lost = UserError(f"{text}; the same command goes on where it was stopped")


def read_lease(place: Place, name: str) -> str:
    """Give the mark of the lease that stands there, "" for none."""
    try:
        return str(_read_owner(place, name).get("lease", ""))
    except FileNotFoundError:
        return ""


def _read_owner(place: Place, name: str) -> dict[str, Any]:
    try:
        owner = json.loads(place.read(name))
    except ValueError:
        owner = None
    return owner if isinstance(owner, dict) else {}


def _this_process() -> dict[str, Any]:
    """What tells this process from all others."""
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "system": _system(), "born": _born(process)}


def _is_alive(owner: dict[str, Any]) -> bool | None:
    """Whether an owner runs; None for one of another machine."""
    if not _system() or owner.get("system") != _system():
        return None
    return bool(_born(owner["process"])) and _born(owner["process"]) == owner.get("born")


def _system() -> str:
    """The start of this machine, and the space of process numbers within it; "" where that is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(process: int) -> str:
    """When a process of this machine began, in its clock's ticks; "" for one that has ended."""
    try:
        # behind its name, which may hold anything: the state, and 19 fields on the start
        fields = Path(f"/proc/{process}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _in_words(owner: dict[str, Any]) -> str:
    if "process" not in owner:
        return "another process"
    return f"process {owner['process']} on {ascii(owner.get('host'))[1:-1]}"
