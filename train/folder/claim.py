"""One run at a time in a mirror: an object with its owner's name, written anew again and again.

An object outlives its owner, who counts as dead if it stays the same for SILENCE seconds; one of this machine
is asked after by its number.  No clocks are compared.  Any place will do, so nothing is written on a
condition; and a place that is down takes nothing from its owner.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from turbomim.pipeline.places.place import Place
from turbomim.pipeline.places.retries import impatient
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import Exists

# seconds between two signs of life
BEAT = 10.0
# without one, after which an owner counts as dead
SILENCE = 45.0
# that the end of a run waits to give it back
CLOSING = 5.0
# in which of two that take over at once the later one shows
SETTLE = 1.0


class InUse(UserError):
    """Another process has the place."""


class Claim(Closing):
    """The right to write to a place, held from `take` to `close`, or until another takes it.

    name: of the object; what, other: the place and what to do where it is taken, for people; tell: hears of
    a wait.
    """

    def __init__(
        self, place: Place, name: str, *, what: str, other: str, tell: Callable[[str], None]
    ) -> None:
        self._place, self._name = place, name
        self._what, self._other, self._tell = what, other, tell
        self._token = secrets.token_hex(8)
        self._beats = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        # who has taken it from us, for people; empty while it is ours
        self.lost = ""

    @property
    def held(self) -> bool:
        """Whether it was taken, and not lost."""
        return self._thread is not None and not self.lost

    def take(self) -> None:
        """Become the owner.  Raises InUse, and what the place refuses."""
        while not self._try():
            pass
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give it back, where it is still ours; whoever comes next need not wait."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            # the place is down, and the thread may still write
            return
        with suppress(OSError, UserError), impatient(CLOSING):
            if self._is_ours(self._read()):
                self._place.delete(self._name)

    def _try(self) -> bool:
        """Whether it is ours now; if not, its owner has just given it back."""
        try:
            self._write(if_absent=True)
            return True
        except Exists:
            found = self._read()
        if found is None:
            return False
        if not _has_died(found) and self._watch(found) is None:
            return False
        self._write()
        time.sleep(SETTLE)
        if not self._is_ours(now := self._read()):
            self._refuse(now)
        return True

    def _watch(self, found: bytes) -> bytes | None:
        """Return what was found if its owner gives no sign of life, None if it is gone; else raise InUse."""
        self._tell(
            f"{self._what} was left by {_owner(found)}, or is in use by it: waiting {SILENCE:g} s "
            "to see which"
        )
        limit = time.monotonic() + SILENCE
        while time.monotonic() < limit:
            time.sleep(min(1.0, SILENCE / 10))
            now = self._read()
            if now is None:
                return None
            if now != found:
                self._refuse(now)
        return found

    def _refuse(self, found: bytes | None) -> None:
        raise InUse(f"{self._what} is in use by {_owner(found)}: wait for its end, or {self._other}")

    def _beat(self) -> None:
        """Give signs of life, until another has taken it."""
        while not self._ended.wait(BEAT):
            # the place may be down: it tells whose it is when it is back
            with suppress(OSError, UserError), impatient(BEAT):
                found = self._read()
                if found is not None and not self._is_ours(found):
                    self.lost = _owner(found)
                    return
                self._write()

    def _write(self, *, if_absent: bool = False) -> None:
        self._beats += 1
        words = {**_this_process(), "token": self._token, "beat": self._beats}
        try:
            self._place.put(self._name, (json.dumps(words) + "\n").encode(), if_absent=if_absent)
        except Exists:
            # a request that was made again meets what it wrote itself
            if not self._is_ours(self._read()):
                raise

    def _read(self) -> bytes | None:
        try:
            return self._place.read(self._name)
        except FileNotFoundError:
            return None

    def _is_ours(self, found: bytes | None) -> bool:
        return found is not None and _parsed(found).get("token") == self._token


def _parsed(found: bytes) -> dict[str, Any]:
    try:
        words = json.loads(found)
    except ValueError:
        return {}
    return words if isinstance(words, dict) else {}


def _owner(found: bytes | None) -> str:
    words = _parsed(found or b"")
    return f"process {words['process']} on {words['host']}" if "host" in words else "another process"


def _this_process() -> dict[str, Any]:
    """What tells this process from all others."""
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "system": _system(), "born": _born(process)}


def _has_died(found: bytes) -> bool:
    """Whether its owner was a process of this machine that is not there any more."""
    words = _parsed(found)
    if not _system() or words.get("system") != _system():
        return False
    born = _born(words.get("process"))
    return not born or born != words.get("born")


def _system() -> str:
    """The start of this machine, and the space of process numbers within it; "" where that is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(process: object) -> str:
    """When a process of this machine began, in its clock's ticks; "" for one that is not there."""
    try:
        # behind its name, which may hold anything: the state, and 19 fields on the start
        fields = Path(f"/proc/{process}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
