"""`turbomim analyze frequency`: which spatial frequencies an encoder's features are made of, block by block.

The tokens of a block's output, laid out as in the image, are Fourier-transformed, channel by channel; the log
of the amplitude (natural), averaged over images and channels, is given minus its value at zero frequency.
The lower, the smoother the features.  Park and Kim read it along the diagonal of frequencies, and so does the
picture; the radial curve, the mean over waves of all directions, is in the JSON file too.
Source: Park and Kim, arXiv:2202.06709, figures 2a and 8, and the half-diagonal of their fourier_analysis
notebook; there the last frequency is one below Nyquist and called 1, and attention and MLP are apart.

Suffixes: B batch, T tokens, N patches, D channels, H W the map's sides, F frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops, note_left_out
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split
from turbomim.train.analyze.options import Frequency
from turbomim.train.analyze.result import TextTable, labels_of, prepare_folder, settings_of, write_analysis
from turbomim.train.encoder.features import NONE_LEFT
from turbomim.train.encoder.source import load_source
from turbomim.train.evaluate.splits import choose_ids
from turbomim.train.machine.processor import cores
from turbomim.train.models.classifier import Encoder
from turbomim.train.pictures.plot import INK, Line, label_axes, new_figure, plot_lines
from turbomim.train.settings.flags import check_least, parse_with_settings
from turbomim.train.terminal.progress import image_bar
from turbomim.train.world.distributed import choose_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# added to amplitudes: a map without waves has a logarithm too
EPSILON = 1e-6


def analyze_frequency_command(argv: list[str]) -> None:
    """`turbomim analyze frequency RUN|FILE [RUN|FILE …] --data SHARDS`.  Raises UserError."""
    options, settings = parse_with_settings(Frequency, argv, "turbomim analyze frequency")
    folder = options.folder
    check_least(images=(options.images, 1), batch=(options.batch, 1))
    split, device = open_split(options.data), choose_device(options.device, 0)
    ids_N = choose_ids(split, options.images)
    out = prepare_folder(folder, "frequency")
    results: dict[str, Any] = {}
    left_out: set[int] = set()
    for run in options.runs:
        source = load_source(run, settings)
        data, model = source.config.data, source.config.model
        crops = centre_crops(
            split,
            ids_N,
            CentreCrop(size=data.size, interpolation=data.interpolation),
            batch=options.batch,
            threads=cores(),
            labelled=False,
            left_out=partial(note_left_out, left_out),
        )
        with image_bar(Console(), lines=False) as bar:
            maps = amplitudes_of_blocks(
                source.model.to(device), (images for images, _ in crops), partial(bar.show, total=len(ids_N))
            )
        results[str(run)] = {
            "method": model.method,
            "target": model.target,
            "step": source.step,
            "blocks": [
                {
                    "frequency": frequencies(len(map_HW)).tolist(),
                    "relative_log_amplitude": relative(diagonal(map_HW)).tolist(),
                    "radial_relative_log_amplitude": relative(radial(map_HW)).tolist(),
                }
                for map_HW in maps
            ],
        }
    labels, images = labels_of(options.runs), len(ids_N) - len(left_out)
    table = TextTable(
        title=f"{images} images of {options.data}: relative log amplitude at the highest frequency",
        columns=["run", "first block", "middle block", "last block"],
        rows=[
            [label, *(f"{highest(found)[place]:.2f}" for place in (0, len(found["blocks"]) // 2, -1))]
            for label, found in zip(labels, results.values(), strict=True)
        ],
    )
    write_analysis(
        out,
        "frequency",
        runs=options.runs,
        settings=settings_of(options, images=images, fingerprint=split.manifest.fingerprint),
        results=results,
        table=table,
        draw=lambda: draw_amplitudes(labels, list(results.values())),
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
    """Mean over images and channels of the log amplitude of every wave, (H, W) float64.

    At [y, x] the one with y cycles a map down and x across; beyond the middle these are y - H and x - W.
    """
    mean_HW: Tensor = (
        (torch.fft.fft2(maps_BDHW.float()).abs() + EPSILON).log().mean((0, 1), dtype=torch.float64)
    )
    return mean_HW


def diagonal(mean_HW: Tensor) -> Tensor:
    """The log amplitudes of waves with k cycles down and k across, k = 0, 1 … up to Nyquist's, (F,)."""
    return mean_HW.diagonal()[: len(mean_HW) // 2 + 1]


def radial(mean_HW: Tensor) -> Tensor:
    """The mean log amplitude of all waves of k cycles in their own direction, k = 0, 1 … to Nyquist's, (F,).

    A wave counts for the whole number that its cycles are nearest to; those beyond Nyquist's for none.
    """
    side = len(mean_HW)
    cycles_H = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    ring_HW = torch.hypot(cycles_H[:, None], cycles_H[None, :]).round()
    return torch.stack([mean_HW[ring_HW == k].mean() for k in range(side // 2 + 1)])


def relative(curve_F: Tensor) -> Tensor:
    """A curve of log amplitudes minus its value at frequency zero."""
    return curve_F - curve_F[0]


@torch.no_grad()
def amplitudes_of_blocks(
    model: Encoder, batches: Iterable[NDArray[np.uint8]], progress: Callable[[int], None] = lambda _: None
) -> list[Tensor]:
    """For each block of the encoder, in order, the mean log amplitudes of its map, (H, W) float64.

    batches: images (B, S, S, 3) uint8, whole; nothing is masked; progress: hears images done.  Raises
    UserError if there are none.
    """
    sums: dict[nn.Module, Tensor] = {}

    def add(block: nn.Module, _inputs: object, output: Tensor) -> None:
        maps_BDHW = feature_map(output, model.prefix)
        sums[block] = sums.get(block, 0) + len(maps_BDHW) * log_amplitudes(maps_BDHW).cpu()

    device, count = next(model.parameters()).device, 0
    model.eval()
    handles = [block.register_forward_hook(add) for block in model.encoder_blocks()]
    try:
        for images in batches:
            model.features(torch.from_numpy(images).to(device))
            count += len(images)
            progress(count)
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise UserError(NONE_LEFT)
    return [sum_HW / count for sum_HW in sums.values()]


def highest(run: dict[str, Any], kind: str = "") -> list[float]:
    """Relative log amplitude at the highest frequency after each block.  kind: "", or "radial_"."""
    return [block[f"{kind}relative_log_amplitude"][-1] for block in run["blocks"]]


def draw_amplitudes(labels: list[str], runs: list[dict[str, Any]]) -> Figure:
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
        panel.sharey(panels[0])
        panel.tick_params(labelleft=panel is panels[0])
        label_axes(panel, "frequency / Nyquist", "relative log amplitude" if panel is panels[0] else "")
    bar = figure.colorbar(ScalarMappable(cmap=shades), ax=panels[-1], ticks=[0, 0.9], shrink=0.8, pad=0.02)
    bar.ax.set_ylim(0, 0.9)
    bar.ax.set_yticklabels(["first\nblock", "last"], fontsize=8)
    bar.outline.set_visible(False)
    for number, (label, run) in enumerate(zip(labels, runs, strict=True)):
        depth = np.arange(1.0, len(run["blocks"]) + 1)
        along, radial_N = np.array(highest(run)), np.array(highest(run, "radial_"))
        both = (
            Line(name=label, x_N=depth, y_N=along, colour=number, marks=True),
            Line(name="", x_N=depth, y_N=radial_N, colour=number, look="dashed"),
        )
        plot_lines(last, both)
    last.set_title("at the highest frequency\n(dashed: mean of all directions)", fontsize=10, color=INK)
    last.xaxis.set_major_locator(MaxNLocator(integer=True))
    last.legend(fontsize=8, frameon=False)
    label_axes(last, "block", "")
    return figure
