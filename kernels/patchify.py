"""Patches by their numbers, in plain torch: rows of pixels stay whole, so that a CPU is fast at them.

Suffixes: B batch, C channels, H W pixels (H == W == S), M patches asked for, V values of a patch's row (3 p).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def gather_patches(images_BHWC: Tensor, ids: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Return patches (B, ids, p, p * 3) of images (B, S, S, 3), by row-major number, in the images' dtype.

    And (B, ids, 1, 1) float32, to be added: 0, or NaN where the image has no such patch.
    """
    batch, size, _, channels = images_BHWC.shape
    grid = size // patch
    cells = images_BHWC.reshape(batch, grid, patch, grid, patch * channels)
    rows = torch.arange(batch, device=ids.device)[:, None]
    inside = (ids >= 0) & (ids < grid * grid)
    cell = ids.clamp(0, grid * grid - 1)
    outside = torch.where(inside, 0.0, math.nan)[..., None, None]
    return cells[rows, cell // grid, :, cell % grid], outside


def gather_statistics(
    images_BHWC: Tensor, ids_BM: Tensor, patch: int, scale_V: Tensor, shift_V: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean and the unbiased variance (B, M, 1, 1) of each patch of `images * scale + shift`.

    A number outside the image gives another patch's.
    """
    batch, size = images_BHWC.shape[:2]
    grid, values = size // patch, patch * patch * 3
    # Of every patch, asked for or not: no sum runs over gathered pixels.
    cells = images_BHWC.reshape(batch, grid, patch, grid, patch * 3) * scale_V + shift_V
    mean = cells.mean((2, 4), keepdim=True)
    variance = (cells - mean).square().sum((2, 4), keepdim=True) / (values - 1)
    ids_BM = ids_BM.clamp(0, grid * grid - 1)
    mean_BM, variance_BM = (x.reshape(batch, -1).gather(1, ids_BM) for x in (mean, variance))
    return mean_BM[..., None, None], variance_BM[..., None, None]


def channel_row(values: Sequence[float], patch: int, device: torch.device) -> Tensor:
    """Return one number a channel as a row of a patch (3 * p,), without a copy from the host."""
    return torch.cat([torch.full((1,), value, device=device) for value in values]).repeat(patch)
