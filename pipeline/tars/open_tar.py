"""An open tar, in a folder or in a store of objects: its size, and bytes of it."""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from turbomim.pipeline.places.place import Place, Status

# bytes of a request for less: a label's header, its block and the image's header come in one
AT_ONCE: Final = 2048
# bytes of a request while a tar is hashed
PART: Final = 8 * 2**20


class BadTar(ValueError):
    """A tar that is damaged, or that readers would not agree about.  offset: byte where that shows."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset:,}: {reason}")
        self.offset = offset


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTar:
    """A tar of `size` bytes.  read_at(size, offset): as `os.pread`, fewer bytes only where it ends."""

    size: int
    read_at: Callable[[int, int], bytes]

    def sha256(self, advance: Callable[[int], object] = lambda _: None) -> str:
        """Hash it in parts; `advance` hears the bytes of each."""
        digest, place = hashlib.sha256(), 0
        while chunk := self.read_at(PART, place):
            digest.update(chunk)
            place += len(chunk)
            advance(len(chunk))
        return digest.hexdigest()


@contextmanager
def open_tar(place: Place, name: str) -> Iterator[OpenTar]:
    """Open a tar of a place.  Raises OSError, or BadTar for no file."""
    if place.folder is None:
        yield _open_object(place, name, place.status(name))
        return
    # without O_NONBLOCK, opening a fifo waits for a writer
    descriptor = os.open(place.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadTar(0, "it is not a regular file")
        yield OpenTar(size=status.st_size, read_at=lambda size, offset: os.pread(descriptor, size, offset))
    finally:
        os.close(descriptor)


def _open_object(place: Place, name: str, status: Status) -> OpenTar:
    """Open a tar of a store: a request brings a little more than was asked for, which is kept."""
    # two: a sample's label is read when the header of the next one has been
    kept = deque[tuple[int, bytearray]](maxlen=2)

    def read_at(size: int, offset: int) -> bytes:
        size = max(0, min(size, status.bytes - offset))
        for begin, content in kept:
            if begin <= offset and offset + size <= begin + len(content):
                return bytes(content[offset - begin : offset - begin + size])
        content = bytearray(max(size, min(AT_ONCE, status.bytes - offset)))
        read = place.read_into(name, memoryview(content), offset, version=status.version) if size else 0
        kept.append((offset, content[:read]))
        return bytes(content[: min(size, read)])

    return OpenTar(size=status.bytes, read_at=read_at)
