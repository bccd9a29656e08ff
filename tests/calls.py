"""Commands as a user types them, in this process, and what they say of an error."""

from __future__ import annotations

import sys

import pytest

from turbomim.train.commands.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["turbomim", *words])
    try:
        main()
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def assert_one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """An error was said, in one line, with these parts."""
    said = capsys.readouterr().err
    assert said.startswith("turbomim: ") and said.count("\n") == 1 and "Traceback" not in said, said
    assert all(part in said for part in parts), said
