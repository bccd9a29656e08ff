"""The two crops: what is drawn for a sample, and where its window lies.

Simple resized crop ("src"): short side to `size`, reflect padding of 4, a uniform integer size x size
window.  It follows torchvision's Resize, pad(4, reflect) and crop on PIL images.

Random resized crop ("rrc"): a window of uniform area, log-uniform aspect ratio and uniform place, resized to
size x size; nothing outside the window shows.  It follows torchvision's RandomResizedCrop on PIL images, the
central crop after ten windows that do not fit included; a side that ends in exactly one half is rounded up,
not to even.

How pixels become these crops: windows.py on a host, crop_graphs.py in DALI.
Shape suffixes: B samples, A attempts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.crop import PAD, Crop
from turbomim.pipeline.stream.philox import CROP, FLIP, draw_u32
from turbomim.pipeline.stream.turns import Turn

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

# what a graph is fed beside the images, by name: one entry a sample in each
Inputs = dict[str, NDArray[Any]]

# rrc: windows drawn before the central crop; aspect ratios lie in [1 / RATIO, RATIO]
ATTEMPTS: Final = 10
RATIO: Final = 4 / 3

# the arithmetic of windows is the same for arrays and in DALI's graphs
Integers = TypeVar("Integers", NDArray[np.int64], "DataNode")


def draw_crops(crop: Crop, seed: int, turn: Turn) -> Inputs:
    """Draw a micro-batch's inputs: `flips` (B,) int32, `words` (B, 2) int64 in [0, 2**32) for y and x.

    rrc has `squares` too, see `rrc_squares`.
    Flip: the lowest bit of word 0.  Crop: src words 0 and 1 are y and x; rrc words 2a and 2a + 1 are share
    and ratio of attempt a, words 20 and 21 are y and x.
    """
    flips_B = (draw_u32(seed, turn.epochs_B, turn.ids_B, FLIP, 1)[:, 0] & 1).astype(np.int32)
    shape_words = 0 if crop.kind == "src" else 2 * ATTEMPTS
    u32_BW = draw_u32(seed, turn.epochs_B, turn.ids_B, CROP, shape_words + 2)
    inputs: Inputs = {"flips": flips_B, "words": u32_BW[:, shape_words:].astype(np.int64)}
    if crop.kind == "rrc":
        inputs["squares"] = rrc_squares(u32_BW[:, :shape_words].reshape(-1, ATTEMPTS, 2), crop.scale)
    return inputs


def resized_sides(sides: Integers, short: Integers, size: int) -> Integers:
    """Return the sides after the short one is resized to `size`, rounded down as torchvision's Resize does.

    sides: int64, (..., 2) or a DALI node of (2,); short: the smaller of the two, (..., 1) or a node.
    """
    return sides * size // short


def window_starts(words: Integers, sides: Integers, size: int) -> Integers:
    """Return where the window of src starts on each axis: uniform in [-PAD, side - size + PAD].

    words: int64 in [0, 2**32), of CROP, one an axis; sides: int64, after the resize; (..., 2) or DALI nodes
    of (2,).  A negative start lies in the padding: of a side of 300 and a size of 224 starts are -4 to 80.
    """
    return high_word(words * (sides - size + 2 * PAD + 1)) - PAD


def high_word(product: Integers) -> Integers:
    """Divide by 2**32, rounded down; product: int64 of 0 and above.

    In two steps: DALI takes 32-bit numbers for constants, and has had no shift of nodes before 2.2.
    """
    return product // 2**16 // 2**16


def rrc_squares(u32_BA2: NDArray[np.uint32], scale: float) -> NDArray[np.float64]:
    """Return the squared height and width of each attempt's window over the image's area, (B, A, 2).

    u32 (B, A, 2): the share of the area, uniform in [scale, 1), then width over height, log-uniform in
    [1 / RATIO, RATIO).
    """
    unit_BA2 = u32_BA2 / 2**32
    share_BA = scale + (1 - scale) * unit_BA2[..., 0]
    ratio_BA = RATIO ** (2 * unit_BA2[..., 1] - 1)
    return np.stack([share_BA / ratio_BA, share_BA * ratio_BA], -1)
