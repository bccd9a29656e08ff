"""Photographs made worse in seven ways and five severities, as published for ImageNet-C and CIFAR-10-C.

Pure functions of a uint8 image, one number and a random generator that belongs to the sample.
Source: Hendrycks and Dietterich, arXiv:1903.12261 sec. 3, and the numbers of hendrycks/robustness
(make_imagenet_c.py, make_cifar_c.py).  Unlike there, values are rounded and not cut to uint8, a blur mirrors
the image at its border, and nothing is stored as a JPEG afterwards.

Shape suffixes: H W pixels, C channels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.functional import gaussian_blur as blur

Pixels = NDArray[np.uint8]
Corruption = Callable[[Pixels, float, np.random.Generator], Pixels]


def generator(seed: int, sample_id: int) -> np.random.Generator:
    """A fresh generator of the sample: the same numbers in any order and batch, and for every severity."""
    return np.random.Generator(np.random.Philox(key=[seed, sample_id]))


def gaussian_noise(image_HWC: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    """Add normal noise to every value; deviation for 0..1 units."""
    return _to_uint8(image_HWC / 255 + random.normal(0, deviation, image_HWC.shape))


def shot_noise(image_HWC: Pixels, photons: float, random: np.random.Generator) -> Pixels:
    """Count photons: Poisson numbers, of which white is `photons` on average."""
    return _to_uint8(random.poisson(image_HWC / 255 * photons) / photons)


def gaussian_blur(image_HWC: Pixels, sigma: float, _random: np.random.Generator) -> Pixels:
    """Blur; sigma in pixels, cut off at four of them."""
    image_CHW = torch.from_numpy(image_HWC / 255).permute(2, 0, 1)
    width = 2 * math.ceil(4 * sigma) + 1
    # along rows, then along columns: the same sum, with far fewer terms
    for sides in ([width, 1], [1, width]):
        image_CHW = blur(image_CHW, sides, [sigma, sigma])
    return _to_uint8(image_CHW.permute(1, 2, 0).numpy())


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


def _to_uint8(unit_HWC: NDArray[np.float64]) -> Pixels:
    return np.ascontiguousarray(np.rint(np.clip(unit_HWC, 0, 1) * 255), np.uint8)


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "gaussian noise": gaussian_noise,
    "shot noise": shot_noise,
    "gaussian blur": gaussian_blur,
    "contrast": contrast,
    "brightness": brightness,
    "jpeg": jpeg,
    "pixelate": pixelate,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Numbers of severities 1 to 5 of each corruption, made for images of `size` pixels."""

    name: str
    size: int
    severities: dict[str, tuple[float, ...]]


IMAGENET_C: Final = Published(
    name="ImageNet-C",
    size=224,
    severities={
        "gaussian noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot noise": (60, 25, 12, 5, 3),
        "gaussian blur": (1, 2, 3, 4, 6),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "jpeg": (25, 18, 15, 10, 7),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    },
)
CIFAR_10_C: Final = Published(
    name="CIFAR-10-C",
    size=32,
    severities={
        "gaussian noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot noise": (500, 250, 100, 75, 50),
        "gaussian blur": (0.4, 0.6, 0.7, 0.8, 1),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "jpeg": (80, 65, 58, 50, 40),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    },
)


def severities(size: int) -> tuple[str, dict[str, tuple[float, ...]]]:
    """The set whose image size is nearest by ratio, and its numbers for images of `size` pixels.

    The blur is the only one in pixels: it is scaled with the image's side.  The others are in units of
    values, of quality or of the image's side, and stay.
    """
    nearest = min((IMAGENET_C, CIFAR_10_C), key=lambda published: abs(math.log(size / published.size)))
    scaled = tuple(sigma * size / nearest.size for sigma in nearest.severities["gaussian blur"])
    return nearest.name, nearest.severities | {"gaussian blur": scaled}
