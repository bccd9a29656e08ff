"""`turbomim compare`: runs side by side on the terminal, and their losses in one plot."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.settings.flags import parse
from turbomim.train.settings.options import RunPaths
from turbomim.train.terminal.streams import print_plain


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Print runs side by side, say where their losses cannot be compared, and draw the losses."""

    runs: RunPaths
    """Run folders, runs/NAME, two or more."""
    out: Path = Path("compare.png")
    """Plot to write: losses over images seen."""


def compare_command(argv: list[str]) -> None:
    """`turbomim compare …`.  Raises UserError."""
    options = parse(Compare, argv, "turbomim compare")
    if len(options.runs) < 2:
        raise UsageError("compare needs two or more run folders, runs/NAME: see turbomim compare --help")
    if options.out.suffix.lower() != ".png" or options.out.is_dir():
        raise UsageError(f"--out {options.out}: must be a file whose name ends in .png")
    # here: they import torch, which --help need not wait for
    from turbomim.train.report.comparable import find_incomparable
    from turbomim.train.report.compare import comparison_tables, plot_losses
    from turbomim.train.report.page import printable
    from turbomim.train.report.run import read_runs

    runs = read_runs(options.runs)
    console = Console()
    for table in comparison_tables(runs, console.width):
        console.print(table, markup=False)
    for line in [*find_incomparable(runs), *(problem for run in runs for problem in run.problems)]:
        print_plain(console, printable(f"note: {line}"))
    plot_losses(runs, options.out)
    print_plain(console, f"{options.out}: losses over images seen")
