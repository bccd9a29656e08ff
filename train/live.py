"""The panel that shows a run on a terminal: how far it is, and its last log record.

It is drawn over itself while the loop runs, and goes when the loop ends; train.log has every line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# (name, value) of what a log record says, as people read it
Parts = Sequence[tuple[str, str]]

GAP = "   "


class LivePanel:
    """A panel at the bottom of a terminal."""

    def __init__(self, live: Live, title: str, steps: int) -> None:
        self._live, self._title, self._steps = live, title, steps
        self._parts: Parts = ()

    def show(self, step: int, parts: Parts | None = None) -> None:
        """Move the bar to `step`; with `parts`, put them in place of the last ones."""
        if parts is not None:
            self._parts = parts
        self._live.update(panel(self._title, step, self._steps, self._parts))


@contextmanager
def live_panel(console: Console, title: str, step: int, steps: int) -> Iterator[LivePanel]:
    """Show a panel on a terminal for as long as the context is open."""
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        shown = LivePanel(live, title, steps)
        shown.show(step)
        yield shown


def panel(title: str, step: int, steps: int, parts: Parts) -> Panel:
    """The panel, for any width: parts flow onto as many lines as they need, and none is cut."""
    told = [("step", f"{step}/{steps}"), ("done", f"{100 * step / steps:.1f}%"), *parts]
    body = Table.grid()
    body.add_row(ProgressBar(total=steps, completed=step))
    body.add_row(_Flow(told if parts else [*told, ("the first steps", "compile …")]))
    return Panel(body, title=Text(title), title_align="left", border_style="dim", padding=(0, 1))


@dataclass(frozen=True, slots=True)
class _Flow:
    """Parts on lines that end between them; rich itself would end a line within one."""

    parts: Parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(overflow="fold")
        for name, value in self.parts:
            part = Text.assemble((f"{name} ", "dim"), (value, "bold"))
            if line and line.cell_len + len(GAP) + part.cell_len > options.max_width:
                yield line
                line = Text(overflow="fold")
            line.append(GAP if line else "").append_text(part)
        yield line
