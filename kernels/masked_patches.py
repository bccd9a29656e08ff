"""One pass from a uint8 batch to normalised visible patches and the targets of the masked ones.

Suffixes: B batch, C channels, H W pixels (H == W == S), N patches, K kept, M masked (N - K), P values of a
patch (p * p * 3, in row, column, channel order).  Mask polarity: 1 = removed, 0 = kept.
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from turbomim.kernels.ideal import ideal_frequencies, ideal_ref, launch_ideal_patches
from turbomim.kernels.lowpass import blur_patch, blur_scalars, gaussian_extent, gaussian_ref
from turbomim.kernels.patch_target import PatchTarget, TargetKind
from turbomim.kernels.patch_values import load_cell, load_patch, normalise, of_channel, single, store_patch
from turbomim.kernels.patchify import channel_row, gather_patches, gather_statistics
from turbomim.kernels.source import SOURCE

# The widest window that a program blurs at once: patch + 2 * reach, up to a power of two.
WINDOW_LIMIT = 64

_EPSILON = 1e-6


def masked_patches(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    target: PatchTarget,
    *,
    dtype: torch.dtype,
    target_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Cut a batch into the encoder's visible patches and the decoder's targets.

    images (B, S, S, 3) uint8, contiguous; ids_keep (B, K) and ids_mask (B, M) int64, row-major patch numbers
    in any order.
    Returns visible (B, K, P) `dtype`, never filtered, and target (B, M, P) `target_dtype`: low-passed in 0..1
    units, then normalised by mean and std, then, if norm_pix, by its own patch's mean and unbiased variance
    + 1e-6; all in float32.  A patch number outside the image gives a row of NaN.
    Raises ValueError if the shapes, dtypes, devices or numbers do not fit.
    Source: arXiv:2111.06377 sec. 3 and MAE's patchify; arXiv:2303.02416 for the low-frequency target, whose
    code has the "ideal" filter; "gaussian" is ours.
    """
    _check_tensors(images_BHWC, ids_keep_BK, ids_mask_BM)
    _check_target(target, images_BHWC.shape[1])
    for name, kind in (("dtype", dtype), ("target_dtype", target_dtype)):
        if kind not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"{name} is {kind}: choose float32, bfloat16 or float16")
    visible_BKP, target_BMP = masked_patches_op(
        images_BHWC,
        ids_keep_BK,
        ids_mask_BM,
        target.patch,
        target.kind,
        target.radius,
        target.norm_pix,
        list(target.mean),
        list(target.std),
        dtype,
        target_dtype,
        SOURCE,
    )
    return visible_BKP, target_BMP


def targets_of_whole_images(images_BHWC: Tensor, target: PatchTarget) -> tuple[Tensor, Tensor]:
    """Return the target of every patch (B, N, P) float32, and the patches' numbers (B, N), in order."""
    patches = (images_BHWC.shape[1] // target.patch) ** 2
    every_BN = torch.arange(patches, device=images_BHWC.device).repeat(len(images_BHWC), 1)
    # no visible patch is wanted, and the kernel wants one
    one_B1 = every_BN[:, :1].contiguous()
    _, whole_BNP = masked_patches(images_BHWC, one_B1, every_BN, target, dtype=torch.float32)
    return whole_BNP, every_BN


def check_images(images_BHWC: Tensor) -> None:
    """Raise ValueError if these are no batch of square photographs."""
    shape = tuple(images_BHWC.shape)
    if images_BHWC.dtype != torch.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(f"images are {shape} {images_BHWC.dtype}: give square uint8 RGB, (B, S, S, 3)")


def _check_tensors(images_BHWC: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> None:
    """Raise ValueError if `masked_patches` cannot work on these."""
    check_images(images_BHWC)
    if not images_BHWC.is_contiguous():
        raise ValueError(f"images have strides {images_BHWC.stride()}: call .contiguous() on them first")
    batch = images_BHWC.shape[0]
    for name, ids in (("ids_keep", ids_keep_BK), ("ids_mask", ids_mask_BM)):
        if ids.dtype != torch.int64 or ids.ndim != 2 or ids.shape[0] != batch:
            raise ValueError(
                f"{name} is {tuple(ids.shape)} {ids.dtype}: give int64, one row for each of {batch} images"
            )
        if ids.device != images_BHWC.device:
            raise ValueError(f"{name} is on {ids.device} and the images on {images_BHWC.device}: move one")


def _check_target(target: PatchTarget, size: int) -> None:
    """Raise ValueError if images of `size` pixels have no such target."""
    if target.patch < 1 or size % target.patch:
        raise ValueError(f"patch is {target.patch}: choose a divisor of the image's {size} pixels")
    if target.kind not in ("raw", "gaussian", "ideal"):
        raise ValueError(f'target is "{target.kind}": choose "raw", "gaussian" or "ideal"')
    if target.kind == "gaussian":
        gaussian_extent(size, target.radius)
    if target.kind == "ideal":
        ideal_frequencies(size, target.radius)
    mean, std = target.mean, target.std
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean is {tuple(mean)} and std {tuple(std)}: give three numbers each, std above 0")


def masked_patches_ref(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    target: PatchTarget,
    dtype: torch.dtype,
    target_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Do what `masked_patches` does, in plain torch on any device, in float32."""
    patch, device = target.patch, images_BHWC.device
    scale_V, shift_V = (channel_row(values, patch, device) for values in target.scales_and_shifts())

    visible, outside = gather_patches(images_BHWC, ids_keep_BK, patch)
    visible_BKP = (visible * scale_V + shift_V + outside).flatten(2).to(dtype)

    low_pass = {"gaussian": gaussian_ref, "ideal": ideal_ref}.get(target.kind)
    filtered_BHWC = images_BHWC if low_pass is None else low_pass(images_BHWC, target.radius) * 255
    hidden, outside = gather_patches(filtered_BHWC, ids_mask_BM, patch)
    target_BMpV = hidden * scale_V + shift_V + outside
    if target.norm_pix:
        average, variance = gather_statistics(filtered_BHWC, ids_mask_BM, patch, scale_V, shift_V)
        target_BMpV = (target_BMpV - average) / (variance + _EPSILON).sqrt()
    return visible_BKP, target_BMpV.flatten(2).to(target_dtype)


@triton.jit
def _masked_patches_kernel(
    images_ptr,  # (B, S, S, 3) uint8
    keep_ptr,  # (B, K) int64
    mask_ptr,  # (B, M) int64
    visible_ptr,  # (B, K, P) dtype
    target_ptr,  # (B, M, P) target_dtype
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
    slots = kept + masked
    slot = tl.program_id(0) % slots
    b = (tl.program_id(0) // slots).to(tl.int64)
    image_ptr = images_ptr + b * (S * S * 3)

    value = tl.arange(0, BLOCK)
    scale, shift = of_channel(value, scale0, scale1, scale2), of_channel(value, shift0, shift1, shift2)
    if slot < kept:
        out = b * kept + slot
        cell, inside = load_cell(keep_ptr, out, S, PATCH)
        pixels = load_patch(image_ptr, cell, inside, value, S, PATCH)
        store_patch(visible_ptr, out, pixels * scale + shift, inside, value, P)
    else:
        out = b * masked + (slot - kept)
        cell, inside = load_cell(mask_ptr, out, S, PATCH)
        if BLUR:
            pixels = single(untap) * blur_patch(
                image_ptr, cell, inside, value, tap_exponent, tap_scale, S, PATCH, REACH, SIDE, WINDOW
            )
        else:
            pixels = load_patch(image_ptr, cell, inside, value, S, PATCH)
        target = pixels * scale + shift
        if NORM_PIX:
            target = normalise(target, value, P)
        store_patch(target_ptr, out, target, inside, value, P)


def kernel_constants(size: int, target: PatchTarget) -> dict[str, int]:
    """Return the kernel's compile-time arguments and options, for images of `size` pixels."""
    patch, blurs = target.patch, target.kind == "gaussian"
    reach = gaussian_extent(size, target.radius)[1] if blurs else 0
    block = triton.next_power_of_2(patch * patch * 3)
    window = max(16, triton.next_power_of_2(patch + 2 * reach))
    by_values, by_window = min(8, max(1, block // 256)), window // 4
    return {
        "S": size,
        "PATCH": patch,
        "REACH": reach,
        "BLUR": blurs,
        "NORM_PIX": target.norm_pix,
        "BLOCK": block,
        # tl.dot needs at least 16 of each.
        "SIDE": max(16, triton.next_power_of_2(patch)),
        "WINDOW": window,
        "num_warps": by_window if blurs else by_values,
    }


def kernel_scalars(size: int, target: PatchTarget) -> list[float]:
    """Return the kernel's nine numbers: a scale and a shift for each channel, and the blur's three."""
    scales, shifts = target.scales_and_shifts()
    blur = blur_scalars(size, target.radius) if target.kind == "gaussian" else (0.0, 0.0, 1.0)
    return [*scales, *shifts, *blur]


def _launch_masked_patches(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    target: PatchTarget,
    dtype: torch.dtype,
    target_dtype: torch.dtype,
    run: Callable[[Any], Any] = lambda kernel: kernel,
) -> tuple[Tensor, Tensor]:
    """Allocate the outputs and run the kernel: one program for every patch.  "ideal" targets have another."""
    batch, size = images_BHWC.shape[:2]
    kept, masked, values = ids_keep_BK.shape[1], ids_mask_BM.shape[1], target.patch**2 * 3
    visible_BKP = torch.empty((batch, kept, values), dtype=dtype, device=images_BHWC.device)
    target_BMP = torch.empty((batch, masked, values), dtype=target_dtype, device=images_BHWC.device)
    if target.kind == "ideal" and batch * masked:
        launch_ideal_patches(images_BHWC, ids_mask_BM, target_BMP, target, run)
    slots = kept if target.kind == "ideal" else kept + masked
    if batch * slots:
        run(_masked_patches_kernel)[(batch * slots,)](
            images_BHWC,
            ids_keep_BK.contiguous(),
            ids_mask_BM.contiguous(),
            visible_BKP,
            target_BMP,
            kept,
            slots - kept,
            *kernel_scalars(size, target),
            **kernel_constants(size, target),
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
    target_dtype: torch.dtype,
    source: str,
) -> tuple[Tensor, Tensor]:
    """Run the kernel on a GPU and the reference elsewhere; `masked_patches` checks the arguments.

    A PatchTarget's numbers one by one: an op takes no other types.
    """
    whole = PatchTarget(
        patch=patch,
        kind=cast(TargetKind, target),
        radius=radius,
        norm_pix=norm_pix,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )
    tensors = (images_BHWC, ids_keep_BK, ids_mask_BM)
    if images_BHWC.is_cuda and has_kernel(images_BHWC.shape[1], whole):
        return _launch_masked_patches(*tensors, whole, dtype, target_dtype, run=wrap_triton)
    return masked_patches_ref(*tensors, whole, dtype, target_dtype)


def has_kernel(size: int, target: PatchTarget) -> bool:
    """Say whether the kernels do this; the reference does the rest, also on a GPU."""
    if not 4 <= target.patch <= 32:
        return False
    if target.kind != "gaussian":
        return True
    return target.patch + 2 * gaussian_extent(size, target.radius)[1] <= WINDOW_LIMIT
