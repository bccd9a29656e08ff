"""Patches and predictions back to pixels.

N patches · P values of a patch (p·p·3, in row, column, channel order) · H W pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

# added to variances, as where targets are normalised
EPS = 1e-6


def unpatchify(patches_NP: FloatArray, patch: int) -> FloatArray:
    """Picture (H, W, 3) of a square grid of patches (N, patch·patch·3), dtype unchanged.

    Raises ValueError if N is not a square number or P is not patch·patch·3.
    """
    count, values = patches_NP.shape
    side = round(count**0.5)
    if side * side != count or values != patch * patch * 3:
        legal = f"(n·n, {patch * patch * 3}) for a square picture of {patch}-pixel patches"
        raise ValueError(f"patches {patches_NP.shape}: must be {legal}")
    grid: FloatArray = patches_NP.reshape(side, side, patch, patch, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(side * patch, side * patch, 3)


def denormalise(pred_NP: FloatArray, mean: FloatArray, var: FloatArray) -> FloatArray:
    """Pixels of normalised predictions: pred · sqrt(var + EPS) + mean.

    pred (N, P); mean and var (N, 1) of patches or (N, P) of windows, in the unit wanted.
    Use the variance (biased or not) that normalised the target.  True statistics show what the
    model never saw: say so beside the picture.
    """
    pixels_NP: FloatArray = pred_NP * np.sqrt(var + EPS) + mean
    return pixels_NP


def to_uint8(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 as it is; float 0..1 clipped, scaled, rounded.  Raises ValueError for other types and shapes."""
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture {picture.shape}: must be (H, W, 3)")
    if picture.dtype != np.uint8 and not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(f"picture of {picture.dtype}: must be uint8 or float 0..1")
    scaled = picture if picture.dtype == np.uint8 else np.rint(np.clip(picture, 0, 1) * 255)
    return scaled.astype(np.uint8)
