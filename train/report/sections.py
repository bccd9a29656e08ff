"""What a report shows of training: facts, settings and curves.  A part without content is empty."""

from collections.abc import Sequence

import yaml

from turbomim.train.evaluate.knn import NEIGHBOURS
from turbomim.train.evaluate.online import KNN, PROBE, RANDOM, RAW
from turbomim.train.pictures.plot import Line, loss_lines, series
from turbomim.train.report.chart import line_chart
from turbomim.train.report.comparable import comparable_groups, find_incomparable
from turbomim.train.report.page import Html, html_table, short_path, tag
from turbomim.train.report.run import RunFacts
from turbomim.train.report.style import COLOURS
from turbomim.train.report.summary import (
    all_names,
    cut_own_paths,
    differing,
    recipe_settings,
    settings_as_text,
    summarise_run,
    table_rows,
)
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.trackers.scalars import OF_MODEL

# what else is drawn of a log record, and under which title
OTHERS = {
    "lr": "Learning rate",
    "img_per_s": "Images a second",
    "data_wait_pct": "Time waiting for data, %",
    "grad_norm": "Gradient norm",
    "test_top1": "Share of test images right",
}

SCORES = {
    KNN: f"{NEIGHBOURS} neighbours: share of test images right",
    PROBE: "Linear probe: share of test images right",
}


def summary_part(runs: Sequence[RunFacts]) -> list[Html]:
    """The facts of each run, a column each; above them what of the runs must not be compared."""
    facts = [summarise_run(run) for run in runs]
    rows = table_rows(all_names(facts), facts)
    notes = [tag("li", cut_own_paths(line, runs)) for line in find_incomparable(runs)]
    warnings = [tag("ul", *notes, class_="problems")] if notes else []
    return [*warnings, html_table(["run", *(run.label for run in runs)], rows)] if rows else warnings


def settings_part(runs: Sequence[RunFacts]) -> list[Html]:
    """Settings that differ from the recipe's or between runs, and all of them to unfold."""
    known = [run for run in runs if run.config]
    if not known:
        return []
    ours = [settings_as_text(run.config) for run in known if run.config]
    recipes = [recipe_settings(run) for run in known]
    between = differing(ours)
    changed = [
        n for n in ours[0] if n in between or any(o[n] != r[n] for o, r in zip(ours, recipes, strict=True))
    ]
    head = ["setting"]
    for run in known:
        head += [run.label, f"its recipe, {run.recipe}" if run.recipe else "defaults (no recipe is known)"]
    rows = []
    for name in changed:
        row = [name]
        for own, base in zip(ours, recipes, strict=True):
            differs = own[name] != base[name]
            value = short_path(own[name])
            row += [tag("span", value, class_="changed") if differs else value, base[name]]
        rows.append(row)
    text = "Bold: other than the recipe. " if rows else "Every setting is the recipe's. "
    left = "Names and folders of runs are left out, and of an absolute path all but its end."
    parts = [tag("p", text, left, class_="soft")]
    parts += [html_table(head, rows)] if rows else []
    for run in known:
        summary = tag("summary", f"All settings of {run.label}")
        parts.append(tag("details", summary, tag("pre", _all_settings(run))))
    return parts


def _all_settings(run: RunFacts) -> str:
    """Settings as YAML."""
    tree = to_dict(run.config) if run.config else {}
    short = {
        section: {
            key: short_path(value) if isinstance(value, str) else value for key, value in values.items()
        }
        for section, values in tree.items()
    }
    return str(yaml.safe_dump(short, sort_keys=False, allow_unicode=True))


def curves_part(runs: Sequence[RunFacts]) -> list[Html]:
    """Losses, a chart for those that may be compared; learning rate, rate and data wait, all runs in each."""
    x_name, x_label = shared_x_axis(runs)
    groups = comparable_groups(runs)
    losses = []
    for group in groups:
        names = f", {', '.join(run.label for run in group)}" if len(groups) > 1 else ""
        lines, level = _losses(group, runs, x_name), _no_skill(group)
        losses.append(
            line_chart(f"Masked-patch loss{names}", x_label, lines, from_zero=False, cut=True, level=level)
        )
    others = [
        line_chart(
            title,
            x_label,
            [_line(run, x_name, key, run.label, n) for n, run in enumerate(runs)],
            cut=key == "grad_norm",
        )
        for key, title in OTHERS.items()
    ]
    apart = "Losses that must not be compared are in charts of their own; the summary says why."
    notes = [tag("p", apart, class_="soft")] if sum(map(bool, losses)) > 1 else []
    return [*notes, *_side_by_side([*losses, *others, *_scores_while_training(runs)])]


def _scores_while_training(runs: Sequence[RunFacts]) -> list[Html]:
    """What neighbours and the linear probe got right while a run trained, a chart a run.

    Runs have charts of their own, as each names the images that it scores.
    """
    kinds = {"": "trained", RANDOM: "random weights", RAW: "raw pixels"}
    charts = []
    for run in runs:
        of_run = f", {run.label}" if len(runs) > 1 else ""
        for key, what in SCORES.items():
            lines = [_line(run, "step", f"{key}{of}", name, n) for n, (of, name) in enumerate(kinds.items())]
            charts.append(line_chart(f"{what}{of_run}", "optimizer step", lines))
    return charts


def method_part(runs: Sequence[RunFacts]) -> list[Html]:
    """A method's own numbers, MFF's weights of the fused blocks for example, a chart a run."""
    charts = []
    for run in runs:
        names = list(dict.fromkeys(key for r in run.records for key in r if key.startswith(OF_MODEL)))
        lines = [_line(run, "step", name, name.removeprefix(OF_MODEL), n) for n, name in enumerate(names)]
        of_mff = all(name.startswith(f"{OF_MODEL}fuse_") for name in names)
        title = "Weight of each fused block" if of_mff else "Numbers of the method"
        charts.append(line_chart(f"{title}, {run.label}", "optimizer step", lines))
    return _side_by_side(charts)


def _side_by_side(charts: Sequence[Html]) -> list[Html]:
    """The charts that are not empty, as many beside each other as there is room for."""
    drawn = [one for one in charts if one]
    return [tag("div", *drawn, class_="charts")] if drawn else []


def shared_x_axis(runs: Sequence[RunFacts]) -> tuple[str, str]:
    """What curves are drawn over: steps, or images where the runs' steps are of other sizes."""
    batches = {run.config.optim.global_batch for run in runs if run.config}
    return ("step", "optimizer step") if len(batches) < 2 else ("position", "images seen")


def _line(run: RunFacts, x_name: str, y_name: str, name: str, number: int) -> Line:
    x_N, y_N = series(run.records, y_name, x_name)
    return Line(name=name, x_N=x_N, y_N=y_N, colour=number, look="dashed" * (number // COLOURS % 2))


def _losses(group: Sequence[RunFacts], runs: Sequence[RunFacts], x_name: str) -> list[Line]:
    """Of each run of a group the logged loss, the same smoothed, and the held-out loss."""
    lines: list[Line] = []
    for number, run in enumerate(runs):
        if any(run is one for one in group):
            label = f"{run.label}, " if len(runs) > 1 else ""
            # one run has two colours: they are told apart more easily than dashes
            colours = number, number if len(runs) > 1 else 1
            lines += loss_lines(run.records, x_name, (f"{label}training", f"{label}held-out"), colours)
    return lines


def _no_skill(runs: Sequence[RunFacts]) -> float | None:
    """The loss of predicting nothing: 1 where every one's targets are normalised by patch."""
    return 1.0 if all(run.config and run.config.model.norm_pix for run in runs) else None
