"""What a notebook shows, by a console that takes itself to be in one.

Planted bugs: a bar for terminals alone, one that stays (`test_a_bar_moves_and_goes`); each line an output of
its own (`test_lines_are_plain_text`).
"""

import io

import pytest
from IPython import display
from ipywidgets import Output
from rich.console import Console

from turbomim.train.terminal.progress import image_bar
from turbomim.train.terminal.streams import print_plain


def test_lines_are_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[object]()
    monkeypatch.setattr(display, "display", shown.append)
    out = io.StringIO()
    print_plain(Console(file=out, force_jupyter=True, width=40), "step [b]1[/b]  " + "x" * 60)
    assert out.getvalue() == "step [b]1[/b]  " + "x" * 60 + "\n" and not shown


def test_a_bar_moves_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[object]()
    monkeypatch.setattr(display, "display", lambda *things, **_: shown.extend(things))
    closed = list[Output]()
    monkeypatch.setattr(Output, "close", lambda bar: closed.append(bar))
    out = io.StringIO()
    with image_bar(Console(file=out, force_jupyter=True)) as bar:
        bar.show(1, 10)
    bars = [thing for thing in shown if isinstance(thing, Output)]
    assert len(bars) == 1 and closed == bars
    assert "images" not in out.getvalue(), "no lines beside the bar"
