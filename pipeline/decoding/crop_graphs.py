"""The two crops as DALI graphs: from decoded pixels to the crop.

Only what a window shows is resized, so a panorama takes no more memory than a square.  Unlike PIL, the graphs
do not round and clip between the two passes of a resize, and repeat the edge where PIL cuts its filter short.
What is drawn, and what the crops are: crop_draws.py.
Shape suffixes: A attempts.
"""

# DALI does not type all of its operators
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.decoding.crop_draws import ATTEMPTS, high_word, resized_sides, window_starts
from turbomim.pipeline.decoding.dali_package import import_dali

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

Device = Literal["cpu", "gpu"]

# the names that DALI has for them
FILTERS: Final = {"bicubic": "INTERP_CUBIC", "bilinear": "INTERP_LINEAR"}


def rrc_window(squares: DataNode, words: DataNode, sides: DataNode) -> tuple[DataNode, DataNode]:
    """Return where the window of rrc starts and its sides, (y, x) each; all CPU nodes of (2,) int64.

    squares (A, 2) float64 of `rrc_squares`; words and sides (2,) int64.  Float64, so it is torchvision's
    window.  In the graph, as only there the sides are known; about 15 µs an image.
    """
    dali = import_dali()
    fn, math, types = dali.fn, dali.math, dali.types
    attempts = math.floor(math.sqrt(sides[0] * sides[1] * squares) + 0.5)
    # as large as RATIO allows, 4/3 of the other side rounded to nearest: it always fits
    central = math.min(sides, (8 * fn.stack(sides[1], sides[0]) + 3) // 6)
    windows = fn.cat(fn.cast(attempts, dtype=types.INT64), fn.reshape(central, shape=[1, 2]), axis=0)
    fits = fn.cast((windows >= 1) & (windows <= sides), dtype=types.INT64)
    # the first to fit has the most windows after it
    after = fn.reductions.max(
        fn.reductions.min(fits, axes=[1]) * types.Constant(np.arange(ATTEMPTS, -1, -1), device="cpu")
    )
    shape = windows[ATTEMPTS - after]
    free = sides - shape
    start = (after > 0) * high_word(words * (free + 1)) + (after == 0) * (free // 2)
    return start, shape


def src_graph(pixels: DataNode, crop: Crop, device: Device) -> DataNode:
    """Define the simple resized crop of decoded pixels, resized on `device`.  Its input: `words`."""
    dali = import_dali()
    fn, math, types = dali.fn, dali.math, dali.types
    words = fn.external_source(name="words", no_copy=True)
    original = pixels.shape()[:2]
    sides = resized_sides(original, fn.reductions.min(original), crop.size)
    start = window_starts(words, sides, crop.size)
    first = math.max(start, 0)
    last = math.min(start + crop.size, sides)
    scale = fn.cast(original, dtype=types.FLOAT) / fn.cast(sides, dtype=types.FLOAT)
    inside = fn.resize(
        _copy_to(device, pixels),
        size=fn.cast(last - first, dtype=types.FLOAT),
        roi_start=first * scale,
        roi_end=last * scale,
        interp_type=getattr(types, FILTERS[crop.interpolation]),
        antialias=True,
    )
    return _cut_window(inside, start - first, crop.size)


def stored_src_graph(pixels: DataNode, crop: Crop, device: Device) -> DataNode:
    """Define the simple resized crop of pixels whose short side is the crop's already.  Its input: `words`.

    The window is that of the original photograph, as a store's sides are its `resized_sides`.
    """
    words = import_dali().fn.external_source(name="words", no_copy=True)
    start = window_starts(words, pixels.shape()[:2], crop.size)
    return _copy_to(device, _cut_window(pixels, start, crop.size))


def rrc_graph(pixels: DataNode, crop: Crop, device: Device) -> DataNode:
    """Define the random resized crop of decoded pixels, resized on `device`.

    Its inputs: `squares` and `words`.
    """
    dali = import_dali()
    fn, types = dali.fn, dali.types
    squares = fn.external_source(name="squares", no_copy=True)
    words = fn.external_source(name="words", no_copy=True)
    start, shape = rrc_window(squares, words, pixels.shape()[:2])
    # a resize of a region would filter across the window's edge
    window = fn.slice(
        pixels,
        start=fn.cast(start, dtype=types.INT32),
        shape=fn.cast(shape, dtype=types.INT32),
        axes=[0, 1],
    )
    resized: DataNode = fn.resize(
        _copy_to(device, window),
        size=[crop.size, crop.size],
        interp_type=getattr(types, FILTERS[crop.interpolation]),
        antialias=True,
    )
    return resized


# decoded pixels, the crop and where to resize, to the crop's pixels
CropNode = Callable[["DataNode", Crop, Device], "DataNode"]
GRAPHS: Final[dict[CropKind, CropNode]] = {"src": src_graph, "rrc": rrc_graph}
# the same crops out of a store whose photographs were resized
STORED_GRAPHS: Final[dict[CropKind, CropNode]] = {"src": stored_src_graph, "rrc": rrc_graph}


def _cut_window(pixels: DataNode, start: DataNode, size: int) -> DataNode:
    """Cut the window that starts at (y, x), reflected where it lies outside."""
    dali = import_dali()
    window: DataNode = dali.fn.slice(
        pixels,
        start=dali.fn.cast(start, dtype=dali.types.INT32),
        shape=[size, size],
        axes=[0, 1],
        out_of_bounds_policy="reflect_101",
    )
    return window


def _copy_to(device: Device, pixels: DataNode) -> DataNode:
    """Copy to the GPU what is not there yet, if it should be."""
    return pixels.gpu() if device == "gpu" and pixels.device == "cpu" else pixels
