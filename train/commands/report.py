"""`turbomim report`: runs as one HTML page."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.report.report import write_report
from turbomim.train.settings.flags import parse


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write everything that is known about runs into one HTML page that needs no network and no script."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, runs/NAME; several are shown side by side."""
    out: Path | None = None
    """Page to write; report.html in the first run's folder if not given."""
    benchmarks: Path | None = None
    """Folder whose *.jsonl files of `turbomim bench` are shown too."""


def report_command(argv: list[str]) -> None:
    """`turbomim report …`.  Raises UserError."""
    options = parse(Report, argv, "turbomim report")
    if not options.runs:
        raise UsageError("report needs one or more run folders, runs/NAME: see turbomim report --help")
    out = options.out or options.runs[0] / "report.html"
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise UsageError(f"--out {out}: must be a file whose name ends in .html")
    print(write_report(options.runs, out, options.benchmarks))
