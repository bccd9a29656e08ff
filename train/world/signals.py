"""Being asked to stop: the first signal sets a flag that the loop reads, a later one ends at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
# seconds in which a second one is the same request: torchrun passes on a Ctrl-C that its ranks had already
ECHO = 2.0


@dataclass(slots=True)
class StopFlag:
    """Name of the signal that asked for the end, or empty."""

    name: str = ""


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Turn SIGINT, SIGTERM and SIGUSR2 into a flag; put the old handlers back at the end.

    In another thread than the main one they stay as they are: Python lets no other thread take signals.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    asked = 0.0
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not flag.name:
            flag.name, asked = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - asked > ECHO:
            # now
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in STOP_SIGNALS:
        signal.signal(number, ask)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
