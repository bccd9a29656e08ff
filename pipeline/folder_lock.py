"""One process at a time in a folder: a lock that the system releases however its owner ends."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from turbomim.pipeline.errors import UserError

LOCK = "lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Make `folder`, with its parents, and hold it; the owner may remove it, lock included, at the end.

    Raises UserError with the owner's process number and host if another process holds it, or if it cannot be
    made or locked.
    """
    try:
        while (handle := _lock(folder)) is None:
            pass
    except OSError as error:
        raise UserError(
            f"cannot make {str(folder)!r}: {error.strerror}; choose another folder, on a disk with file locks"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def _lock(folder: Path) -> int | None:
    """Give the handle of the locked file, None if its last owner has just removed it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            return handle
    except FileNotFoundError:
        pass
    except BlockingIOError as error:
        owner = ascii(os.pread(handle, 200, 0).decode("latin-1"))[1:-1] or "another process"
        os.close(handle)
        raise UserError(
            f"{str(folder.parent)!r} is being written by {owner}: wait for its end, or choose another folder"
        ) from error
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None
