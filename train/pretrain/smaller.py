"""Smaller images first: the batches of `data.sizes`, made of crops of full size on the training device."""

import torch
from torch import Tensor
from torch.nn import functional

from turbomim.pipeline.tars.store import Interpolation


@torch.no_grad()
def shrunk(images_BHWC: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Crops (B, S, S, C) uint8 as (B, size, size, C), by the filter of the crop's own resize.

    The filter grows with the shrinking, so that nothing is aliased.  On a CPU torch's uint8 kernel does it in
    a tenth of the time, and rounds and clips between its two passes; a GPU has none.
    """
    pixels_BCHW = images_BHWC.permute(0, 3, 1, 2)
    if pixels_BCHW.is_cuda:
        small_BCHW = shrunk_in_float(pixels_BCHW, size, interpolation)
    else:
        small_BCHW = functional.interpolate(pixels_BCHW, (size, size), mode=interpolation, antialias=True)
    return small_BCHW.permute(0, 2, 3, 1).contiguous()


def shrunk_in_float(pixels_BCHW: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """The same computed in float32, rounded to uint8."""
    pixels_BCHW = pixels_BCHW.float()
    small_BCHW = functional.interpolate(pixels_BCHW, (size, size), mode=interpolation, antialias=True)
    return small_BCHW.round_().clamp_(0, 255).to(torch.uint8)
