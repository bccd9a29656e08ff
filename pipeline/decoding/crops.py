"""The two crops: what is drawn for a sample, where its window lies, and the graph from pixels to the crop.

Simple resized crop ("src"): short side to `size`, reflect padding of 4, a uniform integer size x size
window.  It follows torchvision's Resize, pad(4, reflect) and crop on PIL images.  The graph, which a GPU
runs, resamples only the window, so a panorama takes no more memory than a square; on a CPU see windows.py.

Random resized crop ("rrc"): a window of uniform area, log-uniform aspect ratio and uniform place, resized to
size x size; nothing outside the window shows.  It follows torchvision's RandomResizedCrop on PIL images, the
central crop after ten windows that do not fit included; a side that ends in exactly one half is rounded up,
not to even.

Both resize antialiased, bicubic or bilinear: published recipes use one or the other.  Unlike PIL, the graphs
do not round and clip between the two passes of a resize, and repeat the edge where PIL cuts its filter short.
Shape suffixes: B samples, A attempts.
"""

# DALI does not type all of its operators
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.dali_package import import_dali
from turbomim.pipeline.stream.order import Turn
from turbomim.pipeline.stream.philox import CROP, FLIP, draw_u32
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.store import Store

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

Crop = Literal["src", "rrc"]
Device = Literal["cpu", "gpu"]
Interpolation = Literal["bicubic", "bilinear"]

# external sources of the graph by name, one entry a sample in each
Inputs = dict[str, NDArray[Any]]

PAD: Final = 4

# src: reflection needs PAD pixels beyond the edge pixel, also where the window lies PAD outside
MIN_SIZE: Final = 2 * PAD + 1

# rrc: windows drawn before the central crop; aspect ratios lie in [1 / RATIO, RATIO]
ATTEMPTS: Final = 10
RATIO: Final = 4 / 3

# the names that DALI has for them
FILTERS: Final = {"bicubic": "INTERP_CUBIC", "bilinear": "INTERP_LINEAR"}

Integers = TypeVar("Integers", NDArray[np.int64], "DataNode")


def draw(crop: Crop, scale: float, seed: int, turn: Turn) -> Inputs:
    """Draw a micro-batch's inputs: `flips` (B,) int32, `words` (B, 2) int64 in [0, 2**32) for y and x.

    rrc has `squares` too (see `rrc_squares`; scale: the least share of the area); src ignores `scale`.
    Flip: the lowest bit of word 0.  Crop: src words 0 and 1 are y and x; rrc words 2a and 2a + 1 are share
    and ratio of attempt a, words 20 and 21 are y and x.
    """
    flips_B = (draw_u32(seed, turn.epochs_B, turn.ids_B, FLIP, 1)[:, 0] & 1).astype(np.int32)
    shape_words = 0 if crop == "src" else 2 * ATTEMPTS
    u32_BW = draw_u32(seed, turn.epochs_B, turn.ids_B, CROP, shape_words + 2)
    inputs: Inputs = {"flips": flips_B, "words": u32_BW[:, shape_words:].astype(np.int64)}
    if crop == "rrc":
        inputs["squares"] = rrc_squares(u32_BW[:, :shape_words].reshape(-1, ATTEMPTS, 2), scale)
    return inputs


def check_crop(crop: str, interpolation: str, *, size: int, scale: float, store: Store) -> None:
    """Raise UserError for what no graph crops, or not out of this store."""
    if crop not in GRAPHS:
        raise UserError(f"crop {crop!r} is none of {', '.join(GRAPHS)}: choose one of them")
    if interpolation not in FILTERS:
        raise UserError(
            f"interpolation {interpolation!r} is none of {', '.join(FILTERS)}: choose one of them"
        )
    if not 0 < scale <= 1:
        raise UserError(f"scale {scale} is outside (0, 1]: it is the least share of the image's area")
    if crop == "src" and size < MIN_SIZE:
        raise UserError(f"image size {size} is below {MIN_SIZE}, the least that reflect padding allows")
    if size < 1:
        raise UserError(f"image size {size} is below 1: set it to at least 1 pixel")
    if store.short_side is None:
        return
    if crop == "src" and (store.short_side, store.resampling) != (size, interpolation):
        raise UserError(
            f"crop 'src' of {size} pixels, {interpolation}, cannot come out of a store of short side "
            f"{store.short_side}, {store.resampling}: remake the split with `--short-side {size}` "
            f"and `--resampling {interpolation}`, or use the store's values"
        )
    if store.short_side < size:
        raise UserError(
            f"image size {size} is above the store's short side of {store.short_side}: remake the split with "
            f"`--short-side {size}`, or use a smaller size"
        )


def resized_sides(sides: Integers, short: Integers, size: int) -> Integers:
    """Return the sides after the short one is resized to `size`, rounded down as torchvision's Resize does.

    sides: int64, (..., 2) or a DALI node of (2,); short: the smaller of the two, (..., 1) or a node.
    """
    return sides * size // short


def window_starts(words: Integers, sides: Integers, size: int) -> Integers:
    """Return where the window of src starts on each axis: uniform in [-PAD, side - size + PAD].

    words: int64 in [0, 2**32), one an axis; sides: int64, after the resize; (..., 2) or DALI nodes of (2,).
    """
    return _high_word(words * (sides - size + 2 * PAD + 1)) - PAD


def _high_word(product: Integers) -> Integers:
    """Divide by 2**32, rounded down; product: int64 of 0 and above.

    In two steps: DALI takes 32-bit numbers for constants, and has had no shift of nodes before 2.2.
    """
    return product // 2**16 // 2**16


def src_offsets(u32_B2: NDArray[np.uint32], sides_B2: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the (y, x) of each sample's src window from its CROP words, (B, 2) int64.

    sides (B, 2) int64: height and width after the resize.  A negative offset lies in the padding.
    """
    return window_starts(u32_B2.astype(np.int64), sides_B2, size)


def rrc_squares(u32_BA2: NDArray[np.uint32], scale: float) -> NDArray[np.float64]:
    """Return the squared height and width of each attempt's window over the image's area, (B, A, 2).

    u32 (B, A, 2): the share of the area, uniform in [scale, 1), then width over height, log-uniform in
    [1 / RATIO, RATIO).
    """
    unit_BA2 = u32_BA2 / 2**32
    share_BA = scale + (1 - scale) * unit_BA2[..., 0]
    ratio_BA = RATIO ** (2 * unit_BA2[..., 1] - 1)
    return np.stack([share_BA / ratio_BA, share_BA * ratio_BA], -1)


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
    start = (after > 0) * _high_word(words * (free + 1)) + (after == 0) * (free // 2)
    return start, shape


def src_graph(pixels: DataNode, size: int, interpolation: Interpolation, device: Device) -> DataNode:
    """Define the simple resized crop of decoded pixels, resized on `device`.  Its input: `words`."""
    dali = import_dali()
    fn, math, types = dali.fn, dali.math, dali.types
    words = fn.external_source(name="words", no_copy=True)
    original = pixels.shape()[:2]
    sides = resized_sides(original, fn.reductions.min(original), size)
    start = window_starts(words, sides, size)
    first = math.max(start, 0)
    last = math.min(start + size, sides)
    scale = fn.cast(original, dtype=types.FLOAT) / fn.cast(sides, dtype=types.FLOAT)
    inside = fn.resize(
        _on(device, pixels),
        size=fn.cast(last - first, dtype=types.FLOAT),
        roi_start=first * scale,
        roi_end=last * scale,
        interp_type=getattr(types, FILTERS[interpolation]),
        antialias=True,
    )
    return _window(inside, start - first, size)


def stored_src_graph(pixels: DataNode, size: int, _interpolation: Interpolation, device: Device) -> DataNode:
    """Define the simple resized crop of pixels whose short side is `size` already.  Its input: `words`.

    The window is that of the original photograph, as a store's sides are its `resized_sides`.
    """
    words = import_dali().fn.external_source(name="words", no_copy=True)
    return _on(device, _window(pixels, window_starts(words, pixels.shape()[:2], size), size))


def rrc_graph(pixels: DataNode, size: int, interpolation: Interpolation, device: Device) -> DataNode:
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
        _on(device, window),
        size=[size, size],
        interp_type=getattr(types, FILTERS[interpolation]),
        antialias=True,
    )
    return resized


# decoded pixels, the crop's side, its interpolation and where to resize, to the crop
Graph = Callable[["DataNode", int, Interpolation, Device], "DataNode"]
GRAPHS: Final[dict[Crop, Graph]] = {"src": src_graph, "rrc": rrc_graph}
# the same crops out of a store whose photographs were resized
STORED_GRAPHS: Final[dict[Crop, Graph]] = {"src": stored_src_graph, "rrc": rrc_graph}


def _window(pixels: DataNode, start: DataNode, size: int) -> DataNode:
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


def _on(device: Device, pixels: DataNode) -> DataNode:
    """Copy to the GPU what is not there yet, if it should be."""
    return pixels.gpu() if device == "gpu" and pixels.device == "cpu" else pixels
