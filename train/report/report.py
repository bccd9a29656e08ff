"""`turbomim report`: one or more runs as one HTML page that needs nothing but itself."""

from collections.abc import Sequence
from pathlib import Path

from turbomim import __version__
from turbomim.pipeline.system.durable import make_folder_of, write_durably
from turbomim.pipeline.system.words import sized
from turbomim.train.report.data import bad_part, data_part
from turbomim.train.report.page import Html, html_page, html_section, short_path, tag
from turbomim.train.report.pictures import pictures_part
from turbomim.train.report.results import analysis_part, benchmarks_part, environment_part, eval_part
from turbomim.train.report.run import RunFacts, read_runs
from turbomim.train.report.sections import (
    curves_part,
    method_part,
    settings_part,
    summary_part,
)


def write_report(paths: Sequence[Path], out: Path, benchmarks: Path | None = None) -> str:
    """Write the page of these run folders; a line about it.  Raises UserError as `report`, and for no run."""
    runs = read_runs(paths)
    make_folder_of(out)
    text = report_page(runs, benchmarks).encode()
    write_durably(out, text)
    problems = sum(len(run.problems) for run in runs)
    noted = f"; at its top: {problems} file{'s' * (problems > 1)} with problems" if problems else ""
    return f"{out}: {sized(len(text))}{noted}"


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
    problems = [tag("li", line) for line in dict.fromkeys(line for run in runs for line in _problems(run))]
    sections = {"Problems": [tag("ul", *problems, class_="problems")] if problems else [], **parts}
    shown: dict[str, Html] = {name: html_section(name, *part) for name, part in sections.items() if part}
    names = ", ".join(run.label for run in runs)
    ended = max((run.ended for run in runs), default="")
    when = f"as of {ended} (train.log), " if ended else ""
    return html_page(f"turbomim report: {names}", f"{when}written by turbomim {__version__}", shown)


def _problems(run: RunFacts) -> list[str]:
    """What could not be read.  Its own paths are cut here: one with spaces has no end that a text shows."""
    lines = run.problems
    for path in (run.path, *(path for path, _ in run.splits.values())):
        lines = [line.replace(str(path), short_path(str(path))) for line in lines]
    return lines
