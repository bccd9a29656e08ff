"""Line charts: log records to lines of numbers, and lines by matplotlib into PNG files.

Suffix: N points of a line.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.errors import UserError
from turbomim.train.pictures.pixels import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of lines that stand for runs, crops and the like, told apart without red against green
COLOURS = ("#1f5fa8", "#d9660a", "#2c7a3f", "#8b3fa0", "#7a6a00", "#c2185b", "#4a4a4a", "#0093a8")
INK, SOFT = "#1c1c1c", "#6b6b6b"
# colours of a run's curves
TRAINING, HELD_OUT, RATE = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Line:
    """A curve. x_N, y_N: float64; look: "", "faint" or "dashed"; marks: a dot at each point.

    colour: a place in the drawer's palette.  A line without a name is not in the legend.
    """

    name: str
    x_N: FloatArray
    y_N: FloatArray
    colour: int
    look: str = ""
    marks: bool = False


def series(records: Sequence[Mapping[str, Any]], name: str, x: str = "step") -> tuple[FloatArray, FloatArray]:
    """(x, values) of the records that have both, and of those the finite values called `name`, as float64."""
    pairs = [(r[x], r[name]) for r in records if r.get(name) is not None and r.get(x) is not None]
    x_N, y_N = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    finite_N = np.isfinite(y_N)
    return x_N[finite_N], y_N[finite_N]


def smooth(values: FloatArray, window: int) -> FloatArray:
    """Mean over a centred window that shrinks on both sides near an end, so that a slope does not drift."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    where = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(where, len(values) - 1 - where))
    means: FloatArray = (sums[where + half + 1] - sums[where - half]) / (2 * half + 1)
    return means


def loss_lines(
    records: Sequence[Mapping[str, Any]], x: str, names: tuple[str, str], colours: tuple[int, int]
) -> tuple[Line, Line, Line]:
    """Of one run the loss of each log record, the same smoothed, and the held-out loss, over `x`.

    names, colours: of the training and of the held-out loss.  A loss that was never logged has no points.
    """
    x_N, y_N = series(records, "loss", x)
    logged = Line(name="", x_N=x_N, y_N=y_N, colour=colours[0], look="faint")
    smooth_N = smooth(y_N, max(3, len(y_N) // 25))
    smoothed = Line(name=names[0], x_N=x_N, y_N=smooth_N, colour=colours[0])
    x_N, y_N = series(records, "heldout_loss", x)
    heldout = Line(name=names[1], x_N=x_N, y_N=y_N, colour=colours[1], look="dashed", marks=True)
    return logged, smoothed, heldout


def value_range(lines: Sequence[Line], *, cut: bool, level: float | None) -> tuple[float, float]:
    """The lowest and the highest value to show, `level` among them.

    cut: the highest 2 % of a line's values may lie above, as the first few losses would flatten the rest; of
    a line with marks, whose points are few, none may.
    """
    shown = [line for line in lines if len(line.y_N)]
    if cut:
        # a smoothed line lies within the faint one beside it, and would spread its first losses
        shown = [line for line in shown if line.look == "faint" or line.marks] or shown
    levels = [] if level is None else [level]
    tops = [float(np.quantile(line.y_N, 0.98 if cut and not line.marks else 1)) for line in shown]
    return min([*(float(line.y_N.min()) for line in shown), *levels]), max([*tops, *levels])


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


def draw_run_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw a run's log records: losses above, learning rate and images per second below, against the step.

    Records have step, loss, lr, img_per_s and sometimes heldout_loss; a missing or null value is left out.
    Raises UserError if no record has a loss, or if matplotlib is not installed.
    """
    figure = new_figure(8, 6)
    names = "training (thin: each log record)", "held-out"
    logged, smoothed, heldout = loss_lines(records, "step", names, (TRAINING, HELD_OUT))
    if not len(logged.x_N):
        raise UserError(f"nothing to draw in {path}: none of {len(records)} log records has a loss")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    figure.suptitle(title, fontsize=13, color=INK)
    draw_losses(upper, [logged, smoothed, replace(heldout, look="")], "", level=1.0)
    if len(heldout.x_N):
        # the last point's number is what people look for
        last = heldout.x_N[-1], heldout.y_N[-1]
        upper.annotate(f"{last[1]:.3f}", last, xytext=(0, 8), ha="right", fontsize=9,
                       textcoords="offset points", color=COLOURS[HELD_OUT])  # fmt: skip
    _draw_rates(lower, records)
    write_figure(figure, path)


def draw_losses(axes: Axes, lines: Sequence[Line], x_label: str, *, level: float | None = None) -> None:
    """Draw lines of losses, of which one at least has points, with a legend.

    level: the loss of predicting nothing, drawn dashed.
    """
    plot_lines(axes, lines)
    if level is not None:
        label = f"predicting nothing ({level:.1f})"
        axes.axhline(level, color=SOFT, linestyle="--", linewidth=1.1, label=label)
    low, high = value_range(lines, cut=True, level=level)
    axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low) + 1e-3)
    axes.legend(loc="best", fontsize=9, frameon=False)
    label_axes(axes, x_label, "masked-patch loss")


def _draw_rates(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """Learning rate on the left, images per second on the right."""
    axes.plot(*series(records, "lr"), color=INK, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    label_axes(axes, "optimizer step", "learning rate")
    right = axes.twinx()
    right.plot(*series(records, "img_per_s"), color=COLOURS[RATE], linewidth=1.2)
    right.set_ylabel("images per second", color=COLOURS[RATE])
    right.set_ylim(bottom=0)
    right.tick_params(axis="y", colors=COLOURS[RATE])
    right.spines[["top", "left"]].set_visible(False)
