"""One pass from a uint8 batch to normalised visible patches and the targets of the masked ones.

Suffixes: B batch, C channels, H W pixels (H == W == S), N patches, K kept, M masked (N - K), P values of a
patch (p * p * 3, in row, column, channel order).  Mask polarity: 1 = removed, 0 = kept.
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from turbomim.kernels.lowpass import blur_patch, blur_scalars, gaussian_extent, gaussian_ref, ideal_ref

Target = Literal["raw", "gaussian", "ideal"]

# The widest window that a program blurs at once: patch + 2 * reach, up to a power of two.
WINDOW_LIMIT = 64

_EPSILON = 1e-6


def masked_patches(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    *,
    patch: int,
    target: Target,
    radius: float,
    norm_pix: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Cut a batch into the encoder's visible patches and the decoder's targets.

    images (B, S, S, 3) uint8, contiguous; ids_keep (B, K) and ids_mask (B, M) int64, row-major patch numbers
    in any order; radius in cycles per image, not used by "raw"; mean and std for 0..1 units, one a channel.
    Returns visible (B, K, P) `dtype`, never filtered, and target (B, M, P) float32: low-passed in 0..1 units,
    then normalised by mean and std, then, if norm_pix, by its own patch's mean and unbiased variance + 1e-6.
    A patch number outside the image raises IndexError on a CPU and gives a row of NaN in the kernel.
    Raises ValueError if the shapes, dtypes or numbers do not fit.
    Source: arXiv:2111.06377 sec. 3 and MAE's patchify; arXiv:2303.02416 for the low-frequency target, whose
    code has the "ideal" filter; "gaussian" is ours.
    """
    _check(images_BHWC, ids_keep_BK, ids_mask_BM, patch, target, radius, mean, std, dtype)
    visible_BKP, target_BMP = masked_patches_op(
        images_BHWC, ids_keep_BK, ids_mask_BM, patch, target, radius, norm_pix, list(mean), list(std), dtype
    )
    return visible_BKP, target_BMP


def _check(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    patch: int,
    target: str,
    radius: float,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> None:
    """Raise ValueError if `masked_patches` cannot work on these."""
    shape = tuple(images_BHWC.shape)
    if images_BHWC.dtype != torch.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(f"images are {shape} {images_BHWC.dtype}: give square uint8 RGB, (B, S, S, 3)")
    if patch < 1 or shape[1] % patch:
        raise ValueError(f"patch is {patch}: choose a divisor of the image's {shape[1]} pixels")
    for name, ids in (("ids_keep", ids_keep_BK), ("ids_mask", ids_mask_BM)):
        if ids.dtype != torch.int64 or ids.ndim != 2 or ids.shape[0] != shape[0]:
            raise ValueError(
                f"{name} is {tuple(ids.shape)} {ids.dtype}: give int64, one row for each of {shape[0]} images"
            )
    if target not in ("raw", "gaussian", "ideal"):
        raise ValueError(f'target is "{target}": choose "raw", "gaussian" or "ideal"')
    if target == "gaussian":
        gaussian_extent(shape[1], radius)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean is {tuple(mean)} and std {tuple(std)}: give three numbers each, std above 0")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype}: choose float32, bfloat16 or float16")


def masked_patches_ref(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    patch: int,
    target: str,
    radius: float,
    norm_pix: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Do what `masked_patches` does, in plain torch on any device, in float32."""
    visible = gather_patches(images_BHWC, ids_keep_BK, patch).float() / 255
    if target == "raw":
        hidden = gather_patches(images_BHWC, ids_mask_BM, patch).float() / 255
    else:
        low_pass = gaussian_ref if target == "gaussian" else ideal_ref
        hidden = gather_patches(low_pass(images_BHWC, radius), ids_mask_BM, patch)
    mean_C, std_C = (torch.tensor(list(values), device=images_BHWC.device) for values in (mean, std))
    visible_BKP = ((visible - mean_C) / std_C).flatten(2).to(dtype)
    target_BMP = ((hidden - mean_C) / std_C).flatten(2)
    if norm_pix:
        variance, average = torch.var_mean(target_BMP, dim=-1, correction=1, keepdim=True)
        target_BMP = (target_BMP - average) / (variance + _EPSILON).sqrt()
    return visible_BKP, target_BMP


def gather_patches(images_BHWC: Tensor, ids: Tensor, patch: int) -> Tensor:
    """Return patches (B, ids, p, p, 3) of images (B, S, S, 3), by row-major number, in the images' dtype."""
    batch, size, _, channels = images_BHWC.shape
    grid = size // patch
    cells = images_BHWC.reshape(batch, grid, patch, grid, patch, channels)
    rows = torch.arange(batch, device=ids.device)[:, None]
    return cells[rows, ids // grid, :, ids % grid]


@triton.jit
def _masked_patches_kernel(
    images_ptr,  # (B, S, S, 3) uint8
    keep_ptr,  # (B, K) int64
    mask_ptr,  # (B, M) int64
    visible_ptr,  # (B, K, P) dtype
    target_ptr,  # (B, M, P) float32
    kept,  # K
    masked,  # M
    scale0,
    scale1,
    scale2,
    shift0,
    shift1,
    shift2,
    tap_exponent,
    tap_scale,
    untap,
    S: tl.constexpr,
    PATCH: tl.constexpr,
    REACH: tl.constexpr,
    BLUR: tl.constexpr,
    NORM_PIX: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Write one patch: of the K + M slots of an image, the first K are visible and the rest are targets."""
    P: tl.constexpr = PATCH * PATCH * 3
    GRID: tl.constexpr = S // PATCH
    slots = kept + masked
    slot = tl.program_id(0) % slots
    b = (tl.program_id(0) // slots).to(tl.int64)
    image_ptr = images_ptr + b * (S * S * 3)

    value = tl.arange(0, BLOCK)
    channel = value % 3
    scale = tl.where(channel == 0, scale0, tl.where(channel == 1, scale1, scale2))
    shift = tl.where(channel == 0, shift0, tl.where(channel == 1, shift1, shift2))

    if slot < kept:
        out = b * kept + slot
        cell = tl.load(keep_ptr + out)
        inside = (cell >= 0) & (cell < GRID * GRID)
        pixels = _load_patch(image_ptr, cell, inside, value, S, PATCH)
        visible = tl.where(inside, pixels * scale + shift, float("nan"))
        tl.store(visible_ptr + out * P + value, visible.to(visible_ptr.dtype.element_ty), mask=value < P)
    else:
        out = b * masked + (slot - kept)
        cell = tl.load(mask_ptr + out)
        inside = (cell >= 0) & (cell < GRID * GRID)
        if BLUR:
            pixels = untap * blur_patch(
                image_ptr, cell, inside, value, tap_exponent, tap_scale, S, PATCH, REACH, SIDE, WINDOW
            )
        else:
            pixels = _load_patch(image_ptr, cell, inside, value, S, PATCH)
        target = pixels * scale + shift
        if NORM_PIX:
            mean = tl.sum(tl.where(value < P, target, 0.0)) / P
            centred = tl.where(value < P, target - mean, 0.0)
            variance = tl.sum(centred * centred) / (P - 1)
            target = centred / tl.sqrt(variance + 1e-6)
        target = tl.where(inside, target, float("nan"))
        tl.store(target_ptr + out * P + value, target, mask=value < P)


@triton.jit
def _load_patch(image_ptr, cell, inside, value, S: tl.constexpr, PATCH: tl.constexpr):
    """Return the patch's values 0..255, in (row, column, channel) order."""
    corner = (cell // (S // PATCH)) * (PATCH * S * 3) + (cell % (S // PATCH)) * (PATCH * 3)
    offset = (value // (PATCH * 3)) * (S * 3) + value % (PATCH * 3)
    valid = value < tl.where(inside, PATCH * PATCH * 3, 0)
    return tl.load(image_ptr + corner + offset, mask=valid, other=0).to(tl.float32)


def kernel_constants(size: int, patch: int, target: str, radius: float, norm_pix: bool) -> dict[str, int]:
    """Return the kernel's compile-time arguments and options."""
    reach = gaussian_extent(size, radius)[1] if target == "gaussian" else 0
    block = triton.next_power_of_2(patch * patch * 3)
    window = max(16, triton.next_power_of_2(patch + 2 * reach))
    by_values, by_window = min(8, max(1, block // 256)), 4 if window <= 32 else 8
    return {
        "S": size,
        "PATCH": patch,
        "REACH": reach,
        "BLUR": target == "gaussian",
        "NORM_PIX": norm_pix,
        "BLOCK": block,
        # tl.dot needs at least 16 of each.
        "SIDE": max(16, triton.next_power_of_2(patch)),
        "WINDOW": window,
        "num_warps": by_window if target == "gaussian" else by_values,
    }


def kernel_scalars(
    size: int, target: str, radius: float, mean: Sequence[float], std: Sequence[float]
) -> list[float]:
    """Return the kernel's nine numbers: a scale and a shift for each channel, and the blur's three."""
    scales = [1 / (255 * s) for s in std]
    shifts = [-m / s for m, s in zip(mean, std, strict=True)]
    if target != "gaussian":
        return [*scales, *shifts, 0.0, 0.0, 1.0]
    return [*scales, *shifts, *blur_scalars(size, radius)]


def _launch_masked_patches(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    patch: int,
    target: str,
    radius: float,
    norm_pix: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    run: Callable[[Any], Any] = lambda kernel: kernel,
) -> tuple[Tensor, Tensor]:
    """Allocate the outputs and run the kernel: one program for every patch."""
    batch, size = images_BHWC.shape[:2]
    kept, masked, values = ids_keep_BK.shape[1], ids_mask_BM.shape[1], patch * patch * 3
    visible_BKP = torch.empty((batch, kept, values), dtype=dtype, device=images_BHWC.device)
    target_BMP = torch.empty((batch, masked, values), dtype=torch.float32, device=images_BHWC.device)
    if batch * (kept + masked):
        run(_masked_patches_kernel)[(batch * (kept + masked),)](
            images_BHWC.contiguous(),
            ids_keep_BK.contiguous(),
            ids_mask_BM.contiguous(),
            visible_BKP,
            target_BMP,
            kept,
            masked,
            *kernel_scalars(size, target, radius, mean, std),
            **kernel_constants(size, patch, target, radius, norm_pix),
        )
    return visible_BKP, target_BMP


@triton_op("turbomim::masked_patches", mutates_args={})
def masked_patches_op(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    patch: int,
    target: str,
    radius: float,
    norm_pix: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Run the kernel on a GPU and the reference elsewhere; `masked_patches` checks the arguments."""
    arguments = (images_BHWC, ids_keep_BK, ids_mask_BM, patch, target, radius, norm_pix, mean, std, dtype)
    size = images_BHWC.shape[1]
    if not images_BHWC.is_cuda or not has_kernel(size, patch, target, radius):
        return masked_patches_ref(*arguments)
    return _launch_masked_patches(*arguments, run=wrap_triton)


def has_kernel(size: int, patch: int, target: str, radius: float) -> bool:
    """Say whether the kernel does this; the reference does the rest, also on a GPU."""
    if target == "ideal" or not 4 <= patch <= 32:
        return False
    return target == "raw" or patch + 2 * gaussian_extent(size, radius)[1] <= WINDOW_LIMIT
