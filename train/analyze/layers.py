"""`turbomim analyze layers`: how much of each block MFF's fusion took, while the model learned.

Source: arXiv:2308.00261.  Suffixes: S log records, L fused blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from turbomim.pipeline.system.errors import UserError
from turbomim.train.analyze.options import Layers, need_run
from turbomim.train.analyze.result import TextTable, prepare_folder, settings_of, write_analysis
from turbomim.train.folder import rundir
from turbomim.train.folder.log import Record, read_metrics
from turbomim.train.pictures.pixels import FloatArray
from turbomim.train.pictures.plot import COLOURS, SOFT, Line, label_axes, new_figure, plot_lines, series
from turbomim.train.settings.flags import parse
from turbomim.train.trackers.scalars import OF_MODEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def analyze_layers_command(argv: list[str]) -> None:
    """`turbomim analyze layers RUN`.  Raises UserError."""
    options = parse(Layers, argv, "turbomim analyze layers")
    need_run(options.run, "the shares are in a run's log")
    model = rundir.read_config(options.run).model
    if model.method != "mff":
        raise UserError(
            f"{options.run} is a run of method {model.method}, which fuses no blocks: give a run of method "
            "mff, of a recipe like mff-vit-b16-300e for example"
        )
    steps_S, shares_SL = fusion_shares(read_metrics(options.run / "metrics.jsonl"), len(model.levels))
    if not len(steps_S):
        raise UserError(
            f"{options.run}/metrics.jsonl has no shares of {len(model.levels)} blocks: let the run reach its "
            "first log line (run.log_every steps); imported or older runs have none before"
        )
    out = prepare_folder(options.out or options.run / "analysis", "layers")
    blocks = [str(block) for block in model.levels]
    table = TextTable(
        title=f"{options.run}: share of each block in the fusion, %",
        columns=["step", *(f"block {block}" for block in blocks)],
        rows=[
            [f"{steps_S[row]:.0f}", *(f"{100 * share:.1f}" for share in shares_SL[row])]
            for row in sorted({0, len(steps_S) // 2, len(steps_S) - 1})
        ],
    )
    results = {
        "blocks": model.levels,
        "steps": steps_S.astype(int).tolist(),
        "shares": dict(zip(blocks, shares_SL.T.tolist(), strict=True)),
    }
    write_analysis(
        out,
        "layers",
        runs=[options.run],
        settings=settings_of(options),
        results=results,
        table=table,
        draw=lambda: draw_fusion_shares(steps_S, shares_SL, model.levels),
    )


def fusion_shares(records: list[Record], levels: int) -> tuple[FloatArray, FloatArray]:
    """Steps (S,) and shares (S, L) of the log records that have all of them."""
    names = [f"{OF_MODEL}fuse_{level}" for level in range(levels)]
    whole = [record for record in records if all(record.get(name) is not None for name in names)]
    found = [series(whole, name) for name in names]
    return found[0][0], np.stack([values for _, values in found], axis=1)


def draw_fusion_shares(steps_S: FloatArray, shares_SL: FloatArray, blocks: list[int]) -> Figure:
    """One line a block, its number at the line's end."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.axhline(1 / len(blocks), color=SOFT, linestyle="--", linewidth=1, label="equal shares")
    few = len(steps_S) < 30
    plot_lines(
        axes,
        [
            Line(name="", x_N=steps_S, y_N=shares_S, colour=number, marks=few)
            for number, shares_S in enumerate(shares_SL.T)
        ],
    )
    _label_ends(figure, steps_S[-1], shares_SL[-1], blocks)
    axes.set_xlim(0, steps_S[-1] * 1.13)
    axes.legend(fontsize=8, frameon=False)
    label_axes(axes, "optimizer step", "share in the fusion")
    return figure


def _label_ends(figure: Figure, step: float, ends_L: FloatArray, blocks: list[int]) -> None:
    """Write each block's number beside its last share, a line of text apart from the next."""
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    apart, at = 0.045 * (high - low), -np.inf
    for number in np.argsort(ends_L):
        at = max(at + apart, float(ends_L[number]))
        colour = COLOURS[number % len(COLOURS)]
        axes.annotate(f"block {blocks[number]}", (step, at), xytext=(6, 0), va="center", fontsize=9,
                      textcoords="offset points", color=colour)  # fmt: skip
