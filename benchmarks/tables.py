"""Rows of results as tables in Markdown and as a plot: of `bench loader`, `kernels`, `step` and `train`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turbomim.pipeline.system.errors import UserError

# what loaders are compared with
LOADER_BASELINE: Final = "PIL + DataLoader"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One bar: a form of a benchmark on a machine.  low and high: of the middle 60 %, or of the rounds.

    times: how many times faster than the benchmark's baseline, None where there is none.
    """

    benchmark: str
    form: str
    img_per_s: float
    low: float
    high: float
    times: float | None
    n: int
    machine: str
    notes: str = ""


def markdown_table(rows: Sequence[Sequence[str]], *, words: int) -> str:
    """Rows as a table in Markdown, the first as headers; all columns but the first `words` to the right."""
    rule = ["---" if column < words else "--:" for column in range(len(rows[0]))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file.  Raises UserError that names the line that is none."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}, is not JSON ({error}): remove the line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}, is not an object: remove the line")
        rows.append(row)
    return rows


def entries(rows: Iterable[dict[str, Any]]) -> tuple[list[Entry], int]:
    """What rows say, in their order; and how many say nothing about images a second."""
    found: list[Entry] = []
    loaders: list[dict[str, Any]] = []
    others = 0
    for row in rows:
        if row.get("unit") == "us per 1000 images":
            found.append(_of_report(row))
        elif row.get("unit") == "img/s" and "store" in row:
            loaders.append(row)
        else:
            others += 1
    return [*_of_loaders(loaders), *found], others


def _of_report(row: dict[str, Any]) -> Entry:
    """A row of `timing.report`."""
    benchmark, _, form = row["name"].rpartition(": ")
    notes = []
    if row.get("mfu"):
        notes.append(f"MFU {row['mfu']:.0%}")
    if row.get("cpu_times_faster"):
        notes.append(f"{row['cpu_times_faster']:.2f} × in CPU time")
    if row.get("times_hugging_face"):
        notes.append(f"{row['times_hugging_face']:.2f} × Hugging Face")
    if row.get("peak_gb"):
        notes.append(f"{row['peak_gb']:.2f} GB")
    if "data_wait_pct" in row:
        notes.append(f"{row['data_wait_pct']:.2f} % waiting for data")
    return Entry(
        benchmark=benchmark or "others",
        form=form,
        img_per_s=1e9 / row["p50"],
        low=1e9 / row["p80"],
        high=1e9 / row["p20"],
        times=row.get("times_faster"),
        n=row["n"],
        machine=_machine(row),
        notes=", ".join(notes),
    )


def _of_loaders(rows: list[dict[str, Any]]) -> list[Entry]:
    """Rows of `bench loader`, one a round, put together by loader, store and machine."""
    speeds: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        key = (row["store"], row["name"], _machine(row))
        speeds.setdefault(key, {})[row["round"]] = row["images_per_s"]
    found = []
    for (store, name, machine), by_round in speeds.items():
        baseline = speeds.get((store, LOADER_BASELINE, machine), {})
        ratios = [speed / baseline[number] for number, speed in by_round.items() if number in baseline]
        found.append(
            Entry(
                benchmark=f"loader, {store} store",
                form=name,
                img_per_s=statistics.median(by_round.values()),
                low=min(by_round.values()),
                high=max(by_round.values()),
                times=statistics.median(ratios) if ratios else None,
                n=len(by_round),
                machine=machine,
            )
        )
    return found


def _machine(row: dict[str, Any]) -> str:
    commit = f", {row['commit']}" if row.get("commit") else ""
    return f"{row['device']}, {row['threads']} threads{commit}"


def markdown(found: Sequence[Entry]) -> str:
    """One table a benchmark, the fastest first."""
    blocks = []
    for benchmark in dict.fromkeys(entry.benchmark for entry in found):
        rows = [("form", "measured on", "img/s (range)", "× baseline", "rounds", "remarks")]
        for entry in sorted(_of(found, benchmark), key=lambda entry: -entry.img_per_s):
            speeds = (_number(speed) for speed in (entry.img_per_s, entry.low, entry.high))
            rows.append(
                (
                    entry.form,
                    entry.machine,
                    "{} ({} to {})".format(*speeds),
                    "" if entry.times is None else f"{entry.times:.2f}",
                    str(entry.n),
                    entry.notes,
                )
            )
        blocks.append(f"**{benchmark}**\n\n{markdown_table(rows, words=2)}")
    return "\n\n".join(blocks)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _of(found: Iterable[Entry], benchmark: str) -> list[Entry]:
    return [entry for entry in found if entry.benchmark == benchmark]


def plot(found: Sequence[Entry], path: Path) -> None:
    """Bars, one panel a benchmark, ours in red.  Raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("--plot needs matplotlib: pip install 'turbomim[plots]'") from error

    panels = {entry.benchmark: _of(found, entry.benchmark) for entry in found}
    sizes = [len(some) + 1.0 for some in panels.values()]
    figure = Figure(figsize=(8, 0.5 + 0.35 * sum(sizes)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axis, (benchmark, some) in zip(axes, panels.items(), strict=True):
        some = sorted(some, key=lambda entry: entry.img_per_s)
        machines = {entry.machine for entry in some}
        names = [f"{e.form} ({e.machine})" if len(machines) > 1 else e.form for e in some]
        middles = [entry.img_per_s for entry in some]
        spread = [[e.img_per_s - e.low for e in some], [e.high - e.img_per_s for e in some]]
        ours = ("turbomim", "ours", "end to end")
        colours = ["#d1495b" if entry.form.startswith(ours) else "#8fa3ad" for entry in some]
        bars = axis.barh(range(len(some)), middles, xerr=spread, color=colours, ecolor="#333333", capsize=2)
        axis.set_yticks(range(len(some)), names)
        axis.bar_label(bars, labels=[_number(middle) for middle in middles], padding=4, fontsize=8)
        axis.margins(x=0.12)
        axis.locator_params(axis="x", nbins=5)
        where = f" ({machines.pop()})" if len(machines) == 1 else ""
        axis.set_title(f"{benchmark}{where}", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("images a second: median, and range of the rounds or of their middle 60 %")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
