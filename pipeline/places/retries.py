"""Requests made again when they fail in passing: with longer and longer waits, up to a limit, all counted.

Source of the waits: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from turbomim.pipeline.system.errors import to_stderr
from turbomim.pipeline.system.remedies import PlaceError

T = TypeVar("T")

# seconds: the first wait at most, and any
FIRST_WAIT = 0.1
LONGEST_WAIT = 10.0
# seconds that one request may take in all: of a place that never answered, and of one that has
LIMIT_NEW = 10.0
LIMIT = 300.0
# seconds between two lines about storage, of whatever place, part of the program or rank
QUIET = 10.0


class Traffic:
    """What this process asked of object stores.  Safe from many threads.

    requests: that were answered; bytes: read; retries: by their cause; last: the request last tried again;
    tell: takes a line about retries, now and then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = self.bytes = 0
        self.retries: Counter[str] = Counter()
        self.last = ""
        self.tell: Callable[[str], None] = to_stderr
        self._quiet = QUIET
        self._told = float("-inf")

    @contextmanager
    def telling(self, tell: Callable[[str], None], ranks: int = 1) -> Iterator[None]:
        """Within it lines about retries go there; ranks: that tell so, each as much more seldom."""
        before = self.tell, self._quiet
        self.tell, self._quiet = tell, ranks * QUIET
        try:
            yield
        finally:
            self.tell, self._quiet = before

    def answered(self, size: int) -> None:
        """Count a request and the bytes that it read."""
        with self._lock:
            self.requests += 1
            self.bytes += size

    def failed(self, cause: str, what: str) -> None:
        """Count a request that is made again."""
        with self._lock:
            self.retries[cause] += 1
            self.last = what

    def due(self, times: float = 1.0) -> bool:
        """Whether it is time for a line about storage: then the caller says one.

        times: so much longer the last one must be ago; of two lines the one that says more comes first.
        """
        with self._lock:
            now = time.monotonic()
            due = now - self._told >= times * self._quiet
            if due:
                self._told = now
            return due


# of the process: pools, loaders and caches share its network
TRAFFIC = Traffic()


class _Patience(threading.local):
    """What a thread's requests may take, seconds; 0 = LIMIT, or LIMIT_NEW, and a line about retries."""

    seconds = 0.0


_patience = _Patience()


@contextmanager
def impatient(seconds: float) -> Iterator[None]:
    """Within it requests of this thread are given up after so many seconds, and say nothing of retries."""
    _patience.seconds, before = seconds, _patience.seconds
    try:
        yield
    finally:
        _patience.seconds = before


def persistently(
    request: Callable[[], T],
    what: str,
    *,
    answered: bool,
    halt: threading.Event | None = None,
) -> T:
    """Make a request until it is answered.

    what: it, for people; answered: whether its place ever answered; halt: once it is set, nothing is tried,
    or tried again.  Raises what `request` raises: at once where no retry can help, else after LIMIT seconds,
    or LIMIT_NEW of a place that never answered; in `impatient` sooner.
    """
    begun = time.monotonic()
    halt = halt or threading.Event()
    limit = _patience.seconds or (LIMIT if answered else LIMIT_NEW)
    longest = FIRST_WAIT
    if halt.is_set():
        raise PlaceError("nobody waits for it any more")
    while True:
        try:
            return request()
        except PlaceError as error:
            seconds = time.monotonic() - begun
            if not error.passing:
                raise
            wait = random.uniform(longest / 2, longest)
            if seconds + wait > limit:
                error.args = (f"{error} (tried for {seconds:.0f} s)",)
                raise
            TRAFFIC.failed(str(error).partition(" (")[0], what)
            if not _patience.seconds and TRAFFIC.due():
                TRAFFIC.tell(f"{what}: {error}, {seconds:.1f} s so far; tried again")
            if halt.wait(wait):
                raise
            longest = min(2 * longest, LONGEST_WAIT)
