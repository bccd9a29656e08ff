"""The curves of training: losses of one run or of several, learning rate and images per second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbomim.pipeline.system.errors import UserError
from turbomim.train.pictures.lines import Line, loss_lines, series, value_range
from turbomim.train.pictures.plot import COLOURS, INK, SOFT, label_axes, new_figure, plot_lines, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING, HELD_OUT, RATE = 0, 1, 2


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
