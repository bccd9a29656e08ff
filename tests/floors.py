"""The floors of the house: which folder may import which, in one table, and the picture of it.

`python -m tests.floors docs/images/architecture.svg` draws the picture.  Every rule is a function that lists
what breaks it; tests/test_direction.py asks all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from textwrap import wrap

from tests import ROOT
from tests.imports import Graph, Names, graph, read

# rows from the top floor to the ground; of each folder, what lives there
Floors = Sequence[Mapping[str, str]]

# A folder imports what is on lower floors alone: nothing above, nothing beside it.
FLOORS: Floors = (
    {"train/commands": "turbomim COMMAND …: its file is found by name, reads the flags, calls one function"},
    {
        "train/commands/shard": "make, index, verify, inspect, cat",
        "train/commands/eval": "knn, linear, finetune",
        "train/commands/tune": "loader, step",
        "train/demo": "the whole way, in minutes",
    },
    {"train/api": "the functions of `import turbomim`, one a file; commands call them"},
    {
        "train/report": "runs on one page, or side by side",
        "train/analyze": "features, crops, masks in figures",
        "train/pretrain": "a run put together; the dry run",
    },
    {"train/finetune": "an encoder and a head, trained on labels: classifier, augmentation, layer decay"},
    {
        "train/evaluate": "nearest neighbours, linear probes",
        "train/export": "weights for other programs, checked",
        "train/pictures": "reconstructions, targets, curves",
    },
    {"train/encoder": "a trained encoder as others use it: its source, its crop, its size, its features"},
    {
        "train/loop": "the step and the loop around it, roll-back, profile",
        "train/foreign": "checkpoints of other programs, read as mere data",
    },
    {"train/folder": "the run folder: settings, status, log, checkpoints, and what a new start finds there"},
    {
        "train/machine": "what this machine has, what a run takes on it",
        "train/recipes": "published settings by name, and flags over them",
        "train/trackers": "TensorBoard, W&B, MLflow, Trackio",
    },
    {"train/optim": "AdamW, Muon, LAMB and LARS; which parameter is in which group"},
    {"train/models": "the methods (MAE, MFF, ConvMAE, SimMIM), initial weights, sharding"},
    {
        "train/settings": "one tree of settings, plan, schedule",
        "train/world": "ranks, devices, signals",
        "train/terminal": "panel, progress, streams, interrupts",
    },
    {
        "kernels": "tensors to tensors: masks, patches, low-pass targets, losses; with references, Triton "
        "kernels and ops",
        "pipeline": "the loader: a position in the stream to a batch on the device; stand-ins",
        "pipeline/checking": "verify, inspect, contact sheet",
    },
    {"pipeline/making": "photographs into shards, foreign tars into a split"},
    {"pipeline/decoding": "encoded images to crops, on the host or by DALI; what does not decode"},
    {"pipeline/reading": "sample ids to bytes, ahead of the decoder"},
    {
        "pipeline/tars": "splits, manifests, indexes, tars",
        "pipeline/stream": "sample order, random words",
    },
    {"pipeline/places": "folders and object stores behind one interface; retries"},
    {"pipeline/system": "durable files, locks, threads, errors in one line"},
)

STAGES = ("pipeline", "kernels", "train", "benchmarks")
# stages that import themselves alone
ALONE = ("kernels", "pipeline")
# source files of a folder, at most
MOST = 16


def folder_of(path: str) -> str:
    """The folder of a file; a folder itself."""
    return str(PurePosixPath(path).parent) if path.endswith(".py") else path


def stage_of(path: str) -> str:
    """The first part of a path."""
    return PurePosixPath(path).parts[0]


def edges(imports: Graph) -> list[tuple[str, str]]:
    """Every import as (file, what it imports), in order."""
    return sorted((file, other) for file, others in imports.items() for other in others)


def _heights(floors: Floors) -> dict[str, int]:
    """The floor of each folder, 0 for the ground."""
    return {folder: height for height, row in enumerate(reversed(floors)) for folder in row}


def _steps(imports: Graph, floors: Floors) -> Iterable[tuple[str, str, int]]:
    """Imports between two folders of the table, and how many floors up they go."""
    heights = _heights(floors)
    for file, other in edges(imports):
        here, there = folder_of(file), folder_of(other)
        if here != there and here in heights and there in heights:
            yield file, other, heights[there] - heights[here]


def upward(imports: Graph, floors: Floors = FLOORS) -> list[str]:
    """Imports from a higher floor."""
    return [f"{file} imports {other}, {up} above it" for file, other, up in _steps(imports, floors) if up > 0]


def sideways(imports: Graph, floors: Floors = FLOORS) -> list[str]:
    """Imports between folders of one floor."""
    return [f"{file} imports {other}, of its floor" for file, other, up in _steps(imports, floors) if up == 0]


def crossing(imports: Graph, alone: Sequence[str] = ALONE) -> list[str]:
    """Imports out of a stage that must import itself alone."""
    found = [(file, other) for file, other in edges(imports) if stage_of(file) in alone]
    return [f"{file} imports {other}" for file, other in found if stage_of(other) != stage_of(file)]


def of_benchmarks(imports: Graph) -> list[str]:
    """Imports of benchmarks or tests by what is neither."""
    above = ("benchmarks", "tests")
    found = [(file, other) for file, other in edges(imports) if stage_of(file) not in above]
    return [f"{file} imports {other}" for file, other in found if stage_of(other) in above]


def crowded(files: Iterable[str], most: int = MOST) -> list[str]:
    """Folders of more source files than a person takes in; a test's conftest.py and __init__.py are free."""
    counted = [folder_of(file) for file in files if PurePosixPath(file).stem not in ("conftest", "__init__")]
    return [f"{f} has {n} files, not {most}" for f in sorted({*counted}) if (n := counted.count(f)) > most]


def homeless(imports: Graph, floors: Floors = FLOORS) -> list[str]:
    """Folders of source files, or imported, that have no floor; and those of the table that are not there."""
    stages = {stage_of(folder) for row in floors for folder in row}
    paths = {*imports, *(other for _, other in edges(imports))}
    there = {folder_of(path) for path in paths if stage_of(path) in stages}
    known = {folder for row in floors for folder in row}
    return [
        *(f"{folder} has no floor" for folder in sorted(there - known)),
        *(f"{folder} has a floor and no file" for folder in sorted(known - there)),
    ]


def relative(names: Names) -> list[str]:
    """Relative imports."""
    return [f"{file} imports {name}" for file, name in edges(names) if name.startswith(".")]


def bare(names: Names, stages: Sequence[str] = STAGES) -> list[str]:
    """Imports of a stage by its bare name, by which it would exist twice."""
    return [f"{file} imports {name}" for file, name in edges(names) if name.split(".")[0] in stages]


def downward(imports: Graph, floors: Floors = FLOORS) -> dict[str, set[str]]:
    """The folders of lower floors that each folder imports."""
    below: dict[str, set[str]] = {folder: set() for row in floors for folder in row}
    for file, other, up in _steps(imports, floors):
        if up < 0:
            below[folder_of(file)].add(folder_of(other))
    return below


def nearest(below: Mapping[str, set[str]], floors: Floors = FLOORS) -> dict[str, list[str]]:
    """Of the folders that each folder imports, those that no other one of them reaches; as in the table."""
    order = [folder for row in floors for folder in row]
    reached: dict[str, set[str]] = {}
    for folder in reversed(order):
        reached[folder] = below[folder].union(*(reached[other] for other in below[folder]))
    return {
        folder: [o for o in order if o in others and not any(o in reached[near] for near in others)]
        for folder, others in below.items()
    }


# pixels
WIDTH, EDGE, GAP, ROOF = 900, 24, 8, 64
# height of a line, and width of a letter: a wide font's, so that the text fits with any
LINES = {"name": (15, 7.4), "words": (16, 6.4), "on": (15, 6.2)}
# shades of a room and its rim, on a light page and on a dark one
SHADES = {
    "train": ("#e6eef8", "#a9c0dc", "#1b2a3d", "#3c5778"),
    "kernels": ("#fcefd2", "#dcb978", "#372c17", "#79622f"),
    "pipeline": ("#e3f2e4", "#9cc7a0", "#1a2f21", "#3d6a48"),
}
STYLE = """
text { font-family: -apple-system, "Segoe UI", "Helvetica Neue", Helvetica, Arial, sans-serif; }
.page { fill: #ffffff; } .roof { fill: #f3f4f6; stroke: #c4cad2; }
.title { font-size: 17px; font-weight: 600; fill: #1f2933; text-anchor: middle; }
.legend { font-size: 12px; fill: #5b6875; text-anchor: middle; }
.name { font-size: 13px; font-weight: 600; fill: #1f2933; }
.words { font-size: 12px; fill: #1f2933; } .on { font-size: 11px; fill: #5b6875; }
""".strip()
DARK = """
.page { fill: #12161b; } .roof { fill: #1b2026; stroke: #46505b; }
.title, .name, .words { fill: #e6eaee; } .legend, .on { fill: #a5b0bc; }
""".strip()


def _lines(folder: str, words: str, others: list[str], width: float) -> list[tuple[str, str]]:
    """What stands in a room of a width: (class, text) of each line."""
    prefix = f"{stage_of(folder)}/"
    on = "→ " + ", ".join(other.removeprefix(prefix) for other in others) if others else ""
    texts = {"name": folder, "words": words, "on": on}
    return [
        (kind, line)
        for kind, text in texts.items()
        for line in wrap(text, int((width - 24) / LINES[kind][1]), break_on_hyphens=False)
    ]


def _room(folder: str, lines: list[tuple[str, str]], box: tuple[float, float, float, float]) -> list[str]:
    """A rounded box with lines; box: x, y, width, height."""
    x, y, width, height = box
    drawn = [
        f'<rect class="{stage_of(folder)}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"/>'
    ]
    place = y + 5
    for kind, line in lines:
        place += LINES[kind][0]
        drawn.append(f'<text class="{kind}" x="{x + 12:g}" y="{place:g}">{escape(line)}</text>')
    return drawn


def _page(drawn: list[str], bottom: float) -> str:
    """The whole SVG: the page that the rooms lie on, the roof above them and what it says."""
    middle, eaves = WIDTH / 2, ROOF + EDGE - GAP
    light = [f".{stage} {{ fill: {a}; stroke: {b}; }}" for stage, (a, b, _, _) in SHADES.items()]
    dark = [f".{stage} {{ fill: {c}; stroke: {d}; }}" for stage, (_, _, c, d) in SHADES.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:g}" role="img">',
            "<title>The folders of turbomim, floor by floor</title>",
            "<!-- drawn from the imports: python -m tests.floors docs/images/architecture.svg -->",
            "<style>",
            *(STYLE, *light, "@media (prefers-color-scheme: dark) {", DARK, *dark, "}"),
            "</style>",
            f'<rect class="page" width="{WIDTH}" height="{bottom:g}" rx="12"/>',
            f'<path class="roof" d="M {EDGE} {eaves} L {middle:g} 12 L {WIDTH - EDGE} {eaves} Z"/>',
            f'<text class="title" x="{middle:g}" y="{eaves - 28}">Imports go down</text>',
            f'<text class="legend" x="{middle:g}" y="{eaves - 10}">'
            "→ what a folder imports, without what the named folders import themselves</text>",
            *drawn,
            "</svg>\n",
        ]
    )


def draw(imports: Graph, floors: Floors = FLOORS) -> str:
    """The floors as an SVG: a row a floor, a box a folder with its words and the nearest that it imports.

    A folder that imports none reaches down to the ground; it must stand first in its row.
    """
    near = nearest(downward(imports, floors), floors)
    drawn: list[str] = []
    left, y = float(EDGE), float(ROOF + EDGE)
    deep: list[tuple[str, str, float, float, float]] = []
    for row in floors:
        width = (WIDTH - EDGE - left - (len(row) - 1) * GAP) / len(row)
        text = {folder: _lines(folder, words, near[folder], width) for folder, words in row.items()}
        # one that reaches the ground has height enough
        tall = [folder for folder in row if not near[folder] and row is not floors[-1]]
        height = 14 + max(sum(LINES[kind][0] for kind, _ in text[f]) for f in row if f not in tall)
        x = left
        for folder in row:
            if folder in tall:
                deep.append((folder, row[folder], x, y, width))
            else:
                drawn += _room(folder, text[folder], (x, y, width, height))
            x += width + GAP
        left += len(tall) * (width + GAP)
        y += height + GAP
    for folder, words, x, top, width in deep:
        drawn += _room(folder, _lines(folder, words, [], width), (x, top, width, y - GAP - top))
    return _page(drawn, y - GAP + EDGE)


if __name__ == "__main__":
    (target,) = sys.argv[1:]
    Path(target).write_text(draw(graph(read(ROOT, *STAGES))), encoding="utf-8")
