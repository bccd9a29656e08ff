"""Open files: the limit of a process, and the files that stay open within it for the next read."""

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

# more files at a time make no read faster, and a server on the network keeps state for each
MOST = 4096


def raise_limit() -> None:
    """Let this process, and those it starts, open as many files as the system allows them to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def budget() -> int:
    """Files that may stay open for the next read: half of the limit, the rest is for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft // 2))


@dataclass(slots=True)
class OpenFile:
    """A file open for reading, and how many reads use it."""

    descriptor: int
    users: int = 0


class OpenFiles:
    """Files open for reading, of many owners; of those that nobody reads, `budget()` stay open at most.

    Safe from many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # the one used last is last
        self._open: OrderedDict[tuple[Hashable, int], OpenFile] = OrderedDict()

    def take(self, owner: Hashable, number: int, path: Callable[[int], Path]) -> OpenFile:
        """An owner's file of a number, opened if it is not, until it is given back.  Raises OSError."""
        key = (owner, number)
        with self._lock:
            if (file := self._open.get(key)) is not None:
                return self._use(key, file)
            self._close_idle(len(self._open) + 1 - budget())
        # storage that does not answer keeps nobody else from reading
        descriptor = os.open(path(number), os.O_RDONLY | os.O_CLOEXEC)
        with self._lock:
            file = self._open.setdefault(key, OpenFile(descriptor))
            if file.descriptor != descriptor:
                os.close(descriptor)
            return self._use(key, file)

    def give_back(self, file: OpenFile) -> None:
        """End a read."""
        with self._lock:
            file.users -= 1
            self._close_idle(len(self._open) - budget())

    def close(self, owner: Hashable) -> None:
        """Close the files of an owner, whom nobody reads for; a later read opens them again."""
        with self._lock:
            for key in [key for key in self._open if key[0] == owner]:
                os.close(self._open.pop(key).descriptor)

    def _use(self, key: tuple[Hashable, int], file: OpenFile) -> OpenFile:
        self._open.move_to_end(key)
        file.users += 1
        return file

    def _close_idle(self, surplus: int) -> None:
        if surplus > 0:
            idle = (key for key, file in self._open.items() if file.users == 0)
            for key in list(islice(idle, surplus)):
                os.close(self._open.pop(key).descriptor)


# the limit is one of the process, so is what is kept within it
OPEN_FILES = OpenFiles()
