"""What a report shows of JSON files: scores, analyses, benchmarks, and where a run ran."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import counted
from turbomim.train.pictures.plot import Line, series
from turbomim.train.report.chart import line_chart
from turbomim.train.report.files import Tree, json_lines, numbers
from turbomim.train.report.page import Html, html_table, short_path, tag
from turbomim.train.report.pictures import captioned_picture
from turbomim.train.report.run import RunFacts, Scores, scores_of
from turbomim.train.report.summary import (
    NAMES,
    NOT_SAID,
    all_names,
    differing,
    heading_of,
    percent_or_number,
    table_rows,
)

# rows of a table whose length a file decides
MOST_ROWS = 40
# of a list that is written out
MOST_VALUES = 12
# analyses of a run that are shown with their pictures
MOST_PICTURES = 12
# objects in objects that are written out
DEPTH = 6


def eval_part(runs: Sequence[RunFacts]) -> list[Html]:
    """The scores of RUN/eval/*.json, a table each; what is no table of scores as it is; how they differ."""
    parts = []
    for run in runs:
        for name, tree in run.evals.items():
            scores = scores_of(tree)
            parts.append(tag("h3", heading_of(run, name, runs)))
            parts.append(_scores(scores, _caption(tree)) if scores else _facts(tree, name))
            parts.append(_by_epoch(run, name))
    parts = [part for part in parts if part]
    tuned = finetunings(runs)
    names = differing(list(tuned.values()))
    if names:
        rows = [[name, *map(short_path, values)] for name, *values in table_rows(names, [*tuned.values()])]
        parts.append(tag("h3", "Settings that differ between fine-tunings"))
        parts.append(html_table(["setting", *tuned], rows[:MOST_ROWS]))
    return parts


def _by_epoch(run: RunFacts, name: str) -> Html:
    """The accuracy of the fine-tuning RUN/eval/NAME on its test split, over its epochs; nothing of others."""
    records = [*map(numbers, json_lines(run.path / "eval" / name / "metrics.jsonl", run.problems))]
    x_N, y_N = series(records, "test_top1", "epoch")
    line = Line(name="", x_N=x_N, y_N=y_N, colour=0, marks=True)
    return line_chart(f"Share of test images right, {name}", "epoch", [line])


def finetunings(runs: Sequence[RunFacts]) -> dict[str, dict[str, str]]:
    """The settings of each result in RUN/eval/*.json that has them, by run (if several) and name."""
    return {
        heading_of(run, name, runs): {
            key: text for key, text in _flat(tree["settings"]).items() if key not in NAMES
        }
        for run in runs
        for name, tree in run.evals.items()
        if isinstance(tree.get("settings"), dict)
    }


def analysis_part(runs: Sequence[RunFacts]) -> list[Html]:
    """What `turbomim analyze` left: pictures, settings and results."""
    parts = []
    for run in runs:
        folder = run.path / "analysis"
        pictures = {path.stem: path for path in sorted(folder.glob("*.png")) if path.is_file()}
        names = list(dict.fromkeys([*run.analyses, *pictures]))
        if len(names) > MOST_PICTURES:
            left = f"{len(names) - MOST_PICTURES} more of {run.label} are in {folder}."
            parts.append(tag("p", left, class_="soft"))
        for name in names[:MOST_PICTURES]:
            tree = run.analyses.get(name, {})
            title = str(tree.get("analysis", name))
            parts.append(tag("h3", heading_of(run, title, runs)))
            if name in pictures:
                parts.append(captioned_picture(pictures[name], title, run.problems))
            settings, results = tree.get("settings"), tree.get("results")
            if isinstance(settings, dict) and settings:
                text = "; ".join(f"{key} {value}" for key, value in _flat(settings).items())
                parts.append(tag("p", f"Settings: {text}", class_="soft"))
            if results not in (None, {}, []):
                shown = _facts(results if isinstance(results, dict) else {"results": results}, "")
                parts.append(tag("details", tag("summary", "Results in numbers"), shown))
    return [part for part in parts if part]


def benchmarks_part(folder: Path | None, problems: list[str]) -> list[Html]:
    """Every file of JSON lines in a folder, a table for rows of one kind.  Raises UserError if it is none."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise UserError(
            f"--benchmarks {folder}: is not a folder; give one with *.jsonl files of turbomim bench"
        )
    parts = []
    for path in sorted(folder.glob("*.jsonl")):
        kinds: dict[frozenset[str], list[dict[str, str]]] = {}
        for row in map(_benchmark, json_lines(path, problems)):
            kinds.setdefault(frozenset(row), []).append(row)
        tables = [_benchmarks(rows) for kind, rows in kinds.items() if kind]
        parts += [tag("h3", path.name), *tables] if tables else []
    return parts


def _benchmarks(rows: Sequence[dict[str, str]]) -> Html:
    """Rows with the same names; what they share is in the caption."""
    same = [n for n in rows[0] if n != "name" and len(rows) > 1 and len({row[n] for row in rows}) == 1]
    varied = [name for name in rows[0] if name not in same]
    more = [f"{len(rows) - MOST_ROWS:,} more rows left out"] if len(rows) > MOST_ROWS else []
    shared = [f"{name} {rows[0][name]}" for name in same]
    body = [[row[name] for name in varied] for row in rows[:MOST_ROWS]]
    return html_table(varied, body, caption="; ".join([*more, *shared]))


def environment_part(runs: Sequence[RunFacts]) -> list[Html]:
    """Versions, machine and command of each run."""
    flats = [_flat({key: value for key, value in run.env.items() if key != "command"}) for run in runs]
    named = table_rows(all_names(flats)[:MOST_ROWS], flats)
    rows = [[name.removeprefix("versions."), *values] for name, *values in named]
    parts = [html_table(["where it ran", *(run.label for run in runs)], rows)] if rows else []
    for run in runs:
        command = run.env.get("command")
        if isinstance(command, list):
            parts += [tag("h3", f"Command of {run.label}"), tag("pre", _command([*map(str, command)]))]
    return parts


def _command(words: Sequence[str]) -> str:
    """A command as it may be typed; ours by its name, wherever it lies, and of absolute paths the end."""
    program = Path(words[0]) if words else Path()
    ours = "turbomim" if program.name == "__main__.py" else program.name
    flags = (word.partition("=") for word in words[1:])
    return shlex.join([ours, *(f"{short_path(flag)}{eq}{short_path(value)}" for flag, eq, value in flags)])


def _scores(scores: Scores, caption: str) -> Html:
    measures = all_names([*scores.values()])
    rows = [
        [feature, *(percent_or_number(values[name]) if name in values else NOT_SAID for name in measures)]
        for feature, values in scores.items()
    ]
    return html_table(["features", *measures], rows, caption=caption, numbers=True)


def _caption(tree: Tree) -> str:
    """What a result of `turbomim eval` was measured on."""
    step, train, test = tree.get("step"), tree.get("train_samples"), tree.get("test_samples")
    parts = [f"step {step:,}"] if isinstance(step, int) else []
    epochs, steps = tree.get("epochs"), tree.get("steps")
    if isinstance(epochs, int | float) and isinstance(steps, int):
        parts.append(f"then trained for {epochs:g} epochs, {counted(steps, 'step')}")
    parts += [f"{train:,} samples of {tree.get('train')} to learn from"] if isinstance(train, int) else []
    left_out = tree.get("test_left_out")
    without = f", {left_out:,} left out" if isinstance(left_out, int) and left_out else ""
    parts += [f"{test:,} of {tree.get('test')} scored{without}"] if isinstance(test, int) else []
    return ", ".join([*parts, "% of samples right"])


def _facts(tree: Tree, caption: str) -> Html:
    """Any JSON object as names and values."""
    flat = _flat(tree)
    rows = list(flat.items())[:MOST_ROWS]
    more = f" ({len(flat) - MOST_ROWS:,} more left out)" if len(flat) > MOST_ROWS else ""
    return html_table(["name", "value"], rows, caption=f"{caption}{more}")


def _flat(tree: Tree, before: str = "") -> dict[str, str]:
    """Values of an object and of those in it, by their path with dots; the deepest are counted."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and before.count(".") < DEPTH:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value_text(value)
    return found


def value_text(value: Any) -> str:
    """A value of a JSON file as text, long ones cut short."""
    if isinstance(value, list):
        plain = len(value) <= MOST_VALUES and not any(isinstance(item, list | dict) for item in value)
        return ", ".join(map(value_text, value)) if plain else f"{len(value):,} values"
    if isinstance(value, dict):
        return f"{len(value):,} entries"
    if isinstance(value, bool) or value is None:
        return NOT_SAID if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    text = f"{value:,}" if isinstance(value, int) and abs(value) < 10**15 else str(value)[:301]
    return text if len(text) <= 300 else f"{text[:299]}…"


def _benchmark(row: Tree) -> dict[str, str]:
    """A benchmark's row as text, what is nested left out; times of 1,000 images as images a second."""
    row = {name: value for name, value in row.items() if not isinstance(value, list | dict)}
    times = [numbers(row).get(name, 0) for name in ("p50", "p80", "p20")]
    if row.get("unit") == "us per 1000 images" and min(times) > 0:
        middle, low, high = (f"{1e9 / time:,.0f}" for time in times)
        row = {key: value for key, value in row.items() if key not in ("unit", "p20", "p50", "p80")}
        row = {"name": row.pop("name", None), "img/s": middle, "of the middle 60 %": f"{low} to {high}"} | row
    return {str(name): value_text(value) for name, value in row.items()}
