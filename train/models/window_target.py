"""Targets that are normalised pixel by pixel, by what is around each: SwinV2's in SimMIM.

Suffixes: B batch, N patches, P values of a patch, C channels, S pixels a side of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

_EPSILON = 1e-6


def window_normalised(patches_BNP: Tensor, grid: int, patch: int, window: int) -> Tensor:
    """Every pixel less the mean, over the deviation, of its channel in the window around it.

    Arguments as of `window_statistics`.  Returns the same shape; 1e-6 is added to the variance.
    """
    mean_BNP, var_BNP = window_statistics(patches_BNP, grid, patch, window)
    return (patches_BNP - mean_BNP) / (var_BNP + _EPSILON).sqrt()


def window_statistics(patches_BNP: Tensor, grid: int, patch: int, window: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each pixel's channel in the window around it.

    patches (B, N, P) float32, all grid x grid patches of whole images in order; window: pixels a side, odd
    and above 1.  Returns two of the same shape.  What lies outside the image does not count; the variance is
    unbiased.
    Source: microsoft/Swin-Transformer's SimMIM; the means of its square windows are taken by rows, then by
    columns.
    """
    cells = patches_BNP.reshape(-1, grid, grid, patch, patch, 3)
    image_BCSS = cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, grid * patch, grid * patch)
    half, place_S = window // 2, torch.arange(grid * patch, device=patches_BNP.device)

    def mean(x: Tensor) -> Tensor:
        rows = avg_pool2d(x, (window, 1), stride=1, padding=(half, 0), count_include_pad=False)
        return avg_pool2d(rows, (1, window), stride=1, padding=(0, half), count_include_pad=False)

    count_S = (place_S + half).clamp(max=grid * patch - 1) - (place_S - half).clamp(min=0) + 1
    count_SS = count_S[:, None] * count_S
    mean_BCSS = mean(image_BCSS)
    var_BCSS = (mean(image_BCSS.square()) - mean_BCSS.square()) * (count_SS / (count_SS - 1))

    def by_patch(image_BCSS: Tensor) -> Tensor:
        cells = image_BCSS.reshape(-1, 3, grid, patch, grid, patch)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(patches_BNP.shape)

    return by_patch(mean_BCSS), by_patch(var_BCSS.clamp(min=0))
