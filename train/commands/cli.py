"""`turbomim …`: argv to one function call.  Exit codes: 0 done or preempted, 1 error, 2 usage."""

import os
import sys
import traceback
import warnings
from typing import Final, NoReturn

from turbomim import __version__
from turbomim.pipeline.system.errors import UsageError, UserError, said, unknown_name
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.pipeline.system.remedies import OF_THE_MACHINE, remedy
from turbomim.train.commands.table import COMMANDS, GROUPS, imported, options_of, verbs
from turbomim.train.commands.usage import group_overview, overview
from turbomim.train.machine.compiler import advice_on_cache
from turbomim.train.machine.home import ensure_home
from turbomim.train.terminal.interrupts import ending_when_interrupted
from turbomim.train.terminal.streams import prepare_streams

# also says the whole error, of any command
TRACEBACK = "--traceback"
COMPLETION: Final = "--print-completion"
HELP: Final = ("-h", "--help")


def find_command(argv: list[str]) -> tuple[str, list[str]]:
    """The name of the command that argv, not empty, begins with, and the rest of argv.

    Raises UsageError if there is none of that name.
    """
    for words in (1, 2):
        if (name := " ".join(argv[:words])) in COMMANDS:
            return name, argv[words:]
    group = argv[0]
    if group.startswith("-"):
        raise UsageError(f"unknown flag {group!r}: a command comes first; without one: --help or --version")
    if group not in GROUPS:
        raise unknown_name("unknown command", group, dict.fromkeys(name.split()[0] for name in COMMANDS))
    if len(argv) == 1 or not argv[1]:
        raise UsageError(f"{group} needs a command: {', '.join(verbs(group))}; see turbomim {group} --help")
    raise unknown_name(f"unknown {group} command", argv[1], verbs(group))


def import_and_call(function: str, argv: list[str]) -> None:
    """Call FILE:FUNCTION."""
    imported(function)(argv)


def call(argv: list[str]) -> None:
    """Call what argv names.  Raises UserError, OSError, SystemExit."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in HELP:
        print(overview())
        if not argv:
            raise SystemExit(2)
    elif argv[0] == "--version":
        print(__version__)
    elif argv[0].partition("=")[0] == COMPLETION:
        words = argv[0].partition("=")[2:] if "=" in argv[0] else argv[1:]
        print(imported("train.commands.completion:completion_script")(" ".join(words)))
    elif argv[0] in GROUPS and argv[1:2] in ([word] for word in HELP):
        print(group_overview(argv[0]))
    else:
        name, words = find_command(argv)
        asked = any(word in HELP for word in words)
        # the help of pretrain shows a recipe's values
        if asked and name != "pretrain" and isinstance(options := options_of(name), type):
            # in place of its own file, which may import torch
            imported("train.settings.flags:parse")(options, ["--help"], f"turbomim {name}")
        else:
            import_and_call(COMMANDS[name].function, words)


def _drop_output() -> None:
    """Let what standard output still holds go nowhere, if nobody takes it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(error: BaseException) -> NoReturn:
    """Say in one line what ended a command, and end the process."""
    if isinstance(error, BrokenPipeError):
        # the reader of our output went away
        _drop_output()
        raise SystemExit(1) from None
    if isinstance(error, KeyboardInterrupt):
        print("turbomim: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    text = said(error)
    if isinstance(error, OSError):
        # the system refused a file
        helps = remedy(error, advice_on_cache(error))
        text += f"{helps and '; '}{helps}; `turbomim {TRACEBACK} COMMAND` shows where"
        _drop_output()
    elif isinstance(error.__cause__, OSError) and error.__cause__.errno in OF_THE_MACHINE:
        # whatever was to be read or written, this is what helps
        helps = remedy(error.__cause__, "")
        text += "" if helps in text else f"; {helps}"
    print(f"turbomim: {text}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, UsageError) else 1) from None


def main() -> None:
    """Run one command; what a user caused ends as one line on stderr and exit code 1."""
    argv = [word for word in sys.argv[1:] if word != TRACEBACK]
    prepare_streams()
    raise_limit()
    # of profiles and tags that nobody here reads, between other lines and without the file's name
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with ending_when_interrupted():
            ensure_home()
            call(argv)
        # what cannot be written is said here, not by the interpreter on its way out
        sys.stdout.flush()
    except (UserError, OSError, KeyboardInterrupt) as error:
        if TRACEBACK in sys.argv:
            traceback.print_exception(error)
        _end(error)
