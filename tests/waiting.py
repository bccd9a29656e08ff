"""Waits for what happens in another thread or process, however slow the machine is."""

import time
from collections.abc import Callable


def wait_until(happened: Callable[[], object], seconds: float = 60) -> None:
    """Return when it has happened; fail if that takes too long."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "it does not happen"
        time.sleep(0.005)
