"""Memory that is used again: fresh pages from the system cost as much as a read or a copy into them does."""

import ctypes
from contextlib import suppress
from typing import Final
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

# of glibc's malloc.h
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_MMAP_MAX: Final = -4
M_ARENA_MAX: Final = -8
HEAPS: Final = 2
# bytes; most decoded photographs of a set like ImageNet are smaller, and pages of a larger block are faults
LARGE: Final = 2 * 2**20


def share_heaps() -> None:
    """Keep the C library's heaps small, if it is glibc: two for all threads from now on, no large blocks.

    A heap of its own keeps what a thread has freed, and decoded photographs of all sizes leave gaps that no
    other fits: a loader then grows for as long as it runs, from 0.8 to 1.3 GB in a quarter of an hour.
    """
    _mallopt(M_ARENA_MAX, HEAPS)
    # given back when freed; the library would raise the limit to the largest block it has seen
    _mallopt(M_MMAP_THRESHOLD, LARGE)


def keep_freed() -> None:
    """Let the C library keep what is freed for the next use, if it is glibc.

    Otherwise each step's larger blocks go back to the system, and each of their pages is a fault in the next
    one: up to a quarter of a step on the CPU.
    """
    _mallopt(M_MMAP_MAX, 0)
    _mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _mallopt(param: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(param, value)


class Memory:
    """Blocks of memory, each used again once no array and no tensor views it.  Safe from any thread."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return an array of `size` bytes with any content, to be filled."""
        try:
            block = self._free.pop()
        except IndexError:
            block = bytearray()
        if len(block) < size:
            block = bytearray(size + size // 4)
        content = np.frombuffer(block, np.uint8, size)
        # every view of `content` holds it, so it lives as long as the last of them
        finalize(content, self._free.append, block).atexit = False
        return content
