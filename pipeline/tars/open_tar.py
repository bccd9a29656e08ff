"""An open tar, in a folder or in a store of objects: its size, and bytes of it."""

import os
import stat
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turbomim.pipeline.places.download import read_parts
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.system.durable import write_error
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.sha256 import sha256_of

# bytes of a request for less: a label's header, its block and the image's header come in one
AT_ONCE: Final = 2048
# bytes between two requests that cost less than a request does, and the most of one that is near the last
NEAR: Final = 64 * 2**10
MOST: Final = 2**19


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
        return sha256_of(self.read_at, advance)


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
        yield _open_file(descriptor, status.st_size)
    finally:
        os.close(descriptor)


@contextmanager
def open_whole_tar(place: Place, name: str, status: Status) -> Iterator[OpenTar]:
    """Open a tar of a store whose every byte will be read: it is brought to this machine first.

    It lies in a file of the temporary folder without a name, which nothing can leave behind.  Raises OSError
    where the place fails, UserError where the disk does.
    """
    with tempfile.TemporaryFile(buffering=0) as file:
        for content in read_parts(place, name, range(status.bytes), status.version, threading.Event()):
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError as error:
                said = write_error(Path(tempfile.gettempdir()), error, needed=status.bytes)
                raise UserError(f"{said} (TMPDIR)") from error
        yield _open_file(file.fileno(), status.bytes)


def _open_file(descriptor: int, size: int) -> OpenTar:
    return OpenTar(size=size, read_at=lambda count, offset: os.pread(descriptor, count, offset))


def _open_object(place: Place, name: str, status: Status) -> OpenTar:
    """Open a tar of a store: a request brings a little more than was asked for, which is kept.

    Each request near the last one brings twice as much, up to MOST; one behind a large member begins anew.
    So a tar of small members is read through, each byte once, and of one of large members headers alone.
    """
    # four: a sample's label is read when the header of the next one has been
    kept = deque[tuple[int, bytearray]](maxlen=4)
    length = AT_ONCE

    def read_at(size: int, offset: int) -> bytes:
        nonlocal length
        size = max(0, min(size, status.bytes - offset))
        for begin, content in kept:
            if begin <= offset and offset + size <= begin + len(content):
                return bytes(content[offset - begin : offset - begin + size])
        near = any(begin < offset < begin + len(content) + NEAR for begin, content in kept)
        length = min(2 * length, MOST) if near else AT_ONCE
        content = bytearray(max(size, min(length, status.bytes - offset)))
        read = place.read_into(name, memoryview(content), offset, version=status.version) if size else 0
        kept.append((offset, content[:read]))
        return bytes(content[: min(size, read)])

    return OpenTar(size=status.bytes, read_at=read_at)
