"""Benchmark results as people read them.  `turbomim bench report FILE.jsonl …`: tables, and a plot.

Of the JSON lines that `bench loader`, `kernels`, `step`, `train`, `all` and `gpu` write.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from turbomim.benchmarks.gpu.report import all_tables, pages
from turbomim.benchmarks.tables import entries, plot, read
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.settings.flags import parse


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Turn benchmark results into tables in Markdown and a plot."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Files of JSON lines, from any number of machines."""
    plot: Path | None = None
    """PNG file for a bar plot."""


def bench_report_command(argv: list[str]) -> None:
    """`turbomim bench report …`.  Raises UserError."""
    options = parse(BenchReport, argv, "turbomim bench report")
    if not options.files:
        raise UsageError("bench report needs files of JSON lines: those that --out of the others names")
    rows = [row for path in options.files for row in read(path)]
    found, others = entries(rows)
    text = all_tables(rows)
    if not text:
        raise UserError(
            f"{len(rows)} rows in {options.files[0]} and none with images a second: nothing to report"
        )
    print(text)
    if others and not pages(rows):
        print(f"\n{others} rows say nothing about images a second and were left out")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    bench_report_command(sys.argv[1:])
