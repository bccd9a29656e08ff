"""One process at a time in a place: a file that its owner writes anew every few seconds.

It outlives its owner.  One of this machine is asked after by its number, one of another counts as dead if the
file stays the same for SILENCE seconds; no clocks are compared.  Where the place has versions, a write is on
the condition that the file is as it was; in a folder it is read before, and once more after a takeover.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from turbomim.pipeline.places.place import Place
from turbomim.pipeline.places.retries import impatient
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError, to_stderr
from turbomim.pipeline.system.processes import in_words, is_alive, this_process
from turbomim.pipeline.system.remedies import Exists, explain

# seconds: between two writes of the owner; without one, until others take over; between two looks
BEAT, SILENCE, LOOK = 5.0, 30.0, 1.0
# seconds: in which of two that take over a folder the later one shows; that an end waits to give it back
SETTLE, CLOSING = 1.0, 3.0


class Lease(Closing):
    """The right to write to a place, held from `take` to `close`, or until another process has it.

    name: of the file; what, other: the place and what to do where it is taken, for people; tell: hears in a
    line of a wait.  mark: tells it from all others.  A place that is down takes nothing from its owner; who
    must be sure of it asks `check`.
    """

    def __init__(
        self, place: Place, name: str, *, what: str, other: str, tell: Callable[[str], None] = to_stderr
    ) -> None:
        self._place, self._name = place, name
        self._what, self._other, self._tell = what, other, tell
        self.mark = secrets.token_hex(8)
        self._owner = {**this_process(), "lease": self.mark}
        self._lock = threading.Lock()
        self._beats, self._written, self._version = 0, 0.0, ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        # what befell it, for people; empty while it is ours
        self.lost = ""

    @property
    def held(self) -> bool:
        """Whether it was taken, and not lost."""
        return self._thread is not None and not self.lost

    def take(self) -> None:
        """Become the owner.  Raises UserError, which names another process that is, and OSError."""
        while not self._try():
            pass
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise UserError if another process is the owner now, or may be soon: the place is down too long."""
        again = "the same command goes on where it was stopped"
        if time.monotonic() - self._written > SILENCE / 2:
            try:
                self._renew()
            except OSError as error:
                said = explain(error, "check the store")
                raise UserError(f"cannot write {self._place.at(self._name)!r}: {said}; {again}") from error
        if self.lost:
            raise UserError(f"{self._what} {self.lost}: this one stops; {again}")

    def close(self) -> None:
        """Give it back, where it is still ours; whoever comes next need not wait."""
        if self._thread is None:
            return
        limit = time.monotonic() + CLOSING
        self._ended.set()
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            # the place is down, and the thread may still write
            return
        with suppress(OSError), impatient(max(limit - time.monotonic(), 0.1)):
            if read_lease(self._place, self._name) == self.mark:
                self._place.delete(self._name)

    def _try(self) -> bool:
        """Whether it is ours now; if not, its owner has given it back, or another process was faster."""
        if self._write(if_absent=True):
            return True
        try:
            # the version first: what was written since has another, and is not replaced
            version, found = self._place.status(self._name).version, self._place.read(self._name)
            alive = is_alive(_parsed(found))
            if alive:
                self._refuse(found)
            if alive is None:
                self._watch(found)
            if not self._write(version=version):
                return False
            if not version:
                time.sleep(SETTLE)
                if not self._is_ours(found := self._place.read(self._name)):
                    self._refuse(found)
        except FileNotFoundError:
            return False
        return True

    def _watch(self, found: bytes) -> None:
        """Return if its owner gives no sign of life.  Raises UserError; FileNotFoundError if it is gone."""
        self._tell(
            f"{self._what} was left by {_owner(found)}, or is in use by it: waiting {SILENCE:g} s "
            "to see which"
        )
        limit = time.monotonic() + SILENCE
        while time.monotonic() < limit:
            time.sleep(LOOK)
            if (now := self._place.read(self._name)) != found:
                self._refuse(now)

    def _refuse(self, found: bytes) -> None:
        raise UserError(f"{self._what} is in use by {_owner(found)}: wait for its end, or {self._other}")

    def _beat(self) -> None:
        """Write it every BEAT seconds, until the end or until another process has it."""
        while not self.lost and not self._ended.wait(BEAT):
            # a place that is down tells whose it is when it is back
            with suppress(OSError), impatient(BEAT):
                self._renew()

    def _renew(self) -> None:
        """Write it again, if it is ours.  Raises OSError."""
        with self._lock:
            if self.lost:
                return
            try:
                of_us = bool(self._version) or self._is_ours(self._place.read(self._name))
                if of_us and self._write(version=self._version):
                    return
                self.lost = f"was taken over by {_owner(self._place.read(self._name))}"
            except FileNotFoundError:
                self.lost = f"has no {self._name} any more: another process was there, or removed it"

    def _write(self, *, if_absent: bool = False, version: str = "") -> bool:
        """Write it on a condition; whether it is ours now."""
        begun = time.monotonic()
        self._beats += 1
        content = (json.dumps({**self._owner, "beat": self._beats}) + "\n").encode()
        try:
            self._version = self._place.put(self._name, content, if_absent=if_absent, version=version)
        except Exists:
            # a request that was made again, its first answer lost, meets its own result
            try:
                found = self._place.status(self._name).version
                if not self._is_ours(self._place.read(self._name)):
                    return False
            except FileNotFoundError:
                return False
            self._version = found
        self._written = begun
        return True

    def _is_ours(self, found: bytes) -> bool:
        return _parsed(found).get("lease") == self.mark


def read_lease(place: Place, name: str) -> str:
    """Give the mark of the lease that stands there, "" for none."""
    try:
        return str(_parsed(place.read(name)).get("lease", ""))
    except FileNotFoundError:
        return ""


def _parsed(found: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(found)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner(found: bytes) -> str:
    return in_words(_parsed(found))
