"""`turbomim analyze avgdist`: how far masked pixels are from visible ones, in masks as training draws.

SimMIM's AvgDist: the mean over masked pixels of the Euclidean distance, in pixels between pixel centres, to
the nearest visible pixel.  A ratio and a mask unit decide how hard the task is; this puts both on one scale.
Source: arXiv:2111.09886 sec. 4.1.2.

Suffixes: B masks, G units a side, S pixels a side, R visible units' rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from turbomim.kernels.masking import block_masking, random_masking
from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.analyze.options import AvgDist, Mask, check_unit, kept_units
from turbomim.train.analyze.result import TextTable, prepare_folder, settings_of, write_analysis
from turbomim.train.pictures.plot import INK, Line, label_axes, new_figure, plot_lines
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.flags import check_least, parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# pixels; those are drawn that divide the image
UNITS = (8, 16, 32, 64)
# masks measured at once
CHUNK = 16


def analyze_avgdist_command(argv: list[str]) -> None:
    """`turbomim analyze avgdist`.  Raises UserError."""
    options = parse(AvgDist, argv, "turbomim analyze avgdist")
    check_least(size=(options.size, 2), samples=(options.samples, 1))
    check_seed("--seed", options.seed)
    mask, size = options.mask, options.size
    marked: tuple[int, float] | None = None
    if options.recipe:
        config = recipe(options.recipe)
        mask, size = config.model.mask, config.data.size
        marked = (config.model.patch * config.model.mask_unit, config.model.mask_ratio)
    units = read_numbers("--units", options.units, int) or [
        unit for unit in UNITS if size % unit == 0 and 2 * unit <= size
    ]
    units = sorted({*units, *([marked[0]] if marked else [])})
    ratios = sorted({*read_numbers("--ratios", options.ratios, float), *([marked[1]] if marked else [])})
    check_grid(size, units, ratios)
    out = prepare_folder(options.out, "avgdist")
    results = [
        measure_distance(mask, size, unit, ratio, options.samples, options.seed)
        for unit in units
        for ratio in ratios
        # a mask that leaves nothing visible, or removes nothing, has no distance
        if 0 < kept_units(size, unit, ratio) < (size // unit) ** 2
    ]
    if not results:
        raise UsageError(f"--ratios {options.ratios}: none of them removes some and keeps some of the units")
    by_unit = {unit: {r["ratio"]: r["avgdist"] for r in results if r["unit"] == unit} for unit in units}
    table = TextTable(
        title=f"AvgDist in pixels, {mask} masks of {size} x {size} pixels, {options.samples} each",
        columns=["unit", *(f"{ratio:g}" for ratio in ratios)],
        rows=[
            [f"{unit} px", *(f"{row[ratio]:.1f}" if ratio in row else "" for ratio in ratios)]
            for unit, row in by_unit.items()
        ],
    )
    title = f"{mask} masks, {size} x {size} pixels"
    write_analysis(
        out,
        "avgdist",
        settings=settings_of(options, mask=mask, size=size, units=units, ratios=ratios),
        results=results,
        table=table,
        draw=lambda: draw_distances(by_unit, marked, title, options.recipe),
    )


def read_numbers(flag: str, text: str, kind: type[int] | type[float]) -> list[Any]:
    """Numbers of a text like 16,32; none of an empty one.  Raises UsageError."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"{flag} {text}: must be numbers with commas between, like 16,32") from None


def check_grid(size: int, units: list[int], ratios: list[float]) -> None:
    """Raise UsageError if units do not tile the image, or ratios are none."""
    for unit in units:
        check_unit("--units", unit, size, "image")
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise UsageError(f"--ratios {ratio:g}: must be between 0 and 1")


def measure_distance(
    mask: Mask, size: int, unit: int, ratio: float, samples: int, seed: int
) -> dict[str, Any]:
    """AvgDist of one kind of mask, mean and deviation over samples, pixels."""
    grid, keep = size // unit, kept_units(size, unit, ratio)
    ids_B = torch.arange(samples)
    epochs_B = torch.zeros_like(ids_B)
    if mask == "block":
        ids_keep_BK, _ = block_masking(seed, epochs_B, ids_B, grid, keep)
    else:
        ids_keep_BK, _ = random_masking(seed, epochs_B, ids_B, grid * grid, keep)
    visible_BN = torch.zeros(samples, grid * grid, dtype=torch.bool)
    visible_BN.scatter_(1, ids_keep_BK, True)
    distances_B = torch.cat(
        [average_distance(part.reshape(-1, grid, grid), unit) for part in torch.split(visible_BN, CHUNK)]
    )
    return {
        "unit": unit,
        "ratio": ratio,
        "masked_share": 1 - keep / grid**2,
        "avgdist": distances_B.mean().item(),
        "deviation": distances_B.std(correction=0).item(),
    }


def average_distance(visible_BGG: Tensor, unit: int) -> Tensor:
    """Mean over masked pixels of the distance to the nearest visible one, (B,) float64, pixels.

    visible (B, G, G) bool, units of unit x unit pixels; some are visible and some are not in each mask.
    Exact: the nearest pixel of a visible unit is found along columns first, then along rows.
    """
    grid = visible_BGG.shape[-1]
    pixel_S = torch.arange(grid * unit)[:, None]
    first_G = torch.arange(grid) * unit
    # from a pixel's line to the nearest line of a row, or column, of units; 0 inside
    beside_SG = (first_G - pixel_S).clamp(min=0) + (pixel_S - (first_G + unit - 1)).clamp(min=0)
    squared_SG = beside_SG.square().float()
    # across: squared distance from each column of pixels to visible units of each row (B, R, S)
    across_BRSG = squared_SG.expand(*visible_BGG.shape[:2], -1, -1)
    far = torch.tensor(torch.inf)
    across_BRS = torch.where(visible_BGG[:, :, None, :], across_BRSG, far).amin(-1)
    # then down, from each row of pixels, the nearest of all rows of units
    nearest_BSS = torch.stack([(across_BRS + down_R[:, None]).amin(1) for down_R in squared_SG], dim=1)
    hidden_BSS = ~visible_BGG.repeat_interleave(unit, 1).repeat_interleave(unit, 2)
    return nearest_BSS.sqrt().double().mul(hidden_BSS).sum((1, 2)) / hidden_BSS.sum((1, 2))


def draw_distances(
    by_unit: dict[int, dict[float, float]], marked: tuple[int, float] | None, title: str, name: str
) -> Figure:
    """One curve a unit; the recipe's point is a ring."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    plot_lines(
        axes,
        [
            Line(
                name=f"unit of {unit} pixels",
                x_N=np.array(list(row)),
                y_N=np.array(list(row.values())),
                colour=number,
                marks=True,
            )
            for number, (unit, row) in enumerate(sorted(by_unit.items(), reverse=True))
        ],
    )
    if marked and marked[1] in by_unit[marked[0]]:
        at = by_unit[marked[0]][marked[1]]
        axes.plot(marked[1], at, "o", markersize=12, markerfacecolor="none", markeredgecolor=INK)
        axes.annotate(f"{name}: {at:.1f}", (marked[1], at), xytext=(-10, 8), textcoords="offset points",
                      ha="right", fontsize=9, color=INK)  # fmt: skip
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9, frameon=False)
    label_axes(axes, "mask ratio", "AvgDist, pixels")
    return figure
