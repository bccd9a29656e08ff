"""The panel that shows a run on a terminal: how far it is, and its last log record.

It is drawn over itself while the loop runs, and goes when the loop ends; train.log has every line.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from turbomim.train.terminal.streams import drawable

# (name, value) of what a log record says, as people read it
Parts = Sequence[tuple[str, str]]

GAP = "   "

# seconds between two drawings of the panel
PERIOD = 0.25


class LivePanel:
    """A panel at the bottom of a terminal.

    lost: hears why the panel cannot be drawn; after that it is gone, and nothing else is harmed.
    """

    def __init__(self, live: Live, title: str, steps: int, lost: Callable[[Exception], None]) -> None:
        self._live, self._title, self._steps, self._lost = live, title, steps, lost
        self._parts: Parts = ()
        self._drawn = -PERIOD
        self._gone = False

    def show(self, step: int, parts: Parts | None = None) -> None:
        """Move the bar to `step`; with `parts`, put them in place of the last ones."""
        if parts is not None:
            self._parts = parts
        now = monotonic()
        if parts is not None or now - self._drawn >= PERIOD:
            self._drawn = now
            self._try(lambda: self._draw(step))

    def close(self) -> None:
        """Take the panel away."""
        self._try(self._live.stop)

    def _draw(self, step: int) -> None:
        # a title of the width that it will have
        title = drawable(self._title, self._live.console.encoding)
        self._live.start()
        self._live.update(run_panel(title, step, self._steps, self._parts), refresh=True)

    def _try(self, call: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            call()
        # a panel is for looking at: whatever befalls it, the training goes on
        except Exception as error:
            self._gone = True
            with suppress(Exception):
                self._live.stop()
            self._lost(error)


@contextmanager
def live_panel(
    console: Console, title: str, step: int, steps: int, lost: Callable[[Exception], None]
) -> Iterator[LivePanel]:
    """Show a panel on a terminal for as long as the context is open."""
    # without rich's own thread: what fails in one is printed over the panel
    live = Live(console=console, transient=True, auto_refresh=False)
    shown = LivePanel(live, title, steps, lost)
    shown.show(step)
    try:
        yield shown
    finally:
        shown.close()


def run_panel(title: str, step: int, steps: int, parts: Parts) -> Panel:
    """The panel, for any width: parts flow onto as many lines as they need, and none is cut."""
    told = [("step", f"{step}/{steps}"), ("done", f"{100 * step / steps:.1f}%"), *parts]
    body = Table.grid()
    body.add_row(ProgressBar(total=steps, completed=step))
    body.add_row(_Flow(told if parts else [*told, ("the first steps", "compile")]))
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
