"""A home for caches, also where the user has none: a number without an entry in the list of users."""

import getpass
import os
import stat
import tempfile
from pathlib import Path

from turbomim.pipeline.system.errors import UserError, to_stderr


def home() -> Path:
    """The user's home, else a folder of this user alone below the temporary one.  Raises UserError."""
    known = os.path.expanduser("~")
    return Path(known) if _is_usable(known) else _made_home()


def ensure_home() -> None:
    """Give libraries that ask for a home and a user's name both, and say so where there are none.

    Raises UserError if no folder can be made.
    """
    known = os.path.expanduser("~")
    if not _is_usable(known):
        what = f"cannot write to the home {known}" if os.path.isabs(known) else "has no home"
        os.environ["HOME"] = str(_made_home())
        to_stderr(f"user {os.getuid()} {what}: caches go to {os.environ['HOME']}; set HOME to keep them")
    try:
        getpass.getuser()
    # Python before 3.13 raises the first
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _is_usable(folder: str) -> bool:
    """Whether a home is one: containers give a bare number "/", which it may not write to."""
    return os.path.isabs(folder) and os.access(folder, os.W_OK | os.X_OK)


def _made_home() -> Path:
    folder = Path(tempfile.gettempdir(), f"turbomim-{os.getuid()}")
    helps = "set HOME to a folder of yours"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"cannot make {str(folder)!r}: {error.strerror}; {helps}") from error
    # programs are kept in it, and run from it
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"{str(folder)!r} belongs to another user, or others may write to it: {helps}")
    return folder
