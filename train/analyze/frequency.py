"""`turbomim analyze frequency`: which spatial frequencies an encoder's features are made of, block by block.

The tokens of a block's output, laid out as in the image, are Fourier-transformed, channel by channel; the log
of the amplitude (natural) along the diagonal of frequencies, averaged over images and channels, is given
minus its value at zero frequency.  The lower, the smoother the features.
Source: Park and Kim, arXiv:2202.06709 sec. 2; there the last frequency is one below Nyquist and called 1.

Suffixes: B batch, T tokens, N patches, D channels, H W the map's sides, F frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn

from turbomim.pipeline.centre_crops import centre_crops
from turbomim.pipeline.errors import UsageError
from turbomim.pipeline.shards import open_split
from turbomim.train.analyze.result import (
    COLOURS,
    INK,
    check_least,
    labels_of,
    prepare,
    print_table,
    save,
    settings_of,
)
from turbomim.train.distributed import choose_device
from turbomim.train.eval_command import choose_ids
from turbomim.train.features import load_run
from turbomim.train.machine import cores
from turbomim.train.models.mae import MAE
from turbomim.train.options import parse
from turbomim.train.pictures import new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# added to amplitudes: a map without waves has a logarithm too
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Frequency:
    """Draw the relative log amplitudes of the features after each block, of one run or of several."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, runs/NAME; of each the newest whole checkpoint."""
    data: Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
    """Split whose images are encoded, whole and unmasked."""
    images: int = 256
    """Images, drawn once and for all, the same ones for all runs."""
    batch: int = 32
    """Images encoded at once: decides speed and memory alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where images are encoded."""
    out: Path | None = None
    """Folder for frequency.json and frequency.png; analysis/ in the first run's if not given."""


def command(argv: list[str]) -> None:
    """`turbomim analyze frequency RUN [RUN …] --data SHARDS`.  Raises UserError."""
    options = parse(Frequency, argv, "turbomim analyze frequency")
    if not options.runs:
        raise UsageError("give at least one run folder, runs/NAME")
    check_least(images=(options.images, 1), batch=(options.batch, 1))
    split, device = open_split(options.data), choose_device(options.device, 0)
    ids_N = choose_ids(split, options.images)
    out = prepare(options.out or options.runs[0] / "analysis")
    results: dict[str, Any] = {}
    for run in options.runs:
        config, model, step = load_run(run)
        crops = centre_crops(
            split,
            ids_N,
            size=config.data.size,
            interpolation=config.data.interpolation,
            batch=options.batch,
            threads=cores(),
            labelled=False,
        )
        curves = amplitudes_of_blocks(model.to(device), (images for images, _ in crops))
        results[str(run)] = {
            "method": config.model.method,
            "target": config.model.target,
            "step": step,
            "blocks": [
                {"frequency": frequencies(grid).tolist(), "relative_log_amplitude": curve_F.tolist()}
                for grid, curve_F in curves
            ],
        }
    labels = labels_of(options.runs)
    print_table(
        f"{len(ids_N)} images of {options.data}: relative log amplitude at the highest frequency",
        ["run", "first block", "middle block", "last block"],
        [
            [label, *(f"{highest(run)[place]:.2f}" for place in (0, len(run["blocks"]) // 2, -1))]
            for label, run in zip(labels, results.values(), strict=True)
        ],
    )
    save(
        out,
        "frequency",
        run=", ".join(str(run) for run in options.runs),
        settings=settings_of(options, images=len(ids_N), fingerprint=split.manifest.fingerprint),
        results=results,
        figure=draw(labels, list(results.values())),
    )


def frequencies(side: int) -> NDArray[np.float64]:
    """The diagonal's frequencies (F,) of a map of side x side, in units of Nyquist's, pi a token."""
    return np.arange(side // 2 + 1) / (side / 2)


def feature_map(output: Tensor, prefix: int) -> Tensor:
    """A block's output as maps (B, D, H, W), as tokens lie in the image.

    output: tokens (B, prefix + N, D), of which the first `prefix` are no patches; Swin's (B, H, W, D); or
    ConvMAE's cells (B, N, S, S, D) of patches.
    """
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2)
    if output.ndim == 3:
        # a token is a patch of one cell
        output = output[:, prefix:, None, None]
    batch, patches, side, _, width = output.shape
    grid = math.isqrt(patches)
    cells = output.reshape(batch, grid, grid, side, side, width)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, width, grid * side, grid * side)


def log_amplitudes(maps_BDHW: Tensor) -> Tensor:
    """Mean over images and channels of the log amplitude at the diagonal's frequencies, (F,) float64."""
    waves_BDH = torch.fft.fft2(maps_BDHW.float()).diagonal(dim1=-2, dim2=-1)
    waves_BDF = waves_BDH[..., : maps_BDHW.shape[-1] // 2 + 1]
    mean_F: Tensor = (waves_BDF.abs() + EPSILON).log().mean((0, 1), dtype=torch.float64)
    return mean_F


@torch.no_grad()
def amplitudes_of_blocks(model: MAE, batches: Iterable[NDArray[np.uint8]]) -> list[tuple[int, Tensor]]:
    """For each block of the encoder, in order: its map's side, and the relative log amplitudes (F,) float64.

    batches: images (B, S, S, 3) uint8, whole; nothing is masked.
    """
    sums: dict[nn.Module, Tensor] = {}
    sides: dict[nn.Module, int] = {}

    def add(block: nn.Module, _inputs: object, output: Tensor) -> None:
        maps_BDHW = feature_map(output, model.prefix)
        sides[block] = maps_BDHW.shape[-1]
        sums[block] = sums.get(block, 0) + len(maps_BDHW) * log_amplitudes(maps_BDHW).cpu()

    device, count = next(model.parameters()).device, 0
    model.eval()
    # blocks of a decoder are never run here, and so are not counted
    handles = [block.register_forward_hook(add) for block in model.blocks_to_split()]
    try:
        for images in batches:
            model.features(torch.from_numpy(images).to(device))
            count += len(images)
    finally:
        for handle in handles:
            handle.remove()
    return [(sides[block], (sum_F - sum_F[0]) / count) for block, sum_F in sums.items()]


def highest(run: dict[str, Any]) -> list[float]:
    """Relative log amplitude at the highest frequency after each block."""
    return [block["relative_log_amplitude"][-1] for block in run["blocks"]]


def draw(labels: list[str], runs: list[dict[str, Any]]) -> Figure:
    """A panel a run with a line a block, and one of the highest frequency over depth for all runs."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(3.0 * len(runs) + 3.6, 3.5)
    *panels, last = figure.subplots(1, len(runs) + 1)
    # the map's yellow end is too light on white
    shades = colormaps["viridis"].resampled(256)
    for panel, label, run in zip(panels, labels, runs, strict=True):
        blocks = run["blocks"]
        for number, block in enumerate(blocks):
            shade = shades(0.9 * number / max(1, len(blocks) - 1))
            panel.plot(block["frequency"], block["relative_log_amplitude"], color=shade, linewidth=1.5)
        panel.set_title(label, fontsize=10, color=INK)
        panel.set_xlabel("frequency / Nyquist", color=INK)
        panel.sharey(panels[0])
        panel.tick_params(labelleft=panel is panels[0])
        plain(panel)
    panels[0].set_ylabel("relative log amplitude", color=INK)
    bar = figure.colorbar(ScalarMappable(cmap=shades), ax=panels[-1], ticks=[0, 0.9], shrink=0.8, pad=0.02)
    bar.ax.set_ylim(0, 0.9)
    bar.ax.set_yticklabels(["first\nblock", "last"], fontsize=8)
    bar.outline.set_visible(False)
    for number, (label, run) in enumerate(zip(labels, runs, strict=True)):
        depth = np.arange(1, len(run["blocks"]) + 1)
        colour = COLOURS[number % len(COLOURS)]
        last.plot(depth, highest(run), color=colour, marker="o", markersize=3.5, linewidth=1.5, label=label)
    last.set_title("at the highest frequency", fontsize=10, color=INK)
    last.set_xlabel("block", color=INK)
    last.xaxis.set_major_locator(MaxNLocator(integer=True))
    last.legend(fontsize=8, frameon=False)
    plain(last)
    return figure
