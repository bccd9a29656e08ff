"""What a run says: metrics.jsonl, the same as plain lines in train.log, and a live bar on a terminal."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from turbomim.pipeline.durable import write_durably

Record = dict[str, Any]


def read_metrics(path: Path) -> list[Record]:
    """Records of a metrics.jsonl; a last line cut short by a kill is left out."""
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    return records


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def line_of(record: Record) -> str:
    """One log record as a line for people."""
    parts = [
        f"step {record['step']}/{record['steps']}",
        f"epoch {record['epoch']:.2f}",
        f"loss {record['loss']:.4f}",
        f"lr {record['lr']:.2e}",
        f"grad {record['grad_norm']:.2f}",
        f"{record['img_per_s']:.0f} img/s",
        f"wait {record['data_wait_pct']:.1f}%",
    ]
    if record.get("mfu") is not None:
        parts.append(f"mfu {100 * record['mfu']:.1f}%")
    if record.get("heldout_loss") is not None:
        parts.append(f"held-out {record['heldout_loss']:.4f}")
    if record["skipped"]:
        parts.append(f"skipped {record['skipped']}")
    if record["replaced"]:
        parts.append(f"replaced {record['replaced']}")
    parts.append(f"eta {duration(record['eta_s'])}")
    return "  ".join(parts)


class RunLog:
    """Writes metrics.jsonl and train.log and moves the bar.  Other ranks than 0 only add notes."""

    def __init__(self, folder: Path, console: Console, *, rank: int = 0, world: int = 1) -> None:
        self.console, self.active = console, rank == 0
        self.metrics, self.plain = folder / "metrics.jsonl", folder / "train.log"
        self._who = f"rank {rank}: " if world > 1 else ""
        self._noted: set[str] = set()
        self._files: tuple[IO[str], IO[str]] | None = None
        self._bar: Progress | None = None

    @contextmanager
    def open(self, step: int) -> Iterator[list[Record]]:
        """Keep the files open; metrics after `step`, which a killed run wrote, are dropped first.

        Yields the metrics that stay; none on ranks other than 0.
        """
        if not self.active:
            yield []
            return
        kept = [r for r in read_metrics(self.metrics) if r["step"] <= step]
        write_durably(self.metrics, "".join(json.dumps(r) + "\n" for r in kept).encode())
        with (
            self.metrics.open("a", encoding="utf-8") as metrics,
            self.plain.open("a", encoding="utf-8") as plain,
        ):
            self._files = (metrics, plain)
            try:
                yield kept
            finally:
                self._files = None

    @contextmanager
    def bar(self, step: int, steps: int) -> Iterator[None]:
        """Show a bar while the loop runs, on a terminal."""
        if not (self.active and self.console.is_terminal):
            yield
            return
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._bar.add_task("compiling the step …", total=steps, completed=step)
            try:
                yield
            finally:
                self._bar = None

    def say(self, text: str) -> None:
        """One line for people, on the terminal and in train.log."""
        if self.active:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
            self._write(text)

    def note(self, text: str) -> None:
        """One line about this rank's data, said by any rank, at once, and only the first time."""
        if text in self._noted:
            return
        self._noted.add(text)
        if self.active:
            self.say(self._who + text)
            return
        self.console.print(self._who + text, highlight=False, markup=False, soft_wrap=True)
        # on another machine there may be no such folder; then the terminal has it alone
        with contextlib.suppress(FileNotFoundError), self.plain.open("a", encoding="utf-8") as plain:
            plain.write(_dated(self._who + text))

    def keep(self, text: str) -> None:
        """One line in train.log alone."""
        if self.active:
            self._write(text)

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def record(self, record: Record) -> None:
        """Write one record to both files and show it."""
        if self._files is None:
            return
        # strict JSON has no NaN or infinity
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._files[0].write(json.dumps(clean) + "\n")
        self._files[0].flush()
        if self._bar is None:
            self.say(line_of(record))
        else:
            self._bar.update(self._bar.task_ids[0], description=line_of(record))
            self._write(line_of(record))

    def _write(self, text: str) -> None:
        if self._files is not None:
            self._files[1].write(_dated(text))
            self._files[1].flush()


def _dated(text: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n"
