"""What is cut out of an image, and what must be predicted of it: the numbers that decide a patch's values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# none, and the low-pass filters of `lowpass` and of `ideal`
TargetKind = Literal["raw", "gaussian", "ideal"]


def highest_frequency(size: int, kind: TargetKind) -> float:
    """Return the frequency at the corner of an image's spectrum, in cycles: a filter of it filters nothing.

    size: pixels a side.  The disc of "ideal" has its centre half a frequency from zero.
    """
    return (size - (kind == "ideal")) / math.sqrt(2)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTarget:
    """Square patches, and the filter and normalisation of the targets among them.

    patch: pixels a side; radius: of the filter, cycles per image, not used by "raw"; norm_pix: a target is
    normalised by its own patch's mean and variance; mean and std: for 0..1 units, one a channel, of visible
    patches too.
    """

    patch: int
    kind: TargetKind
    radius: float
    norm_pix: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def scales_and_shifts(self) -> tuple[list[float], list[float]]:
        """Return for each channel what 0..255 are multiplied by, and what is then added."""
        pairs = zip(self.mean, self.std, strict=True)
        return [1 / (255 * std) for std in self.std], [-mean / std for mean, std in pairs]
