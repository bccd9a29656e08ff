"""The comparison as a picture: bytes that come from a bucket, and seconds that they cost.

`python -m turbomim.benchmarks.stores.figure store.jsonl storage.png`
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from turbomim.benchmarks.stores.bench import ENTRANTS
from turbomim.benchmarks.stores.table import EPOCHS, EXACT
from turbomim.benchmarks.tables import read
from turbomim.train.pictures.plot import COLOURS, INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# inches
WIDTH, HEIGHT_OF_ROW = 9.0, 0.36


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Bars of the second epoch, a row a reader; medians of the rounds."""
    from matplotlib.figure import Figure

    timed = [row for row in rows if row.get("what") == EPOCHS]
    timed_names = {row["name"] for row in timed}
    # the first is drawn at the bottom
    names = [entrant.name for entrant in reversed(ENTRANTS) if entrant.name in timed_names]
    exact = {row["name"]: row for row in rows if row.get("what") == EXACT}
    wanted = float(median(row["wanted_bytes"] / row["images"] for row in exact.values()))

    def middle(name: str, key: str) -> float:
        return median(float(row["epochs"][1][key]) for row in timed if row["name"] == name)

    def fetched(name: str) -> float:
        if name in exact:
            return float(exact[name]["sent_bytes"] / exact[name]["wanted_bytes"])
        return middle(name, "sent_bytes") / middle(name, "images") / wanted

    figure = Figure(figsize=(WIDTH, 1.3 + HEIGHT_OF_ROW * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(names, [fetched(name) for name in names], color=COLOURS[0], height=0.6)
    left.set_title("bytes fetched, of the bytes wanted", loc="left", fontsize=10, color=INK)
    reader, server = ([middle(name, key) for name in names] for key in ("cpu_s", "server_cpu_s"))
    right.barh(names, reader, color=COLOURS[0], height=0.6, label="reader")
    right.barh(names, server, left=reader, color=COLOURS[1], height=0.6, label="server")
    right.set_title("CPU seconds a thousand images", loc="left", fontsize=10, color=INK)
    right.legend(frameon=False, fontsize=9, loc="lower right")
    for axes, values in (
        (left, [fetched(name) for name in names]),
        (right, [*map(sum, zip(reader, server, strict=True))]),
    ):
        _finish(axes, values)
    figure.savefig(out, dpi=110)


def _finish(axes: Axes, values: list[float]) -> None:
    """Write each bar's value behind it."""
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.2f}", va="center", fontsize=9, color=INK)
    axes.set_xlim(0, 1.18 * max(values))
    axes.tick_params(labelsize=9, colors=SOFT, left=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def main(argv: list[str]) -> None:
    """Draw the rows of a result file into a PNG."""
    rows, out = argv
    draw(read(Path(rows)), Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
