"""What a user is told in one line: exceptions, and notes on standard error."""

import difflib
import re
import sys
import typing
import warnings
from contextlib import suppress


class UserError(Exception):
    """Something a user or a file caused: what, where, the limit and the remedy, on one line."""


class UsageError(UserError):
    """A command, flag or setting that does not exist or cannot be: exit code 2 instead of 1."""


class Stopped(Exception):
    """Whoever waits was asked to stop: no fault, and nothing is lost."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


def need(ok: bool, name: str, value: object, legal: str) -> None:
    """Raise UsageError for a setting whose value cannot be."""
    if not ok:
        raise UsageError(f"{name} = {value}: must be {legal}")


def at_least_one(option: str, value: int | None) -> None:
    """Raise UserError for a flag whose number is below 1."""
    if value is not None and value < 1:
        raise UserError(f"{option} is {value}: it must be at least 1")


def without_password(text: str) -> str:
    """Cut user and password out of URLs: of `https://me:secret@host/x` is left `https://host/x`."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def said(error: BaseException) -> str:
    """What an error says; one of the system without its number, the file first: `'x': Permission denied`.

    URLs in it have no password.
    """
    if not (isinstance(error, OSError) and error.errno and error.strerror):
        return without_password(str(error))
    files = [repr(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join([" -> ".join(files), error.strerror] if files else [error.strerror])


def one_line(error: BaseException, most: int | None = None) -> str:
    """What an error says without line breaks, at most so many letters; its class if it says nothing."""
    return " ".join(said(error).split())[:most] or type(error).__name__


def one_line_with_class(error: BaseException) -> str:
    """An error's class and what it says, without line breaks."""
    return f"{type(error).__name__}: {' '.join(said(error).split())}"


def to_stderr(line: str) -> None:
    """Say one line to whoever watches; a closed terminal ends no run."""
    with suppress(OSError):
        print(f"turbomim: {line}", file=sys.stderr, flush=True)


def to_warning(line: str) -> None:
    """Say one line as a warning of Python's, at the caller's own line, not at one of this library."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("turbomim."):
        frame, level = frame.f_back, level + 1
    warnings.warn(line, stacklevel=level)


# names that an error lists where there are more than twice as many
MANY = 12


def unknown_name(
    what: str, name: str, known: typing.Iterable[str], meant: typing.Sequence[str] = ()
) -> UsageError:
    """The error for an unknown name, `WHAT 'NAME': did you mean …`.

    meant: known names that the caller is sure of.  Else those that begin with the name, which is then half
    a name, else the nearest two, else those with the same three letters at the start, else they are listed,
    the first of them if there are many.
    The dashes of a flag make it like no other.
    """
    known = list(known)
    plain, bare = {k.lstrip("-"): k for k in known}, name.lstrip("-")
    near = list(meant) or [
        plain[k]
        for k in (len(bare) >= 3 and [k for k in plain if k.startswith(bare)][:4])
        or difflib.get_close_matches(bare, plain, n=2, cutoff=0.5)
        or [k for k in plain if k[:3] == bare[:3]]
    ]
    # a list that nobody reads to its end
    most = MANY if len(known) > 2 * MANY else len(known)
    rest = f", … ({len(known)} in all)" if most < len(known) else ""
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:most])}{rest}"
    return UsageError(f"{what} {name!r}: {hint}")
