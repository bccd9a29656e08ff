"""`turbomim compare`: runs side by side on the terminal, and their losses over images seen in one plot."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from turbomim.pipeline.system.durable import make_folder_of
from turbomim.pipeline.system.errors import UserError
from turbomim.train.pictures.plot import Line, draw_losses, loss_lines, new_figure, write_figure
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
from turbomim.train.settings.config import Config

SHOWN = ("recipe", "status", "images seen", "training loss", "held-out loss", "img/s", "waiting for data")
LOSSES = {"training": "loss", "held-out": "heldout_loss"}
# a loss means something else where one of these differs: the reason, and what decides it
DECIDES_LOSS: dict[str, Callable[[Config], object]] = {
    "another kind of loss (L1 on pixels, or squares)": lambda c: c.model.method.startswith("simmim"),
    "other targets": lambda c: (c.model.target, c.model.target != "raw" and c.model.radius),
    "other normalisation of the targets": lambda c: (c.model.norm_pix, c.model.norm_window),
    "other patches": lambda c: (c.model.patch, c.data.size),
    "other masks": lambda c: (c.model.mask, c.model.mask_ratio, c.model.mask_unit * c.model.patch),
    "other crops": lambda c: (c.data.crop, c.data.crop == "rrc" and c.data.rrc_scale, c.data.interpolation),
}
# what a score of `turbomim eval` was measured on; it means something else where one of these differs
DECIDES_SCORE = ("train", "train_samples", "test", "test_samples", "size")


def comparison_tables(runs: Sequence[RunFacts]) -> list[Table]:
    """What came out, the settings that differ, and the scores, where there are any."""
    facts = {run.label: summarise_run(run) for run in runs}
    shown = [name for name in SHOWN if any(name in some for some in facts.values())]
    rows = [[label, *(some.get(name, NOT_SAID) for name in shown)] for label, some in facts.items()]
    known = {run.label: settings_as_text(run.config) for run in runs if run.config}
    scores = {run.label: _scores(run) for run in runs}
    tuned = finetunings(runs)
    changed, changed_tuning = differing([*known.values()]), differing([*tuned.values()])
    return [
        _table("runs", ["run", *shown], rows),
        *_columns("settings that differ", "setting", known, changed),
        *_columns("evaluation, % of samples right", "measure", scores, all_names([*scores.values()])),
        *_columns("settings that differ between fine-tunings", "setting", tuned, changed_tuning),
    ]


def find_incomparable(runs: Sequence[RunFacts]) -> list[str]:
    """What keeps losses and scores of the runs from being compared with the first one's, and other seeds."""
    found = []
    first = runs[0]
    for other in runs[1:]:
        names = f"{first.label} and {other.label}"
        a, b = first.config, other.config
        reasons = [reason for reason, of in DECIDES_LOSS.items() if a and b and of(a) != of(b)]
        for kind, why in (("training", reasons), ("held-out", list(reasons))):
            why += _other_data(first, other, kind)
            both = all(any(LOSSES[kind] in record for record in run.records) for run in (first, other))
            if why and both:
                found.append(f"{kind} losses of {names} are not comparable: {', '.join(why)}")
        if a and b and a.run.seed != b.run.seed:
            seeds = f"({a.run.seed} and {b.run.seed})"
            found.append(f"{names} have other seeds {seeds}: initial weights, order, crops and masks differ")
        found += _other_scores(first, other)
    return found


def _other_scores(one: RunFacts, other: RunFacts) -> list[str]:
    """Which scores that both runs have were measured on other images, or at another size."""
    found = []
    for name in (name for name in one.evals if name in other.evals):
        a, b = one.evals[name], other.evals[name]
        both = [key for key in DECIDES_SCORE if key in a and key in b and a[key] != b[key]]
        if both:
            why = ", ".join(f"{key} {a[key]} and {b[key]}" for key in both)
            found.append(f"{name} of {one.label} and {other.label} was not measured on the same: {why}")
    return found


def _other_data(one: RunFacts, other: RunFacts, kind: str) -> list[str]:
    """How the data of two runs differ; nothing if they are the same."""
    a, b = one.fingerprint(kind), other.fingerprint(kind)
    if a and b:
        return [f"other data (fingerprints {a[:12]} and {b[:12]})"] if a != b else []
    here, there = one.splits.get(kind), other.splits.get(kind)
    if here is None or there is None or os.path.abspath(here[0]) == os.path.abspath(there[0]):
        return []
    return [f"perhaps other data ({here[0]} and {there[0]}; a fingerprint is not known)"]


def _scores(run: RunFacts) -> dict[str, str]:
    """A run's scores by `file, feature, measure`."""
    return {
        f"{name}, {feature}, {measure}": percent_or_number(value)
        for name, tree in run.evals.items()
        for feature, values in (scores_of(tree) or {}).items()
        for measure, value in values.items()
    }


def _columns(
    title: str, head: str, columns: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> list[Table]:
    """A table with a column of each name of `columns`, a row of each of `names`; none without a row."""
    rows = table_rows(names, [*columns.values()])
    return [_table(title, [head, *columns], rows)] if rows else []


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(printable(column), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    return table


def plot_losses(runs: Sequence[RunFacts], path: Path) -> None:
    """Training and held-out losses over images seen.  Raises UserError without losses or matplotlib."""
    figure = new_figure(8, 5)
    lines: list[Line] = []
    for number, run in enumerate(runs):
        name = printable(run.label)
        lines += loss_lines(run.records, "position", (name, f"{name}, held-out"), (number, number))
    lines = [line for line in lines if len(line.x_N)]
    if not lines:
        raise UserError(f"nothing to draw in {path}: none of the runs has logged a loss")
    draw_losses(figure.subplots(), lines, "images seen")
    make_folder_of(path)
    write_figure(figure, path)
