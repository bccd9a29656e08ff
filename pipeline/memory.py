"""Memory that is used again: fresh pages from the system cost as much as a read or a copy into them does."""

from weakref import finalize

import numpy as np
from numpy.typing import NDArray


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
