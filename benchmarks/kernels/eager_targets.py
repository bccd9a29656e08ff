"""Patches and targets in plain torch, one operation after the other, as published code has them.

In float32 they are what the kernels are timed against, in float64 what they are checked against.
Suffixes: B batch, C channels, H W pixels (H == W), N patches, K kept, M masked, P values of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD

# images (B, C, H, W) in 0..1 units to the same, low-passed
Filter = Callable[[Tensor], Tensor]


def patches_and_targets(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    filtered: Filter,
    patch: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Normalise, filter, normalise, patchify, normalise patches, gather.

    images (B, H, W, 3) uint8; ids as in masked_patches.  Returns (B, K, P) and (B, M, P).
    """
    mean, std = (
        torch.tensor(v, dtype=dtype, device=images_BHWC.device).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    x_BCHW = (images_BHWC.permute(0, 3, 1, 2).to(dtype) / 255 - mean) / std
    low_BCHW = (filtered(x_BCHW * std + mean) - mean) / std
    visible_BNP, target_BNP = patchify(x_BCHW, patch), patchify(low_BCHW, patch)
    variance, average = torch.var_mean(target_BNP, dim=-1, keepdim=True)
    target_BNP = (target_BNP - average) / (variance + 1e-6).sqrt()
    return _gather(visible_BNP, ids_keep_BK), _gather(target_BNP, ids_mask_BM)


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """All patches (B, N, P) in (row, column, channel) order."""
    batch, channels, size, _ = x_BCHW.shape
    side = size // patch
    cells = x_BCHW.reshape(batch, channels, side, patch, side, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, side**2, -1)


def _gather(patches_BNP: Tensor, ids: Tensor) -> Tensor:
    return patches_BNP.gather(1, ids[..., None].expand(-1, -1, patches_BNP.shape[-1]))


def unfiltered(radius: float) -> Filter:
    """The target of MAE."""
    return lambda x_BCHW: x_BCHW


def convolutions(radius: float) -> Filter:
    """A Gaussian blur as torchvision does it: reflected borders, one convolution down and one across."""

    def blur(x_BCHW: Tensor) -> Tensor:
        sigma = x_BCHW.shape[-1] / (2 * math.pi * radius)
        reach = math.ceil(4 * sigma)
        tap = torch.arange(-reach, reach + 1, dtype=x_BCHW.dtype, device=x_BCHW.device)
        weight = (-0.5 * (tap / sigma) ** 2).exp()
        weight = (weight / weight.sum()).expand(3, 1, -1)
        padded = functional.pad(x_BCHW, [reach] * 4, mode="reflect")
        down = functional.conv2d(padded, weight[..., None], groups=3)
        return functional.conv2d(down, weight[..., None, :], groups=3)

    return blur


def fft_disc(radius: float) -> Filter:
    """PixMIM's published filter: fft2, shift, disc, ifft2, modulus."""

    def low_pass(x_BCHW: Tensor) -> Tensor:
        spectrum = torch.fft.fftshift(torch.fft.fft2(x_BCHW), dim=(-2, -1))
        modulus: Tensor = torch.fft.ifft2(spectrum * _disc(x_BCHW, radius)).abs()
        return modulus

    return low_pass


def dft_products(radius: float) -> Filter:
    """The same filter as products with the kept frequencies' complex waves."""

    def low_pass(x_BCHW: Tensor) -> Tensor:
        size = x_BCHW.shape[-1]
        kept = _disc(x_BCHW, radius)
        used = kept.any(1).nonzero()[:, 0]
        pixel = torch.arange(size, device=x_BCHW.device)
        angle = (-2 * math.pi / size) * ((used[:, None] - size // 2) * pixel % size).double()
        waves = torch.polar(torch.ones_like(angle), angle).to(
            torch.promote_types(x_BCHW.dtype, torch.complex64)
        )
        spectrum = waves @ x_BCHW.to(waves.dtype) @ waves.T * kept[used][:, used]
        filtered: Tensor = (waves.conj().T @ spectrum @ waves.conj()).abs() / size**2
        return filtered

    return low_pass


def _disc(x_BCHW: Tensor, radius: float) -> Tensor:
    """The published mask over the shifted spectrum (H, W), 1 = frequency kept."""
    size = x_BCHW.shape[-1]
    axis = torch.arange(size, dtype=x_BCHW.dtype, device=x_BCHW.device) - (size - 1) / 2
    return (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).to(x_BCHW.dtype)


FILTERS: Final[dict[str, Callable[[float], Filter]]] = {
    "raw": unfiltered,
    "gaussian": convolutions,
    "ideal": fft_disc,
}
