"""The comparison as people read it: a table and a plot.  Pure functions of the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

TITLES: Final = {
    "original": "Original bytes: decode, resize the short side, reflect, random window, flip",
    "resized": "Resized before (JPEG): decode, random window, flip. Another workload: less to do",
    "raw": "Resized before (raw pixels): random window, flip. Another workload: less to do",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One loader on one store in one round; cpu_s_per_1000: user and system seconds for 1,000 images."""

    images_per_s: float
    cpu_s_per_1000: float
    memory_mb: float
    images: float
    seconds: float


@dataclass(kw_only=True, slots=True)
class Row:
    """What is known of one loader on one store: `rounds` grows; failure: why it is not in the rounds.

    deviation: mean, of 255, from the float definition.  conversion_s: to make the set that it reads.
    """

    name: str
    store: str
    note: str = ""
    conversion_s: float = 0.0
    deviation: float = 0.0
    failure: str = ""
    rounds: dict[int, Measurement] = field(default_factory=dict)

    def of(self, quantity: str) -> list[float]:
        """A quantity in every round."""
        return [getattr(measurement, quantity) for measurement in self.rounds.values()]


def ratio(row: Row, reference: Row) -> float | None:
    """Median of the ratios of images a second, round by round; None without a common round."""
    common = sorted(row.rounds.keys() & reference.rounds.keys())
    if not common:
        return None
    return median(row.rounds[r].images_per_s / reference.rounds[r].images_per_s for r in common)


def table(rows: Sequence[Row], reference: Row, cores: int) -> str:
    """Markdown: one table a store, the fastest first, then what failed and what differs."""
    blocks = []
    for store in dict.fromkeys(row.store for row in rows):
        here = [row for row in rows if row.store == store]
        measured = sorted((r for r in here if r.rounds), key=lambda r: -median(r.of("images_per_s")))
        lines = [
            f"**{TITLES[store]}**",
            "",
            f"| loader | img/s (range) | × {reference.name} | img/s a core | CPU s per 1,000 | memory, MB |"
            " conversion, s | deviation |",
            "|---|---|---|---|---|---|---|---|",
            *(_line(row, reference, cores) for row in measured),
        ]
        remarks = [f"- {row.name}: {row.note}" for row in measured if row.note]
        remarks += [f"- {row.name}: {row.failure}" for row in here if row.failure]
        blocks.append("\n".join([*lines, "", *remarks]) if remarks else "\n".join(lines))
    return "\n\n".join(blocks)


def _line(row: Row, reference: Row, cores: int) -> str:
    speeds = row.of("images_per_s")
    times = ratio(row, reference)
    cells = [
        row.name,
        f"{median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})",
        "" if times is None else f"{times:.2f}",
        f"{median(speeds) / cores:,.0f}",
        f"{median(row.of('cpu_s_per_1000')):.2f}",
        f"{median(row.of('memory_mb')):,.0f}",
        f"{row.conversion_s:,.1f}" if row.conversion_s else "none",
        f"{row.deviation:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def plot(rows: Sequence[Row], path: Path, cores: int) -> None:
    """Bars of the medians with the range of the rounds, one panel a store.  Needs matplotlib."""
    from matplotlib.figure import Figure

    stores = list(dict.fromkeys(row.store for row in rows if row.rounds))
    here = [[row for row in rows if row.store == store and row.rounds] for store in stores]
    figure = Figure(figsize=(8, 1.2 + 0.35 * sum(map(len, here)) + 0.6 * len(stores)), layout="constrained")
    panels = figure.subplots(len(stores), 1, squeeze=False, height_ratios=[len(some) + 0.5 for some in here])
    for panel, store, some in zip(panels[:, 0], stores, here, strict=True):
        some = sorted(some, key=lambda row: median(row.of("images_per_s")))
        speeds = [row.of("images_per_s") for row in some]
        middles = [median(speed) for speed in speeds]
        below = [middle - min(speed) for middle, speed in zip(middles, speeds, strict=True)]
        above = [max(speed) - middle for middle, speed in zip(middles, speeds, strict=True)]
        colours = ["#d1495b" if row.name.startswith("turbomim") else "#8fa3ad" for row in some]
        names = [row.name for row in some]
        bars = panel.barh(names, middles, xerr=[below, above], color=colours, ecolor="#333333", capsize=2)
        panel.bar_label(bars, labels=[f"{middle:,.0f}" for middle in middles], padding=4, fontsize=8)
        panel.margins(x=0.12)
        panel.set_title(TITLES[store], fontsize=9, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel(f"images a second on {cores} CPU cores: median and range of the rounds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
