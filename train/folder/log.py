"""What a run says: metrics.jsonl, plain lines in train.log, a panel on a terminal, and trackers."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.errors import one_line
from turbomim.pipeline.system.words import duration
from turbomim.train.settings.config import Config
from turbomim.train.terminal.panel import LivePanel, Parts, live_panel
from turbomim.train.terminal.streams import print_plain, printing_never_raises
from turbomim.train.trackers.beside import Feed
from turbomim.train.trackers.opening import open_trackers
from turbomim.train.trackers.scalars import OF_EVAL, scalars_of

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


def seconds_of(record: Record) -> float:
    """Time that the steps of a log record took."""
    return float(record.get("step_ms", 0) * record.get("window", 1) / 1000)


def after_start(records: list[Record]) -> list[Record]:
    """Records without each process's first, which holds the compilation, where there are others."""
    return [r for r in records if not r.get("first")] or records


def mean_over_time(records: list[Record], name: str) -> float | None:
    """Mean of a value over the time of the records that have it, None where none has."""
    pairs = [(r[name], seconds_of(r)) for r in records if r.get(name) is not None]
    total = sum(seconds for _, seconds in pairs)
    return sum(value * seconds for value, seconds in pairs) / total if total > 0 else None


def parts_of(record: Record) -> Parts:
    """What one log record says to people, as (name, value)."""
    rate, device_rate = record["img_per_s"], record["img_per_s_per_gpu"]
    # on one rank they are the same
    share = f" ({_rate(device_rate)}/GPU)" if device_rate < rate else ""
    parts = [
        ("loss", f"{record['loss']:.4f}"),
        ("lr", f"{record['lr']:.2e}"),
        ("grad", f"{record['grad_norm']:.2f}"),
        ("img/s", f"{_rate(rate)}{share}"),
        ("wait", f"{record['data_wait_pct']:.1f}%"),
    ]
    if record.get("mfu") is not None:
        parts.append(("mfu", f"{100 * record['mfu']:.1f}%"))
    parts.append(("mem", f"{record['memory_gib']:.1f}GiB"))
    if record.get("heldout_loss") is not None:
        parts.append(("held-out", f"{record['heldout_loss']:.4f}"))
    if record.get("test_top1") is not None:
        parts.append(("test top-1", f"{100 * record['test_top1']:.2f}%"))
    for name, what in ((f"{OF_EVAL}knn_top1", "knn"), (f"{OF_EVAL}probe_top1", "probe")):
        if record.get(name) is not None:
            parts.append((what, f"{100 * record[name]:.1f}%"))
    if record["skipped"]:
        parts.append(("skipped", f"{record['skipped']}"))
    parts += [("replaced", f"{record['replaced_total']}"), ("eta", duration(record["eta_s"]))]
    return parts


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def line_of(record: Record) -> str:
    """One log record as a line for people."""
    parts = [
        ("step", f"{record['step']}/{record['steps']}"),
        ("epoch", f"{record['epoch']:.2f}"),
        *parts_of(record),
    ]
    return "  ".join(f"{name} {value}" for name, value in parts)


class RunLog:
    """Writes metrics.jsonl and train.log, moves the panel and feeds the trackers that `config` names.

    Other ranks than 0 only add notes.  told: lines that the terminal has had, for train.log.
    """

    def __init__(
        self,
        folder: Path,
        console: Console,
        *,
        config: Config,
        rank: int = 0,
        world: int = 1,
        told: Sequence[str] = (),
    ) -> None:
        self._told = told
        self.folder, self.console, self.config, self.active = folder, console, config, rank == 0
        self.metrics, self.plain = folder / "metrics.jsonl", folder / "train.log"
        self._who = f"rank {rank}: " if world > 1 else ""
        self._noted: set[str] = set()
        self._files: tuple[IO[str], IO[str]] | None = None
        self._panel: LivePanel | None = None
        self._trackers: list[Feed] = []

    @contextmanager
    def open(self, step: int, unlogged: int = 0) -> Iterator[list[Record]]:
        """Keep files and trackers open; what a killed run wrote there after `step` is dropped first.

        unlogged: steps up to `step` that the next log line covers; a line of a stop among them is dropped.
        Yields the metrics that stay; none on ranks other than 0.  Nothing that is printed raises meanwhile.
        """
        with printing_never_raises(self.console, self._lost_terminal):
            if self.active:
                yield from self._open(step - unlogged)
            else:
                yield []

    def _open(self, step: int) -> Iterator[list[Record]]:
        kept = [r for r in read_metrics(self.metrics) if r["step"] <= step]
        write_durably(self.metrics, "".join(json.dumps(r) + "\n" for r in kept).encode())
        with (
            self.metrics.open("a", encoding="utf-8") as metrics,
            self._open_plain() as plain,
        ):
            self._files = (metrics, plain)
            for line in self._told:
                self.write_to_file(line)
            try:
                # their last words are in train.log too
                with open_trackers(self.config, self.folder, step, kept, self.say) as self._trackers:
                    yield kept
            finally:
                self._files, self._trackers = None, []

    def _open_plain(self) -> IO[str]:
        # the name of a file need not be text
        return self.plain.open("a", encoding="utf-8", errors="backslashreplace")

    @contextmanager
    def bar(self, step: int, steps: int) -> Iterator[None]:
        """Show a panel with a bar while the loop runs, on a terminal."""
        if not (self.active and self.console.is_terminal):
            yield
            return
        with live_panel(self.console, str(self.folder), step, steps, self._lost_terminal) as self._panel:
            try:
                yield
            finally:
                self._panel = None

    def _lost_terminal(self, error: Exception) -> None:
        self.write_to_file(
            f"the terminal cannot be written ({one_line(error)}): the run goes on, and every line is here"
        )

    def say(self, text: str) -> None:
        """One line for people, on the terminal and in train.log."""
        if self.active:
            print_plain(self.console, text)
            self.write_to_file(text)

    def note(self, text: str) -> None:
        """One line about this rank's data, said by any rank, at once, and only the first time."""
        if text in self._noted:
            return
        self._noted.add(text)
        if self.active:
            self.say(self._who + text)
            return
        print_plain(self.console, self._who + text)
        # on another machine there may be no such folder; then the terminal has it alone
        with contextlib.suppress(FileNotFoundError), self._open_plain() as plain:
            plain.write(_dated(self._who + text))

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._panel is not None:
            self._panel.show(step)

    def record(self, record: Record) -> None:
        """Write one record to both files, show it, and pass its numbers on."""
        if self._files is None:
            return
        # strict JSON has no NaN or infinity
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._files[0].write(json.dumps(clean) + "\n")
        self._files[0].flush()
        if self._panel is None:
            self.say(line_of(record))
        else:
            self._panel.show(record["step"], parts_of(record))
            self.write_to_file(line_of(record))
        for tracker in self._trackers:
            tracker.put(record["step"], scalars_of(clean))

    def picture(self, step: int, path: Path) -> None:
        """Pass a PNG file on."""
        for tracker in self._trackers:
            tracker.put(step, path)

    def write_to_file(self, text: str) -> None:
        """Lines in train.log alone, while that is open."""
        if self._files is not None:
            self._files[1].writelines(_dated(line) for line in text.splitlines())
            self._files[1].flush()


def _dated(text: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n"
