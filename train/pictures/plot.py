"""Lines and axes by matplotlib, into PNG files: what every figure of turbomim is drawn with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.errors import UserError
from turbomim.train.pictures.lines import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of lines that stand for runs, crops and the like, told apart without red against green
COLOURS = ("#1f5fa8", "#d9660a", "#2c7a3f", "#8b3fa0", "#7a6a00", "#c2185b", "#4a4a4a", "#0093a8")
INK, SOFT = "#1c1c1c", "#6b6b6b"


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure, sides in inches.  Raises UserError if matplotlib is not installed."""
    try:
        # an own figure, not pyplot: no window system is asked for and nothing is kept
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError('curves need matplotlib, not installed: pip install "turbomim[plots]"') from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file that is whole or absent.  Raises UserError if that is not possible."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_durably(path, png.getvalue())


def plot_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines as they say they look; those without points are left out."""
    for line in lines:
        if not len(line.x_N):
            continue
        axes.plot(
            line.x_N,
            line.y_N,
            color=COLOURS[line.colour % len(COLOURS)],
            linestyle="--" if line.look == "dashed" else "-",
            linewidth={"faint": 0.7, "dashed": 1.3}.get(line.look, 1.6),
            alpha=0.35 if line.look == "faint" else 1.0,
            marker="o" if line.marks else "",
            markersize=4,
            label=legend_name(line.name) if line.name else None,
        )


def legend_name(name: str) -> str:
    """A name as matplotlib's legend takes it: a dollar begins a formula, an underscore hides the line."""
    return ("\u200b" * name.startswith("_") + name).replace("$", r"\$")


def label_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Name both axes; a light grid behind the data, no box around it."""
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
