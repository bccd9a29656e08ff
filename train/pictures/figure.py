"""Arrays and log records to PNG files: reconstructions in a grid, and the curves of a run.

N patches · P values of a patch (p·p·3, in row, column, channel order) · H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from turbomim.pipeline.system.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.floating[Any]]

_INK, _SOFT, _BLUE, _ORANGE, _GREEN = "#1c1c1c", "#6b6b6b", "#1f5fa8", "#d9660a", "#2c7a3f"
# pixels: picture side aimed at, gap between pictures, margin around the sheet
_SIDE, _GAP, _MARGIN = 224, 10, 28
_HEADER_SIZE, _TEXT_SIZE = 17, 13


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a grid: pictures (H, W, 3), uint8 or float 0..1, one a column; a caption under them."""

    pictures: tuple[NDArray[Any], ...]
    caption: str = ""


def unpatchify(patches_NP: FloatArray, patch: int) -> FloatArray:
    """Picture (H, W, 3) of a square grid of patches (N, patch·patch·3), dtype unchanged.

    Raises ValueError if N is not a square number or P is not patch·patch·3.
    """
    count, values = patches_NP.shape
    side = round(count**0.5)
    if side * side != count or values != patch * patch * 3:
        legal = f"(n·n, {patch * patch * 3}) for a square picture of {patch}-pixel patches"
        raise ValueError(f"patches {patches_NP.shape}: must be {legal}")
    grid: FloatArray = patches_NP.reshape(side, side, patch, patch, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(side * patch, side * patch, 3)


def denormalise(pred_NP: FloatArray, mean: FloatArray, var: FloatArray, *, eps: float = 1e-6) -> FloatArray:
    """Pixels of normalised predictions: pred · sqrt(var + eps) + mean.

    pred (N, P); mean and var (N, 1) of patches or (N, P) of windows, in the unit wanted.
    Use the variance (biased or not) and the eps that normalised the target.  True statistics show what the
    model never saw: say so beside the picture.
    """
    pixels_NP: FloatArray = pred_NP * np.sqrt(var + eps) + mean
    return pixels_NP


def reconstruction_png(rows: Sequence[Row], path: Path, *, headers: Sequence[str], caption: str = "") -> None:
    """Write rows of pictures under column headers, on white; `caption` below says how the pixels were made.

    Pictures have one size and are enlarged by the whole factor that brings them nearest to 224 pixels.
    Raises ValueError if a row has not one picture a header, or if pictures differ in size.
    """
    height, width = _check_rows(rows, headers)
    factor = max(1, round(_SIDE / max(height, width)))
    tile_h, tile_w = height * factor, width * factor
    sheet_w = 2 * _MARGIN + len(headers) * tile_w + (len(headers) - 1) * _GAP
    header_font, text_font = _font(_HEADER_SIZE), _font(_TEXT_SIZE)
    lines = wrap(caption, sheet_w - 2 * _MARGIN, text_font)

    line_h = _TEXT_SIZE + 6
    head_h = _HEADER_SIZE + 12
    row_h = [tile_h + (line_h + 4 if row.caption else 0) + _GAP for row in rows]
    foot_h = _GAP + line_h * len(lines) if lines else 0
    sheet = Image.new("RGB", (sheet_w, 2 * _MARGIN + head_h + sum(row_h) - _GAP + foot_h), "white")
    draw = ImageDraw.Draw(sheet)

    lefts = [_MARGIN + column * (tile_w + _GAP) for column in range(len(headers))]
    for left, header in zip(lefts, headers, strict=True):
        draw.text((left + tile_w / 2, _MARGIN), header, fill=_INK, font=header_font, anchor="mt")
    top = _MARGIN + head_h
    for row, used in zip(rows, row_h, strict=True):
        for left, picture in zip(lefts, row.pictures, strict=True):
            tile = Image.fromarray(to_uint8(picture))
            sheet.paste(tile.resize((tile_w, tile_h), Image.Resampling.NEAREST), (left, top))
        draw.text((_MARGIN, top + tile_h + 5), row.caption, fill=_SOFT, font=text_font, anchor="lt")
        top += used
    for number, line in enumerate(lines):
        draw.text((_MARGIN, top + number * line_h), line, fill=_SOFT, font=text_font, anchor="lt")
    sheet.save(path, "PNG", optimize=True)


def to_uint8(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 as it is; float 0..1 clipped, scaled, rounded.  Raises ValueError for other types and shapes."""
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture {picture.shape}: must be (H, W, 3)")
    if picture.dtype != np.uint8 and not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(f"picture of {picture.dtype}: must be uint8 or float 0..1")
    scaled = picture if picture.dtype == np.uint8 else np.rint(np.clip(picture, 0, 1) * 255)
    return scaled.astype(np.uint8)


def _check_rows(rows: Sequence[Row], headers: Sequence[str]) -> tuple[int, int]:
    """(H, W) that all pictures share."""
    if not rows:
        raise ValueError("no rows: a grid needs at least one")
    for number, row in enumerate(rows):
        if len(row.pictures) != len(headers):
            raise ValueError(f"row {number} has {len(row.pictures)} pictures, the headers are {len(headers)}")
    sizes = {(picture.shape[0], picture.shape[1]) for row in rows for picture in row.pictures}
    if len(sizes) != 1:
        raise ValueError(f"pictures of {sorted(sizes)} pixels: a grid needs one size")
    return sizes.pop()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of `text` no wider than `width` pixels, broken at blanks; a longer word keeps its line."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def loss_png(metrics: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw a run's log records: losses above, learning rate and images per second below, against the step.

    Records have step, loss, lr, img_per_s and sometimes heldout_loss; a missing or null value is left out.
    Raises UserError if no record has a loss, or if matplotlib is not installed.
    """
    figure = new_figure(8, 6)
    if not len(series(metrics, "loss")[0]):
        raise UserError(f"nothing to draw in {path}: none of {len(metrics)} log records has a loss")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    figure.suptitle(title, fontsize=13, color=_INK)
    _draw_losses(upper, metrics)
    _draw_rates(lower, metrics)
    lower.set_xlabel("optimizer step", color=_INK)
    figure.savefig(path)


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


def series(metrics: list[dict[str, Any]], name: str) -> tuple[FloatArray, FloatArray]:
    """(steps, values) of the records that have a finite value called `name`, as float64."""
    points = [(record["step"], record[name]) for record in metrics if record.get(name) is not None]
    steps, values = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def smooth(values: FloatArray, window: int) -> FloatArray:
    """Mean over a centred window that shrinks on both sides near an end, so that a slope does not drift."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    where = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(where, len(values) - 1 - where))
    means: FloatArray = (sums[where + half + 1] - sums[where - half]) / (2 * half + 1)
    return means


def _draw_losses(axes: Axes, metrics: list[dict[str, Any]]) -> None:
    steps, losses = series(metrics, "loss")
    smoothed = smooth(losses, max(3, len(losses) // 25))
    axes.plot(steps, losses, color=_BLUE, linewidth=0.7, alpha=0.35)
    axes.plot(steps, smoothed, color=_BLUE, linewidth=1.8, label="training (thin: each log record)")
    held_steps, held = series(metrics, "heldout_loss")
    if len(held):
        axes.plot(held_steps, held, color=_ORANGE, linewidth=1.2, marker="o", markersize=5, label="held-out")
        # the last point's number is what people look for
        axes.annotate(f"{held[-1]:.3f}", (held_steps[-1], held[-1]), xytext=(0, 8), ha="right", fontsize=9,
                      textcoords="offset points", color=_ORANGE)  # fmt: skip
    axes.axhline(1.0, color=_SOFT, linestyle="--", linewidth=1.1, label="predicting nothing (1.0)")
    seen = np.concatenate([losses, held])
    # the first few losses may be far above 1: they are cut off rather than flatten the rest
    low, high = float(seen.min()), max(1.0, float(np.quantile(seen, 0.98)))
    axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low) + 1e-3)
    axes.set_ylabel("masked-patch loss", color=_INK)
    axes.legend(loc="best", fontsize=9, frameon=False)
    plain(axes)


def _draw_rates(axes: Axes, metrics: list[dict[str, Any]]) -> None:
    axes.plot(*series(metrics, "lr"), color=_INK, linewidth=1.4)
    axes.set_ylabel("learning rate", color=_INK)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    plain(axes)
    right = axes.twinx()
    right.plot(*series(metrics, "img_per_s"), color=_GREEN, linewidth=1.2)
    right.set_ylabel("images per second", color=_GREEN)
    right.set_ylim(bottom=0)
    right.tick_params(axis="y", colors=_GREEN)
    right.spines[["top", "left"]].set_visible(False)


def plain(axes: Axes) -> None:
    """A light grid behind the data, no box around it."""
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
