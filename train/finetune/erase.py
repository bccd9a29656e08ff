"""Random erasing: a rectangle of some images becomes normal noise.

timm's own fills one image after the other, with torch's generator.  Here timm only draws the rectangles, on
the host; the noise of all of them is made at once, on the device of the images, from random words of each
pixel by torch's Philox.  So it depends only on seed, epoch and sample, and no kernel or copy is made for an
image alone.

Shapes: B samples, C the three colours, H W pixels, R rectangles, N erased pixels of all of them.
"""

# timm types little of its augmentations
# mypy: allow-untyped-calls

import math
import random

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from turbomim.kernels.philox import PURPOSE_ERASE, philox_words_ref
from turbomim.train.finetune.rand_augment import restoring_generators


class _Blank:
    """In place of an image: notes which rectangle is filled, and ignores with what."""

    dtype = torch.float32

    def __init__(self, height: int, width: int) -> None:
        self._size = (3, height, width)
        # top, left, height, width
        self.filled: tuple[int, int, int, int] | None = None

    def size(self) -> tuple[int, int, int]:
        """As of an image's tensor."""
        return self._size

    def __setitem__(self, where: tuple[slice, slice, slice], value: Tensor) -> None:
        _, rows, columns = where
        self.filled = (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)


def draw_rectangles(rate: float, height: int, width: int, words_B: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Draw which of a batch's images are erased, and where, each from its own word: timm's rule and draws.

    rate: fraction of images that are erased.  Returns (5, R): place in the batch, top, left, height and width
    in pixels.  Seeds Python's generator, and leaves it as it was.
    """
    # "const" draws no values from torch to fill with
    eraser = RandomErasing(rate, mode="const", device="cpu")
    rectangles: list[tuple[int, ...]] = []
    with restoring_generators():
        for place, word in enumerate(words_B.tolist()):
            random.seed(word)
            blank = _Blank(height, width)
            eraser(blank)
            if blank.filled is not None:
                rectangles.append((place, *blank.filled))
    return np.array(rectangles, np.int64).reshape(-1, 5).T


def erase(
    images_BCHW: Tensor, rectangles_5R: NDArray[np.int64], seed: int, epochs_B: Tensor, ids_B: Tensor
) -> None:
    """Fill rectangles of float32 images with noise of mean 0 and deviation 1, in place.

    rectangles as of `draw_rectangles`; epochs and ids (B,) int64 on the images' device.  A GPU is not waited
    for.
    """
    place_R, top_R, left_R, height_R, width_R = rectangles_5R
    if not len(place_R):
        return
    # erased pixels are numbered through all rectangles; first: the number of a rectangle's first pixel
    area_R = height_R * width_R
    first_R = np.cumsum(area_R) - area_R
    numbers_5R = torch.from_numpy(np.stack([place_R, top_R, left_R, width_R, first_R]))
    if images_BCHW.is_cuda:
        # from pageable memory the copy would make the host wait
        numbers_5R = numbers_5R.pin_memory()
    numbers_5R = numbers_5R.to(images_BCHW.device, non_blocking=True)
    number_N = torch.arange(int(area_R.sum()), device=images_BCHW.device)
    rectangle_N = torch.searchsorted(numbers_5R[4], number_N, right=True) - 1
    place_N, top_N, left_N, width_N, first_N = numbers_5R[:, rectangle_N].unbind()
    y_N, x_N = top_N + (number_N - first_N) // width_N, left_N + (number_N - first_N) % width_N
    pixel_N = y_N * images_BCHW.shape[3] + x_N
    # the slice between indices puts colours last: (N, 3)
    images_BCHW[place_N, :, y_N, x_N] = noise(seed, epochs_B[place_N], ids_B[place_N], pixel_N)


def noise(seed: int, epochs_N: Tensor, ids_N: Tensor, pixels_N: Tensor) -> Tensor:
    """Normal numbers of pixels of samples, (N, 3) float32.

    pixels (N,) int64: row by row in the sample's image; its words 4 n to 4 n + 3 are those of pixel n.
    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    words_N4 = philox_words_ref(seed, epochs_N, ids_N, PURPOSE_ERASE, pixels_N)
    # above 0, so that there is a logarithm, and at most 1
    uniform_N4 = (words_N4.float() + 1) * 2.0**-32
    radius_N2, angle_N2 = (-2 * uniform_N4[:, ::2].log()).sqrt(), 2 * math.pi * uniform_N4[:, 1::2]
    return torch.cat([radius_N2 * angle_N2.cos(), radius_N2[:, :1] * angle_N2[:, :1].sin()], dim=1)
