"""Files that are whole or absent: a temporary name beside the target, fsync, rename."""

import errno
import functools
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from turbomim.pipeline.system.errors import UserError, to_stderr
from turbomim.pipeline.system.remedies import FULL, UNSUPPORTED, explain, number_of, reason, remedy


@contextmanager
def whole_file(path: Path, *, unique: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on a clean exit fsync it and rename it to `path`.

    unique: give each writer a temporary name of its own, where a killed run's worker may still write the same
    file.  On any error the temporary file is removed and `path` is untouched.  Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp" if unique else f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as out:
            yield out
            out.flush()
            sync(out.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        # where it could not be made, on a read-only disk say, it cannot be removed either
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def durable_file(path: Path, *, needed: int, unique: bool = False) -> Iterator[BinaryIO]:
    """`whole_file`, but raise UserError when the system refuses the write, with bytes needed and free.

    needed: bytes about to be written.
    """
    try:
        with whole_file(path, unique=unique) as out:
            yield out
    except OSError as error:
        raise write_error(path, error, needed=needed) from error


def write_durably(path: Path, content: bytes, *, unique: bool = False) -> None:
    """Write `content` as the whole of `path`.  Raises UserError as `durable_file` does."""
    with durable_file(path, needed=len(content), unique=unique) as out:
        out.write(content)


def write_json(path: Path, tree: object) -> None:
    """Write `tree` as JSON, whole or not at all; the file's folder is made.  Raises UserError."""
    make_folder(path.parent)
    write_durably(path, json_bytes(tree, indent=1))


def json_bytes(tree: object, *, indent: int | None = None, allow_nan: bool = True) -> bytes:
    """`tree` as JSON and the end of a line, in UTF-8; names are as people wrote them.

    What is no UTF-8 in the name of a file is escaped.
    """
    text = json.dumps(tree, indent=indent, allow_nan=allow_nan, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty if there is none, or it cannot be read."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def make_folder(folder: Path) -> Path:
    """Make a folder for files to be written, and its parents, before the work whose results would be lost.

    Raises UserError: it cannot be made, is a file, or nothing may be written to it.
    """
    file = next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), None)
    if file is not None:
        raise UserError(f"cannot write to {str(folder)!r}: {str(file)!r} is a file; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise write_error(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return folder


def make_folder_of(path: Path) -> Path:
    """Make the folder of a file to be written, as `make_folder`.  Raises UserError, also for a folder."""
    if path.is_dir():
        raise UserError(f"cannot write {str(path)!r}: it is a folder; give the name of a file")
    make_folder(path.parent)
    return path


def check_writable(folder: Path) -> None:
    """Raise UserError if nothing can be written into a folder, or into the one that it would be made in."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        # without a name; permissions alone are no answer for root
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise write_error(folder, error) from error


def sync(handle: int) -> None:
    """Have what was written on the disk; a file system that cannot is named once a process."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (*UNSUPPORTED, errno.EINVAL, errno.EBADF):
            raise
        _tell_unsynced(reason(error))


def sync_folder(folder: Path) -> None:
    """Make the renames done in `folder` survive a power cut, where its file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        # it may be written to, and not be read
        _tell_unsynced(reason(error))
        return
    try:
        sync(handle)
    finally:
        os.close(handle)


@functools.cache
def _tell_unsynced(cause: str) -> None:
    to_stderr(
        f"a file system cannot be told to put a new file on its disk ({cause}): whether it survives a power "
        "cut is up to that; all else is as ever"
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError if `needed` bytes do not fit on the disk of `folder`, or of its nearest parent that
    exists."""
    total, _, free = shutil.disk_usage(_existing(folder))
    # some file systems in user space do not say
    if needed > free and total:
        raise UserError(
            f"not enough space for {str(folder)!r}: {needed:,} bytes needed, {free:,} free; "
            "free some space or choose another disk"
        )


def write_error(path: Path, error: Exception, *, needed: int = 0) -> UserError:
    """What a user is told when the system refuses to write `path`.

    error: an OSError, or another library's with its number as Rust prints it.  needed: bytes, 0 if not known.
    """
    if number_of(error) not in FULL:
        helps = "check the permissions, or choose another folder"
        return UserError(f"cannot write {str(path)!r}: {explain(error, helps)}")
    free = shutil.disk_usage(_existing(path)).free
    wanted = f"{needed:,} bytes needed, " if needed else ""
    return UserError(
        f"cannot write {str(path)!r}: {reason(error)}: {wanted}{free:,} free on that disk; "
        f"{remedy(error, '')}"
    )


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
