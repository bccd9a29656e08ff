"""How strong each corruption is: the published numbers of five severities, for images of any size.

Source: hendrycks/robustness, make_imagenet_c.py (224 pixels) and make_cifar_c.py (32 pixels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# what a corruption takes beside the image: a number, or two
Numbers = float | tuple[float, float]
Severities = dict[str, tuple[Numbers, ...]]

# their numbers are pixels; the others' are values, quality or shares of the image's side
IN_PIXELS: Final = ("gaussian blur", "defocus blur", "motion blur")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Numbers of severities 1 to 5 of each corruption, made for images of `size` pixels."""

    name: str
    size: int
    severities: Severities


IMAGENET_C: Final = Published(
    name="ImageNet-C",
    size=224,
    severities={
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
)
CIFAR_10_C: Final = Published(
    name="CIFAR-10-C",
    size=32,
    severities={
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
)


def severities_of_size(size: int) -> tuple[str, Severities]:
    """The set whose image size is nearest by ratio, and its numbers for images of `size` pixels.

    Blurs are in pixels: they are scaled with the image's side.  The others stay.
    """
    nearest = min((IMAGENET_C, CIFAR_10_C), key=lambda published: abs(math.log(size / published.size)))
    scale = size / nearest.size

    def scaled(numbers: Numbers) -> Numbers:
        return (numbers[0] * scale, numbers[1] * scale) if isinstance(numbers, tuple) else numbers * scale

    table = {
        name: tuple(map(scaled, values)) if name in IN_PIXELS else values
        for name, values in nearest.severities.items()
    }
    return nearest.name, table
