"""`turbomim compare`: runs side by side on the terminal, and their losses over images seen in one plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from turbomim.pipeline.system.durable import make_folder_of
from turbomim.pipeline.system.errors import UserError
from turbomim.train.pictures.plot import Line, draw_losses, loss_lines, new_figure, write_figure
from turbomim.train.report.comparable import comparable_groups
from turbomim.train.report.page import printable
from turbomim.train.report.results import finetunings
from turbomim.train.report.run import RunFacts, scores_of
from turbomim.train.report.summary import (
    NOT_SAID,
    all_names,
    differing,
    percent_or_number,
    settings_as_text,
    summarise_run,
    table_rows,
)

SHOWN = ("recipe", "status", "images seen", "training loss", "held-out loss", "img/s", "waiting for data")
# characters of a word, or of a row's name, that is not broken; paths may have more
LONGEST = 30


def comparison_tables(runs: Sequence[RunFacts], width: int) -> list[Table]:
    """What came out, the settings that differ, and the scores, where there are any; a column a run.

    width: characters of a line, for which a table is cut into several of fewer runs.
    """
    facts = {run.label: summarise_run(run) for run in runs}
    shown = [name for name in SHOWN if any(name in some for some in facts.values())]
    known = {run.label: settings_as_text(run.config) for run in runs if run.config}
    scores = {run.label: _scores(run) for run in runs}
    tuned = finetunings(runs)
    changed, changed_tuning = differing([*known.values()]), differing([*tuned.values()])
    measures = all_names([*scores.values()])
    return [
        *_tables("runs", "run", facts, shown, width),
        *_tables("settings that differ", "setting", known, changed, width),
        *_tables("evaluation, % of samples right", "measure", scores, measures, width),
        *_tables("settings that differ between fine-tunings", "setting", tuned, changed_tuning, width),
    ]


def _scores(run: RunFacts) -> dict[str, str]:
    """A run's scores by `file, feature, measure`."""
    return {
        f"{name}, {feature}, {measure}": percent_or_number(value)
        for name, tree in run.evals.items()
        for feature, values in (scores_of(tree) or {}).items()
        for measure, value in values.items()
    }


def _tables(
    title: str, head: str, columns: Mapping[str, Mapping[str, str]], names: Sequence[str], width: int
) -> list[Table]:
    """A table with a column of each name of `columns`, a row of each of `names`; none without a row.

    It is cut into several where columns of whole words are too wide together.
    """
    if not names:
        return []
    parts: list[list[str]] = [[]]
    # what stands between columns takes 3 characters each, and one more; rich makes wide columns alike
    room, widest = width - 4 - min(max(map(len, [head, *names])), LONGEST), 0
    for label, column in columns.items():
        words = [word for name in ("", *names) for word in column.get(name, NOT_SAID).split()]
        needed = 3 + min(max(map(len, ["", *label.split(), *words])), LONGEST)
        widest = max(widest, needed)
        if parts[-1] and widest * (len(parts[-1]) + 1) > room:
            parts.append([])
            widest = needed
        parts[-1].append(label)
    return [
        _table(title, [head, *part], table_rows(names, [columns[label] for label in part])) for part in parts
    ]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(printable(column), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    return table


def plot_losses(runs: Sequence[RunFacts], path: Path) -> None:
    """Training and held-out losses over images seen; runs that must not be compared have axes of their own.

    Raises UserError without losses or matplotlib.
    """
    drawn = [lines for group in comparable_groups(runs) if (lines := _lines(group, runs))]
    if not drawn:
        raise UserError(f"nothing to draw in {path}: none of the runs has logged a loss")
    figure = new_figure(8, 5 * len(drawn))
    for axes, lines in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn, strict=True):
        draw_losses(axes, lines, "images seen")
    make_folder_of(path)
    write_figure(figure, path)


def _lines(group: Sequence[RunFacts], runs: Sequence[RunFacts]) -> list[Line]:
    """The losses of a group, in the colours that they have among all runs."""
    lines: list[Line] = []
    for number, run in enumerate(runs):
        if any(run is one for one in group):
            name = printable(run.label)
            lines += loss_lines(run.records, "position", (name, f"{name}, held-out"), (number, number))
    return [line for line in lines if len(line.x_N)]
