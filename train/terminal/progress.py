"""How far a long work is: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from turbomim.pipeline.system.words import duration

# seconds between lines where there is no terminal to draw a bar on
LINE_INTERVAL = 10.0


class Pace:
    """Shows progress: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self.console, self.bar, self.task = console, bar, bar.add_task("", total=None)
        self.begun: float | None = None
        self.said, self.before = 0.0, 0

    def show(self, done: int, total: int) -> None:
        """Take note of `done` of `total` images; the first call tells where this run begins."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = self.said = now
            self.before = done
        text = progress_text(done, total, done - self.before, now - self.begun)
        self.bar.update(self.task, completed=done, total=total, description=text)
        if not self.console.is_terminal and now - self.said >= LINE_INTERVAL:
            say(self.console, text)
            self.said = now


@contextmanager
def paced(console: Console) -> Iterator[Pace]:
    """Show how far it is for as long as the context is open."""
    columns = (TextColumn("images"), BarColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True)
    # elsewhere rich before 15 ends a bar with an empty line, one that is switched off too
    with bar if console.is_terminal else nullcontext():
        yield Pace(console, bar)


def progress_text(done: int, total: int, now_done: int, seconds: float) -> str:
    """Images done, the rate of this run in img/s, and the time left."""
    rate = now_done / seconds if seconds else 0.0
    left = f", {duration((total - done) / rate)} left" if rate else ""
    return f"{done:,} of {total:,} images, {rate:,.0f} img/s{left}"


def say(console: Console, text: str) -> None:
    """Print without markup or wrapping."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar_of_bytes() -> Iterator[Callable[[int, int, int], None]]:
    """Show a bar of bytes with img/s and the time left, on a terminal only.

    Gives what is told of progress: bytes and images done since its last call, bytes in all.
    """
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]:,.0f} img/s"),
        TimeRemainingColumn(),
    )
    begun = time.perf_counter()
    images = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, rate=0.0)

        def progress(some_bytes: int, some_images: int, all_bytes: int) -> None:
            nonlocal images
            images += some_images
            rate = images / (time.perf_counter() - begun)
            bar.update(task, advance=some_bytes, total=all_bytes, rate=rate)

        yield progress
