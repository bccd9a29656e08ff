"""`turbomim report`: one or more runs as one HTML page that needs nothing but itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from turbomim import __version__
from turbomim.pipeline.system.durable import make_folder_of, write_durably
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.recipes.title import run_title
from turbomim.train.report.data import bad_part, data_part
from turbomim.train.report.page import Html, html_page, html_section, tag
from turbomim.train.report.pictures import pictures_part
from turbomim.train.report.results import analysis_part, benchmarks_part, environment_part, eval_part
from turbomim.train.report.run import RunFacts, read_runs
from turbomim.train.report.sections import (
    curves_part,
    method_part,
    settings_part,
    summary_part,
)
from turbomim.train.report.summary import cut_own_paths

# of the name of a page of several: runs, and characters
NAMED, LONGEST = 4, 80


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenReport:
    """A page that was written. bytes: its size; problems: what of the runs could not be read, in lines."""

    path: Path
    bytes: int
    problems: tuple[str, ...]


def write_report(
    paths: Sequence[Path], out: Path | None = None, benchmarks: Path | None = None
) -> WrittenReport:
    """Write the page of these run folders, to `report_path` if out is not given.

    Raises UserError as `read_runs` and `report_page`, and where it cannot be written.
    """
    out = out or report_path(paths)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise UsageError(f"--out {out}: must be a file whose name ends in .html")
    runs = read_runs(paths)
    make_folder_of(out)
    text = report_page(runs, benchmarks).encode()
    write_durably(out, text)
    problems = tuple(line for run in runs for line in run.problems)
    return WrittenReport(path=out, bytes=len(text), problems=problems)


def report_path(paths: Sequence[Path]) -> Path:
    """Where the page of these run folders is: of one in its folder; of several here, under their names."""
    if len(paths) == 1:
        return paths[0] / "report.html"
    names = [path.resolve().name for path in paths]
    more = [f"and-{len(names) - NAMED}-more"] if len(names) > NAMED else []
    return Path(f"report-{'-'.join([*names[:NAMED], *more])[:LONGEST]}.html")


def report_page(runs: Sequence[RunFacts], benchmarks: Path | None = None) -> str:
    """The page.  The same files give the same page.  Raises UserError if `benchmarks` is no folder."""
    parts = {
        "Summary": summary_part(runs),
        "Settings": settings_part(runs),
        "Curves": curves_part(runs),
        "Reconstructions": pictures_part(runs),
        "Method": method_part(runs),
        "Evaluation": eval_part(runs),
        "Analyses": analysis_part(runs),
        "Benchmarks": benchmarks_part(benchmarks, runs[0].problems),
        "Data": data_part(runs),
        "Environment": environment_part(runs),
        "Bad samples": bad_part(runs),
    }
    # reading and drawing have named them by now
    problems = [
        tag("li", cut_own_paths(line, runs))
        for line in dict.fromkeys(line for run in runs for line in run.problems)
    ]
    sections = {"Problems": [tag("ul", *problems, class_="problems")] if problems else [], **parts}
    shown: dict[str, Html] = {name: html_section(name, *part) for name, part in sections.items() if part}
    names = ", ".join(run.label for run in runs)
    ended = max((run.ended for run in runs), default="")
    when = f"as of {ended} (train.log), " if ended else ""
    of = [run_title(run.config, run.recipe) for run in runs if run.config and len(runs) == 1]
    when = "; ".join([*of, when])
    return html_page(f"turbomim report: {names}", f"{when}written by turbomim {__version__}", shown)
