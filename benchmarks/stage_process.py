"""Long measurements in parts: each in a process of its own, whose lines are taken as they come, to the last.

Only what needs no more than Python: a machine that lacks a package must hear of it part by part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from turbomim.benchmarks.loader.process import kill_group
from turbomim.pipeline.system.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Flags of a command whose prog is "turbomim …".  Raises UsageError for what they may not be."""

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong."""
        raise UsageError(f"{self.prog.removeprefix('turbomim ')}: {message}; --help lists the flags")


def say(text: str) -> None:
    """One line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def run_lines(
    command: Sequence[str], seconds: float, complaints: Path, take: Callable[[str], None]
) -> int | None:
    """Run a command, hand every line of its output to `take` at once; its exit code, None if it was stopped.

    seconds: after which it, and every process of its group, is killed; complaints: file for its stderr.
    """
    with complaints.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout is not None
        output = process.stdout

        def read() -> None:
            for line in output:
                take(line.rstrip("\n"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            return process.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            return None
        finally:
            # workers may outlive it
            kill_group(process.pid)
            process.wait()
            # a process that left the group may hold the output open
            reader.join(10)


def last_line(text: str) -> str:
    """The last line that says something; empty if none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
