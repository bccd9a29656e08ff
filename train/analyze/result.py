"""What an analysis leaves: NAME.json for programs and reports, NAME.png to look at, a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from turbomim.pipeline.system.durable import json_bytes, make_folder_of, write_durably
from turbomim.train.pictures.plot import new_figure, write_figure
from turbomim.train.terminal.streams import table_console

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTable:
    """Rows of text under columns, the first one left, the others right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def prepare_folder(out: Path, name: str) -> Path:
    """Make the folder of the results, before the work whose results would be lost.

    Raises UserError if NAME.json and NAME.png cannot be written there, or if matplotlib is not installed.
    """
    new_figure(1, 1)
    for ending in ("json", "png"):
        make_folder_of(out / f"{name}.{ending}")
    return out


def write_analysis(
    out: Path,
    name: str,
    *,
    runs: Sequence[Path] = (),
    settings: dict[str, Any],
    results: Any,
    table: TextTable,
    draw: Callable[[], Figure],
) -> None:
    """Print the table, write NAME.json, then draw and write NAME.png: no picture costs the numbers.

    The JSON has `analysis`, `run` (None if it is of no run), `settings` and `results`.
    """
    print_table(table)
    run = ", ".join(map(str, runs)) or None
    record = {"analysis": name, "run": run, "settings": settings, "results": results}
    write_durably(out / f"{name}.json", json_bytes(record, indent=1, allow_nan=False))
    print(out / f"{name}.json")
    write_figure(draw(), out / f"{name}.png")
    print(out / f"{name}.png")


def settings_of(options: Any, **more: Any) -> dict[str, Any]:
    """The flags of a command as JSON has them, but --out; `more` is laid over them."""
    flags = {f.name: _plain(getattr(options, f.name)) for f in fields(options) if f.name != "out"}
    return flags | more


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def labels_of(runs: Sequence[Path]) -> list[str]:
    """A short name of each run: its folder's, or the whole path where folders share a name."""
    names = [run.resolve().name for run in runs]
    return [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def print_table(table: TextTable) -> None:
    """Print a table under its title."""
    # not rich's own title, which is folded to the table's width
    print(table.title)
    drawn = Table()
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        drawn.add_row(*row)
    table_console().print(drawn, markup=False)
