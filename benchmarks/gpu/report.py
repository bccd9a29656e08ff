"""What `turbomim bench gpu` wrote, as pages for docs/performance.md and docs/kernels.md.

Rows that say images a second are in the tables of benchmarks/tables.py; here are the others: the machine,
tests, shares of the step, photographs, compiled against eager, profiles, and what was not measured and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from turbomim.benchmarks.gpu.stage import Row
from turbomim.benchmarks.tables import entries, markdown, markdown_table

# facts that every row has
COMMON: Final = ("stage", "name", "value", "unit", "device", "driver", "cpu", "threads", "versions", "commit")


def all_tables(rows: Sequence[Row]) -> str:
    """What `turbomim bench report` prints: images a second, then these pages; empty without either."""
    return "\n\n".join(part for part in (markdown(entries(rows)[0]), pages(rows)) if part)


def pages(rows: Iterable[Row]) -> str:
    """All pages in Markdown, empty where no row is of a stage.  Of rows of one name the last counts."""
    last = {(row["stage"], row["name"]): row for row in rows if "stage" in row and "name" in row}
    every = list(last.values())
    made: list[tuple[str, Callable[[Sequence[Row]], str]]] = [
        ("Where", where),
        ("Tests", tests),
        ("The machine", lambda some: facts(some, "machine")),
        ("Kernels beside the step", shares),
        ("Memory of a step, predicted and reached", memory),
        ("Photographs", lambda some: facts(some, "photographs")),
        ("Compiled against eager", curves),
        ("Kernels of a step", profile),
        ("Hardware counters", counters),
        ("Not measured", missing),
    ]
    parts = [(title, make(every)) for title, make in made]
    return "\n\n".join(f"**{title}**\n\n{text}" for title, text in parts if text)


def _table(head: Sequence[str], lines: Sequence[tuple[str, ...]]) -> str:
    """A table, or nothing where it has no line."""
    return markdown_table([head, *lines], words=2) if lines else ""


def _good(rows: Iterable[Row], stage: str) -> list[Row]:
    return [row for row in rows if row["stage"] == stage and "why_not" not in row]


def where(rows: Sequence[Row]) -> str:
    """Hardware, driver, versions and commits."""
    found = dict.fromkeys(
        (
            row.get("device"),
            row.get("driver"),
            row.get("cpu"),
            _words(row.get("versions") or {}),
            row.get("commit"),
        )
        for row in rows
        if "commit" in row
    )
    head = ("device", "driver", "processor", "versions", "commit")
    return _table(head, [tuple(str(value or "") for value in row) for row in found])


def tests(rows: Sequence[Row]) -> str:
    """A line a file."""
    found = [row for row in _good(rows, "tests") if "passed" in row]
    head = ("file", "passed", "failed", "skipped", "seconds")
    return _table(head, [tuple(str(row.get(n, "")) for n in ("name", *head[1:])) for row in found])


def facts(rows: Sequence[Row], stage: str) -> str:
    """What, how much, and what else is known of it."""
    found = _good(rows, stage)
    lines = [
        (
            str(row["name"]),
            f"{_number(row['value'])} {row.get('unit', '')}".strip() if "value" in row else "",
            _words({k: v for k, v in row.items() if k not in COMMON and v is not None}),
        )
        for row in found
    ]
    return _table(("what", "measured", "facts"), lines)


def shares(rows: Sequence[Row]) -> str:
    """The time of our kernels as a share of the ViT-B step's, for as many images."""
    step = next((row for row in _good(rows, "step base") if row["name"] == "step, vit-base: turbomim"), None)
    kernels = [row for row in _good(rows, "kernels") if row["name"].endswith(": ours")]
    if step is None or not kernels:
        return ""
    lines = [
        (
            row["name"].removesuffix(": ours"),
            f"{row['p50']:,.1f}",
            f"{row['share_of_copy']:.0%}",
            f"{row['times_faster']:.2f}",
            f"{row['p50'] / step['p50']:.3%}",
        )
        for row in kernels
    ]
    head = ("", "us per 1,000 images", "of a copy's bandwidth", "× the first form", "of the ViT-B step")
    return markdown_table([head, *lines], words=2)


def memory(rows: Sequence[Row]) -> str:
    """Gigabytes, and their ratio."""
    found = [row for row in rows if row.get("predicted_gb") and row.get("peak_gb")]
    lines = [
        (
            row["name"],
            str(row["batch"]),
            f"{row['predicted_gb']:.2f}",
            f"{row['peak_gb']:.2f}",
            f"{row['peak_gb'] / row['predicted_gb']:.2f}",
        )
        for row in found
    ]
    return _table(("step", "batch", "predicted, GB", "reached, GB", "ratio"), lines)


def curves(rows: Sequence[Row]) -> str:
    """Where each run ended, and how far the losses were apart."""
    found = _good(rows, "compiled against eager")
    lines = [
        (row["name"], str(row["steps"]), f"{row['curve'][0]:.4f}", f"{row['curve'][-1]:.4f}")
        for row in found
        if "curve" in row
    ]
    apart = [
        f"Largest difference from the eager loss: {name} {row[name]:.2g}."
        for row in found
        if "curve" not in row
        for name in row
        if name not in (*COMMON, "steps")
    ]
    text = _table(("run", "steps", "loss at first", "at the end"), lines)
    return "\n\n".join(part for part in (text, " ".join(apart)) if part)


def profile(rows: Sequence[Row]) -> str:
    """The kernels that take most of a step."""
    found = [row for row in _good(rows, "profiles") if row["name"].startswith("kernel: ")]
    lines = [
        (
            row["name"].removeprefix("kernel: "),
            f"{row['share']:.1%}",
            f"{row['us']:,.0f}",
            f"{row['launches']:.0f}",
        )
        for row in found
    ]
    return _table(("kernel", "share", "us a step", "launches a step"), lines)


def counters(rows: Sequence[Row]) -> str:
    """What Nsight Compute counted."""
    found = [row for row in _good(rows, "profiles") if row["name"].startswith("counters: ")]
    lines = [
        (row["name"].removeprefix("counters: "), _words({k: v for k, v in row.items() if k not in COMMON}))
        for row in found
    ]
    return _table(("kernel", "counted"), lines)


def missing(rows: Sequence[Row]) -> str:
    """Everything that has a reason in place of a figure."""
    lines = [(row["stage"], row["name"], row["why_not"]) for row in rows if "why_not" in row]
    return _table(("stage", "what", "why not"), lines)


def _words(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {_number(value)}" for name, value in values.items() if not isinstance(value, (list, dict))
    )


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value).replace("|", "/")
