"""`turbomim report`: runs as one HTML page."""

from dataclasses import dataclass
from pathlib import Path

from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.words import counted, sized
from turbomim.train.settings.flags import parse
from turbomim.train.settings.options import RunPaths


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write everything that is known about runs into one HTML page that needs no network and no script."""

    runs: RunPaths
    """Run folders, runs/NAME; several are shown side by side."""
    out: Path | None = None
    """Page to write; if not given, RUN/report.html, and of several runs report-A-B.html in this folder."""
    benchmarks: Path | None = None
    """Folder whose *.jsonl files of `turbomim bench` are shown too."""


def report_command(argv: list[str]) -> None:
    """`turbomim report …`.  Raises UserError."""
    options = parse(Report, argv, "turbomim report")
    if not options.runs:
        raise UsageError("report needs one or more run folders, runs/NAME: see turbomim report --help")
    # here: it imports torch, which --help need not wait for
    from turbomim.train.report.report import write_report

    written = write_report(options.runs, options.out, options.benchmarks)
    count = counted(len(written.problems), "file")
    noted = f"; at its top: {count} with problems" if written.problems else ""
    print(f"{written.path}: {sized(written.bytes)}{noted}")
