"""How far a long work is: bars on a terminal or in a notebook, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from turbomim.pipeline.system.words import duration, sized
from turbomim.train.terminal.streams import print_plain

# seconds between lines where there is no terminal to draw a bar on
LINE_INTERVAL = 10.0


@contextmanager
def open_bar(console: Console, *columns: ProgressColumn) -> Iterator[Callable[..., None]]:
    """Show a bar for as long as the context is open, on a terminal or in a notebook only.

    Gives the function that moves it: rich's `Progress.update` for the one task that there is.
    """
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=None)
    # elsewhere rich before 15 ends a bar with an empty line, one that is switched off too
    with bar if can_draw(console) else nullcontext():
        yield partial(bar.update, task)


def can_draw(console: Console) -> bool:
    """Whether a bar that moves can be shown: on a terminal, and in a notebook."""
    return console.is_terminal or console.is_jupyter


@contextmanager
def image_bar(console: Console, *, lines: bool = True) -> Iterator[ImageProgress]:
    """Show how many images are done; where no bar can be drawn, a line every ten seconds, if `lines`."""
    columns = TextColumn("images"), BarColumn(), TextColumn("{task.description}")
    with open_bar(console, *columns) as move:
        yield ImageProgress(console, move, lines=lines and not can_draw(console))


class ImageProgress:
    """Counts images for `image_bar`.  move: moves the bar; lines: whether lines are printed."""

    def __init__(self, console: Console, move: Callable[..., None], *, lines: bool) -> None:
        self.console, self.move, self.lines = console, move, lines
        self.begun: float | None = None
        self.said, self.before = 0.0, 0

    def show(self, done: int, total: int) -> None:
        """Take note of `done` of `total` images; the first call tells where this run begins."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = self.said = now
            self.before = done
        text = progress_text(done, total, done - self.before, now - self.begun)
        self.move(completed=done, total=total, description=text)
        if self.lines and now - self.said >= LINE_INTERVAL:
            print_plain(self.console, text)
            self.said = now


def progress_text(done: int, total: int, now_done: int, seconds: float) -> str:
    """Images done, the rate of this run in img/s, and the time left."""
    rate = now_done / seconds if seconds else 0.0
    left = f", {duration((total - done) / rate)} left" if rate else ""
    return f"{done:,} of {total:,} images, {rate:,.0f} img/s{left}"


@contextmanager
def byte_bar() -> Iterator[Callable[[int, int, int], None]]:
    """Show how many bytes are done, img/s and the time left; where no bar can be drawn, a line now and then.

    Gives what is told of progress: bytes and images done since its last call, bytes in all.
    """
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TextColumn("{task.description} img/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    begun = last_line = time.perf_counter()
    size = images = 0
    with open_bar(console, *columns) as move:
        move(description="0")

        def progress(some_bytes: int, some_images: int, all_bytes: int) -> None:
            nonlocal images, size, last_line
            now = time.perf_counter()
            images, size = images + some_images, size + some_bytes
            rate = f"{images / (now - begun):,.0f}"
            move(advance=some_bytes, total=all_bytes, description=rate)
            if not can_draw(console) and now - last_line >= LINE_INTERVAL:
                print_plain(console, f"{sized(size)} of {sized(all_bytes)}, {rate} img/s")
                last_line = now

        yield progress
