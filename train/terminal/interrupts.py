"""Ctrl-C while a store of objects does not answer: the command ends in seconds all the same.

A request holds its thread until it is answered or given up, 20 seconds or 5 minutes later; Python ends no
thread, and waits for all of them before it leaves, in `with` and at its end.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import _run_finalizers  # type: ignore[attr-defined]

from turbomim.pipeline.places.stores import is_used
from turbomim.pipeline.system.errors import to_stderr

# seconds that a command has to end by itself
GRACE = 5.0


@contextmanager
def ending_when_interrupted() -> Iterator[None]:
    """Within it a process that used a store is gone GRACE seconds after Ctrl-C, with exit code 130.

    What is written is whole at any time, and files that must not stay have no names.  Who takes the signal in
    another way, as a run does, is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python writes the signal's number there at once, in whatever its main thread is caught
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="turbomim-interrupts", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch(reader: int) -> None:
    with open(reader, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                time.sleep(GRACE)
                if is_used():
                    to_stderr("ended without waiting for the store")
                    # what queues to other processes have in the system's name space
                    _run_finalizers(0)
                    os._exit(130)
