"""Photographs made worse in ten ways and five severities, as published for ImageNet-C and CIFAR-10-C.

Pure functions of a uint8 image, a number or two and a random generator that belongs to the sample.
Source: Hendrycks and Dietterich, arXiv:1903.12261 sec. 3, and hendrycks/robustness (make_imagenet_c.py,
make_cifar_c.py).  Unlike there, values are rounded and not cut to uint8, the Gaussian blur mirrors the image
at its border, and nothing is stored as a JPEG afterwards.

Shape suffixes: H W pixels, C channels, K taps of a kernel.
"""

import io
import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur as blur

Pixels = NDArray[np.uint8]
# of (image, the severity's numbers, the sample's generator)
Corruption = Callable[..., Pixels]
# what a corruption takes beside the image: a number, or two
Numbers = float | tuple[float, float]
Severities = dict[str, tuple[Numbers, ...]]

# their numbers are pixels; the others' are values, quality or shares of the image's side
IN_PIXELS: Final = ("gaussian blur", "defocus blur", "motion blur")


def generator(seed: int, sample_id: int) -> np.random.Generator:
    """A fresh generator of the sample: the same numbers in any order and batch, and for every severity."""
    return np.random.Generator(np.random.Philox(key=[seed, sample_id]))


def gaussian_noise(image_HWC: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    """Add normal noise to every value; deviation for 0..1 units."""
    return _to_uint8(image_HWC / 255 + random.normal(0, deviation, image_HWC.shape))


def shot_noise(image_HWC: Pixels, photons: float, random: np.random.Generator) -> Pixels:
    """Count photons: Poisson numbers, of which white is `photons` on average."""
    return _to_uint8(random.poisson(image_HWC / 255 * photons) / photons)


def impulse_noise(image_HWC: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """Set this share of all values to black or white, each as often (salt and pepper)."""
    # one draw for both: a value that is hit stays hit in all higher severities, and by the same
    drawn_HWC = random.random(image_HWC.shape)
    white_HWC = random.random(image_HWC.shape) < 0.5
    return np.where(drawn_HWC < share, np.where(white_HWC, 255, 0), image_HWC).astype(np.uint8)


def gaussian_blur(image_HWC: Pixels, sigma: float, _random: np.random.Generator) -> Pixels:
    """Blur; sigma in pixels, cut off at four of them."""
    image_CHW = _channels_first(image_HWC)
    width = 2 * math.ceil(4 * sigma) + 1
    # along rows, then along columns: the same sum, with far fewer terms
    for sides in ([width, 1], [1, width]):
        image_CHW = blur(image_CHW, sides, [sigma, sigma])
    return _to_uint8(image_CHW.permute(1, 2, 0).numpy())


def defocus_blur(image_HWC: Pixels, radius: float, softness: float, _random: np.random.Generator) -> Pixels:
    """Blur by a lens out of focus: the mean over a disc; radius and the softness of its edge in pixels."""
    kernel_KK = torch.from_numpy(disc(radius, softness))
    reach = len(kernel_KK) // 2
    blurred_CHW = functional.conv2d(_mirrored(_channels_first(image_HWC), reach), kernel_KK[None, None])
    return _to_uint8(blurred_CHW[:, 0].permute(1, 2, 0).numpy())


def disc(radius: float, softness: float) -> NDArray[np.float64]:
    """A disc's kernel (K, K), whose edge is blurred by a Gaussian; sums to one.

    The Gaussian's deviation is `softness` pixels; it is cut off at 1 pixel, or at 2 of a radius above 8, as
    in the published code.  There the kernel ends where a disc of 8 or 10 pixels does, and what of its edge
    lies beyond is mirrored into it, which brightens the image by a hundredth; here it ends with its edge.
    """
    cut = 1 if radius <= 8 else 2
    half = math.ceil(radius) + cut
    line_K = np.arange(-half, half + 1)
    inside_KK = (line_K[:, None] ** 2 + line_K[None, :] ** 2 <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * (np.arange(-cut, cut + 1) / softness) ** 2)
    for axis in (0, 1):
        inside_KK = np.apply_along_axis(np.convolve, axis, inside_KK, taps, mode="same")
    soft_KK: NDArray[np.float64] = inside_KK / inside_KK.sum()
    return soft_KK


def motion_blur(image_HWC: Pixels, radius: float, sigma: float, random: np.random.Generator) -> Pixels:
    """Blur along a line from each pixel, at -45 to 45 degrees to the rows, as of a shaken camera.

    radius, sigma: of half a Gaussian, pixels.  ImageMagick's, which the published code calls: pixels nearest
    to the line, its 2 * radius further ones, and the image's border repeated.
    """
    weights_K, rows_K, columns_K = trail(radius, sigma, math.radians(random.uniform(-45, 45)))
    height, width = image_HWC.shape[:2]
    blurred_HWC = np.zeros(image_HWC.shape)
    for weight, row, column in zip(weights_K, rows_K, columns_K, strict=True):
        rows_H = np.clip(np.arange(height) + row, 0, height - 1)
        columns_W = np.clip(np.arange(width) + column, 0, width - 1)
        blurred_HWC += weight * image_HWC[np.ix_(rows_H, columns_W)]
    return _to_uint8(blurred_HWC / 255)


def trail(
    radius: float, sigma: float, angle: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Motion blur's weights (K,), which sum to one, and where each is taken from: rows and columns away (K,).

    angle: radians, from the direction of the rows towards higher row numbers.
    """
    steps_K = np.arange(2 * math.ceil(radius) + 1)
    weights_K = np.exp(-0.5 * (steps_K / sigma) ** 2)
    # halves go down
    rows_K, columns_K = (
        np.ceil(steps_K * part - 0.5).astype(np.int64) for part in (math.sin(angle), math.cos(angle))
    )
    return weights_K / weights_K.sum(), rows_K, columns_K


def contrast(image_HWC: Pixels, factor: float, _random: np.random.Generator) -> Pixels:
    """Draw values nearer to the mean of their channel."""
    unit_HWC = image_HWC / 255
    mean_11C = unit_HWC.mean((0, 1), keepdims=True)
    return _to_uint8((unit_HWC - mean_11C) * factor + mean_11C)


def brightness(image_HWC: Pixels, added: float, _random: np.random.Generator) -> Pixels:
    """Raise HSV's value, the largest channel, by `added` of 1; hue and saturation stay."""
    unit_HWC = image_HWC / 255
    value_HW1 = unit_HWC.max(2, keepdims=True)
    raised_HW1 = np.minimum(value_HW1 + added, 1)
    # black has no hue: it turns grey
    factor_HW1 = np.divide(raised_HW1, value_HW1, out=np.zeros_like(value_HW1), where=value_HW1 > 0)
    return _to_uint8(np.where(value_HW1 > 0, unit_HWC * factor_HW1, raised_HW1))


def jpeg(image_HWC: Pixels, quality: float, _random: np.random.Generator) -> Pixels:
    """Compress; quality 1 to 100, libjpeg's."""
    content = io.BytesIO()
    Image.fromarray(image_HWC).save(content, "JPEG", quality=int(quality))
    return np.array(Image.open(content))


def pixelate(image_HWC: Pixels, share: float, _random: np.random.Generator) -> Pixels:
    """Shrink the sides to this share of them, and enlarge again, both by averages of boxes."""
    height, width = image_HWC.shape[:2]
    image = Image.fromarray(image_HWC)
    small = image.resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def _channels_first(image_HWC: Pixels) -> Tensor:
    """(C, H, W) float64 in 0..1."""
    return torch.from_numpy(image_HWC / 255).permute(2, 0, 1)


def _mirrored(image_CHW: Tensor, reach: int) -> Tensor:
    """Each channel as an image of its own (C, 1, H, W) with a border, mirrored without the edge's pixel.

    One wider than the image is mirrored again.
    """
    for axis in (1, 2):
        side = image_CHW.shape[axis]
        place = torch.arange(-reach, side + reach).remainder(2 * side - 2)
        image_CHW = image_CHW.index_select(axis, torch.minimum(place, 2 * side - 2 - place))
    return image_CHW[:, None]


def _to_uint8(unit_HWC: NDArray[np.float64]) -> Pixels:
    return np.ascontiguousarray(np.rint(np.clip(unit_HWC, 0, 1) * 255), np.uint8)


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "gaussian noise": gaussian_noise,
    "shot noise": shot_noise,
    "impulse noise": impulse_noise,
    "gaussian blur": gaussian_blur,
    "defocus blur": defocus_blur,
    "motion blur": motion_blur,
    "contrast": contrast,
    "brightness": brightness,
    "jpeg": jpeg,
    "pixelate": pixelate,
}
# the side in pixels of the images that a set was made for, and its numbers of severities 1 to 5
PUBLISHED: Final[dict[str, tuple[int, Severities]]] = {
    "ImageNet-C": (
        224,
        {
            "gaussian noise": (0.08, 0.12, 0.18, 0.26, 0.38),
            "shot noise": (60, 25, 12, 5, 3),
            "impulse noise": (0.03, 0.06, 0.09, 0.17, 0.27),
            "gaussian blur": (1, 2, 3, 4, 6),
            "defocus blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            "motion blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
            "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
            "jpeg": (25, 18, 15, 10, 7),
            "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        },
    ),
    "CIFAR-10-C": (
        32,
        {
            "gaussian noise": (0.04, 0.06, 0.08, 0.09, 0.10),
            "shot noise": (500, 250, 100, 75, 50),
            "impulse noise": (0.01, 0.02, 0.03, 0.05, 0.07),
            "gaussian blur": (0.4, 0.6, 0.7, 0.8, 1),
            "defocus blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            "motion blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
            "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
            "jpeg": (80, 65, 58, 50, 40),
            "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        },
    ),
}


def severities_of_size(size: int) -> tuple[str, Severities]:
    """The set whose image size is nearest by ratio, and its numbers for images of `size` pixels.

    Blurs are in pixels: they are scaled with the image's side.  The others stay.
    """
    nearest = min(PUBLISHED, key=lambda name: abs(math.log(size / PUBLISHED[name][0])))
    side, severities = PUBLISHED[nearest]
    scale = size / side

    def scaled(numbers: Numbers) -> Numbers:
        return (numbers[0] * scale, numbers[1] * scale) if isinstance(numbers, tuple) else numbers * scale

    table = {
        name: tuple(map(scaled, values)) if name in IN_PIXELS else values
        for name, values in severities.items()
    }
    return nearest, table
