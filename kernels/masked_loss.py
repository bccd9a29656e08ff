"""The losses over masked patches, in plain torch: `torch.compile` makes one pass of each, and one back.

A Triton kernel moves no fewer bytes: 10 a value, for a bfloat16 prediction and target (docs/kernels.md).
Suffixes: B batch, M masked patches, P values of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mse(pred_BMP: Tensor, target_BMP: Tensor) -> Tensor:
    """Mean over masked patches of the mean squared error of each.

    pred and target (B, M, P), of any floating types.  Returns () float32, or float64 if one of them is.
    Differences and sums have that type too, whatever autocast says.
    Raises ValueError if the shapes differ or there is nothing to average.
    Source: arXiv:2111.06377 sec. 3; MAE's forward_loss, whose sum is in the prediction's type.
    """
    return _difference(pred_BMP, target_BMP).square().mean()


def masked_l1(pred_BMP: Tensor, target_BMP: Tensor) -> Tensor:
    """Mean over masked patches of the mean absolute error of each; the gradient is 0 where they are equal.

    As `masked_mse` in all else.
    Source: arXiv:2111.09886 sec. 3; SimMIM's forward, without the 1e-5 in its divisor.
    """
    return _difference(pred_BMP, target_BMP).abs().mean()


def _difference(pred_BMP: Tensor, target_BMP: Tensor) -> Tensor:
    """Prediction minus target, in float32 or wider."""
    # broadcasting would average something else without a word
    if pred_BMP.shape != target_BMP.shape or not pred_BMP.numel():
        raise ValueError(
            f"prediction is {tuple(pred_BMP.shape)} and target {tuple(target_BMP.shape)}: "
            "give two of one shape, with at least one value"
        )
    wide = torch.promote_types(torch.promote_types(pred_BMP.dtype, target_BMP.dtype), torch.float32)
    return pred_BMP.to(wide) - target_BMP.to(wide)
