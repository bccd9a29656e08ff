"""One process at a time in a folder: a lock that the system releases however its owner ends."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from turbomim.pipeline.system.durable import write_error
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.processes import in_words, this_process
from turbomim.pipeline.system.remedies import UNSUPPORTED

LOCK = "lock"


@contextmanager
def folder_lock(folder: Path, *, what: Path, other: str, without: str, wanted: bool = True) -> Iterator[None]:
    """Make `folder`, with its parents, and hold it; the owner may remove it, lock included, at the end.

    what: the folder that a user knows; other: what to do if it is taken; without: the flag that makes
    `wanted` false, which makes the folder and locks nothing.  Raises UserError if another process holds it,
    with its number and host, if its file system has no locks, or if it cannot be made.
    """
    try:
        handle = None
        folder.mkdir(parents=True, exist_ok=True)
        while wanted and handle is None:
            handle = _lock(folder, what, other, without)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def check_lock(folder: Path, *, what: Path, other: str) -> None:
    """Raise UserError as `folder_lock` does if another process holds `folder`; it changes nothing."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # a shared lock does not wait for others like it
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(handle, what, other) from error
    except OSError:
        # a file system without locks is told of where the lock is taken
        return
    finally:
        os.close(handle)


def _in_use(handle: int, what: Path, other: str) -> UserError:
    """The error for a lock that another process holds, which has written who it is into the file."""
    owner = ascii(os.pread(handle, 200, 0).decode("latin-1"))[1:-1] or "another process"
    return UserError(f"{str(what)!r} is in use by {owner}: wait for its end, or {other}")


def _lock(folder: Path, what: Path, other: str, without: str) -> int | None:
    """Give the handle of the locked file, None if its last owner has just removed it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # `check_lock` of another process holds it for a moment
            time.sleep(0.05)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            os.ftruncate(handle, 0)
            os.pwrite(handle, in_words(this_process()).encode(), 0)
            return handle
    except FileNotFoundError:
        pass
    except BlockingIOError as error:
        refused = _in_use(handle, what, other)
        os.close(handle)
        raise refused from error
    except BaseException as error:
        os.close(handle)
        if isinstance(error, OSError) and error.errno in (*UNSUPPORTED, errno.ENOLCK, errno.EINVAL):
            # as it was found
            with suppress(OSError):
                path.unlink()
                folder.rmdir()
            raise UserError(
                f"{str(what)!r} is on a file system without locks ({error.strerror}), which keep a second "
                f"process out: choose another disk, or, if no other process writes there, {without}"
            ) from error
        raise
    os.close(handle)
    return None
