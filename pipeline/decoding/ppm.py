"""Decoded photographs as binary PPM files: a text header, then the pixels as they are in memory.

The `raw` store keeps these: webdataset, Pillow and DALI read them as images, and here they need no decoder.
Source: the Netpbm format description of PPM, "P6".
"""

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

HEADER: Final = re.compile(rb"P6\n([1-9][0-9]{0,8}) ([1-9][0-9]{0,8})\n255\n")

# of HEADER at its longest
HEADER_BYTES: Final = 3 + 9 + 1 + 9 + 1 + 4


def ppm_bytes(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """Write an image, (H, W, 3) uint8 RGB, as a PPM file."""
    height, width, _ = pixels_HWC.shape
    return b"P6\n%d %d\n255\n" % (width, height) + pixels_HWC.tobytes()


def ppm_pixels(content_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """View the pixels of a PPM file that `ppm_bytes` wrote, (H, W, 3) uint8 RGB; nothing is copied.

    Raises ValueError: another header, or not exactly the bytes that it announces.
    """
    header = HEADER.match(content_N[:HEADER_BYTES].tobytes())
    if not header:
        raise ValueError(f"no header of an 8-bit PPM image, but {content_N[:16].tobytes()!r}")
    width, height = int(header[1]), int(header[2])
    pixels_N = content_N[header.end() :]
    if len(pixels_N) != height * width * 3:
        raise ValueError(f"{len(pixels_N):,} bytes of pixels, not {height} x {width} x 3")
    return pixels_N.reshape(height, width, 3)
