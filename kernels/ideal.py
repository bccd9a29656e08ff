"""PixMIM's published low-pass filter: a hard disc in frequency, then the modulus.

The disc keeps few frequencies, so only those are computed, by products with cosines and sines.  Every product
has float32's precision, whatever torch's TF32 settings say: a disc's edge shows a bfloat16 or TF32 rounding.
Suffixes: B batch, C channels, H W pixels (H == W == S), R frequencies, Q waves (2 R), M masked patches,
P values of a patch.
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from turbomim.kernels.patch_target import PatchTarget
from turbomim.kernels.patch_values import load_cell, normalise, of_channel, store_patch

# A product of two stacks of matrices, in float32: (B, C, I, J), (B, C, J, K) -> (B, C, I, K).
Product = Callable[[Tensor, Tensor], Tensor]

# The product's tile of rows and columns, and the terms added at a time.  tf32x3 is a chain of products, and
# of a chain Triton gives each warp at least 16 rows, or 8 columns if the tile is wider than high: with 64 x
# 64, four of eight warps would repeat the others' work on sm_80.
ROWS, COLUMNS, TERMS = 32, 128, 16


def ideal_ref(images_BHWC: Tensor, radius: float) -> Tensor:
    """Keep the frequencies inside a disc and return the modulus, as PixMIM's published code does.

    images (B, S, S, 3) uint8; radius in cycles per image.  Returns (B, S, S, 3) float32 in 0..1 units.
    Raises ValueError if the disc keeps no frequency.
    Source: LowFreqTargetGenerator of mmselfsup (arXiv:2303.02416), where the disc's centre is (S - 1) / 2 and
    not the zero frequency at S // 2; we follow it.
    """
    real_BCSQ, imag_BCSQ, waves_QS = ideal_rows(images_BHWC, radius, float32_product)
    real, imag = (float32_product(rows, waves_QS) for rows in (real_BCSQ, imag_BCSQ))
    scale = 1 / (255 * waves_QS.shape[1] ** 2)
    return ((real.square() + imag.square()).sqrt() * scale).permute(0, 2, 3, 1)


def float32_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply to float32's precision, whatever autocast and torch's settings say.

    On a GPU by our kernel.  On a CPU in float64: with AMX, torch multiplies float32 in bfloat16 if asked to.
    """
    if b.is_cuda:
        return _launch_product(a, b, run=wrap_triton)
    return (a.double() @ b.double()).float()


def ideal_rows(images_BHWC: Tensor, radius: float, product: Product) -> tuple[Tensor, Tensor, Tensor]:
    """Filter, and go back from frequencies to pixels along the columns, but not yet along the rows.

    Returns the real and the imaginary part (B, 3, S, Q), and the waves (Q, S): a part times the waves is the
    filtered image's, 255 * S * S times too large.
    For example, 224 pixels and a radius of 40: the disc reaches the frequencies 0 to 40, so R is 41, and the
    waves are 41 cosines and 41 sines, (82, 224).  Two products make the spectrum: (82, 224) times (224, 224)
    times (224, 82) is (82, 82), in quarters: cosines or sines down, cosines or sines across.  The disc weighs
    the quarters, with the signs of exp(-ify) exp(-ifx), and a third product goes back to pixels along the
    columns: (224, 82) times (82, 82) is (224, 82), for each of both parts.
    """
    # The matrices depend on the size, so a traced size becomes a constant here.
    size = int(images_BHWC.shape[1])
    waves_QS, even_RR, odd_y_RR, odd_x_RR, odd_RR = _waves_and_disc(size, radius, images_BHWC.device)
    spectrum_BCQQ = product(product(waves_QS, images_BHWC.permute(0, 3, 1, 2)), waves_QS.T)
    (cc, cs), (sc, ss) = (half.chunk(2, dim=-1) for half in spectrum_BCQQ.chunk(2, dim=-2))
    # The disc times the spectrum, with exp(-ify) exp(-ifx) written out over the signs of fy and fx.
    real_BCQQ = _blocks(
        even_RR * cc - odd_RR * ss,
        even_RR * cs + odd_RR * sc,
        odd_RR * cs + even_RR * sc,
        even_RR * ss - odd_RR * cc,
    )
    imag_BCQQ = _blocks(
        -odd_x_RR * cs - odd_y_RR * sc,
        odd_x_RR * cc - odd_y_RR * ss,
        odd_y_RR * cc - odd_x_RR * ss,
        odd_y_RR * cs + odd_x_RR * sc,
    )
    return product(waves_QS.T, real_BCQQ), product(waves_QS.T, imag_BCQQ), waves_QS


def ideal_frequencies(size: int, radius: float) -> int:
    """Return R, how many frequencies 0, 1, ... R - 1 the disc reaches.

    Raises ValueError if the disc keeps no frequency.
    """
    centre = (size - 1) / 2
    nearest = math.sqrt(2) * (centre % 1)
    if radius < nearest:
        raise ValueError(f"radius is {radius}: a disc that keeps a frequency needs at least {nearest:.3f}")
    first = max(0, math.ceil(centre - radius))
    last = min(size - 1, math.floor(centre + radius))
    return max(size // 2 - first, last - size // 2) + 1


def _waves_and_disc(
    size: int, radius: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the waves that the disc keeps, and the disc's four parts.

    waves (2R, S): the cosines, then the sines, of the frequencies 0, 1, ... R - 1.  Each part (R, R) adds the
    disc at (±fy, ±fx): all four; times the sign of fy; times the sign of fx; times both signs.
    """
    centre = (size - 1) / 2
    frequency = torch.arange(ideal_frequencies(size, radius), device=device)
    pixel = torch.arange(size, device=device)
    # The product is reduced as an integer, so that the angle is exact.
    angle = (frequency[:, None] * pixel[None, :] % size).double() * (2 * math.pi / size)
    # Zero has two signs and is one frequency: half of it to each.
    share = torch.where(frequency == 0, 0.5, 1.0)

    def disc(sign_y: int, sign_x: int) -> Tensor:
        y, x = sign_y * frequency + size // 2, sign_x * frequency + size // 2
        distance = (y - centre).double().square()[:, None] + (x - centre).double().square()[None, :]
        inside = (distance <= radius**2) & (y < size)[:, None] & (x < size)[None, :]
        return inside * share[:, None] * share[None, :]

    pp, pm, mp, mm = disc(1, 1), disc(1, -1), disc(-1, 1), disc(-1, -1)
    waves_QS = torch.cat([angle.cos(), angle.sin()]).float()
    return waves_QS, pp + pm + mp + mm, pp + pm - mp - mm, pp - pm + mp - mm, pp - pm - mp + mm


def _blocks(cc: Tensor, cs: Tensor, sc: Tensor, ss: Tensor) -> Tensor:
    """Join four (..., R, R) blocks to one (..., 2R, 2R) matrix."""
    return torch.cat([torch.cat([cc, cs], dim=-1), torch.cat([sc, ss], dim=-1)], dim=-2)


@triton.jit
def _product_kernel(
    a_ptr,  # (B, C, I, J) uint8 or float32, any strides
    b_ptr,  # (B, C, J, K) uint8 or float32, any strides
    out_ptr,  # (B, C, I, K) float32
    rows,  # I
    terms,  # J
    columns,  # K
    channels,  # C
    a_stride_b,
    a_stride_c,
    a_stride_i,
    a_stride_j,
    b_stride_b,
    b_stride_c,
    b_stride_j,
    b_stride_k,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Write one tile of one product; the operands are split so that TF32 units lose nothing of float32."""
    matrix = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(columns, COLUMNS)
    i = (tl.program_id(1) // tiles) * ROWS + tl.arange(0, ROWS)
    k = (tl.program_id(1) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    a_ptr += matrix // channels * a_stride_b + matrix % channels * a_stride_c
    b_ptr += matrix // channels * b_stride_b + matrix % channels * b_stride_c
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, terms, TERMS):
        j = first + tl.arange(0, TERMS)
        a = tl.load(
            a_ptr + i[:, None] * a_stride_i + j[None, :] * a_stride_j,
            mask=(i < rows)[:, None] & (j < terms)[None, :],
            other=0,
        )
        b = tl.load(
            b_ptr + j[:, None] * b_stride_j + k[None, :] * b_stride_k,
            mask=(j < terms)[:, None] & (k < columns)[None, :],
            other=0,
        )
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="tf32x3")
    out = out_ptr + matrix * rows * columns + i[:, None] * columns + k[None, :]
    tl.store(out, total, mask=(i < rows)[:, None] & (k < columns)[None, :])


def _launch_product(a: Tensor, b: Tensor, run: Callable[[Any], Any] = lambda kernel: kernel) -> Tensor:
    """Allocate the product and run the kernel; either operand may be one matrix for all."""
    batch, channels = (a if a.ndim == 4 else b).shape[:2]
    rows, terms, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    out = torch.empty((batch, channels, rows, columns), dtype=torch.float32, device=b.device)
    strides = [stride for x in (a, b) for stride in (*(x.stride()[:-2] or (0, 0)), *x.stride()[-2:])]
    if batch:
        tiles = triton.cdiv(rows, ROWS) * triton.cdiv(columns, COLUMNS)
        run(_product_kernel)[(batch * channels, tiles)](
            a, b, out, rows, terms, columns, channels, *strides, **product_constants()
        )
    return out


def product_constants() -> dict[str, int]:
    """Return the product kernel's compile-time arguments and options."""
    return {"ROWS": ROWS, "COLUMNS": COLUMNS, "TERMS": TERMS, "num_warps": 8}


@triton.jit
def _ideal_patches_kernel(
    real_ptr,  # (B, 3, S, Q) float32
    imag_ptr,  # (B, 3, S, Q) float32
    waves_ptr,  # (Q, S) float32
    mask_ptr,  # (B, M) int64
    target_ptr,  # (B, M, P) dtype
    masked,  # M
    scale0,
    scale1,
    scale2,
    shift0,
    shift1,
    shift2,
    S: tl.constexpr,
    WAVES: tl.constexpr,
    PATCH: tl.constexpr,
    NORM_PIX: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Write one target: the patch's rows of both parts times its columns of the waves, and their modulus."""
    P: tl.constexpr = PATCH * PATCH * 3
    out = tl.program_id(0).to(tl.int64)
    cell, inside = load_cell(mask_ptr, out, S, PATCH)
    used = tl.where(inside, PATCH, 0)

    # The three channels (of four, for the power of two) are stacked.
    stack, near = tl.arange(0, 4 * SIDE), tl.arange(0, SIDE)
    valid_row = (stack % SIDE < used) & (stack < 3 * SIDE)
    row = (cell // (S // PATCH)) * PATCH + stack % SIDE
    column = (cell % (S // PATCH)) * PATCH + near
    parts = (out // masked * (3 * S * WAVES) + (stack // SIDE * S + row) * WAVES)[:, None]
    real = tl.zeros((4 * SIDE, SIDE), tl.float32)
    imag = tl.zeros((4 * SIDE, SIDE), tl.float32)
    for first in range(0, WAVES, TERMS):
        wave = first + tl.arange(0, TERMS)
        valid = valid_row[:, None] & (wave < WAVES)[None, :]
        waves = tl.load(
            waves_ptr + wave[:, None] * S + column[None, :],
            mask=(wave < WAVES)[:, None] & (near < used)[None, :],
            other=0.0,
        )
        part = tl.load(real_ptr + parts + wave[None, :], mask=valid, other=0.0)
        real = tl.dot(part, waves, real, input_precision="tf32x3")
        part = tl.load(imag_ptr + parts + wave[None, :], mask=valid, other=0.0)
        imag = tl.dot(part, waves, imag, input_precision="tf32x3")

    value = tl.arange(0, BLOCK)
    place = ((value % 3) * SIDE + value // (PATCH * 3)) * SIDE + value % (PATCH * 3) // 3
    place = tl.where(value < P, place, 0)
    modulus = tl.reshape(tl.sqrt(real * real + imag * imag), (4 * SIDE * SIDE,))
    pixels = tl.gather(modulus, place, 0) / (S * S)
    target = pixels * of_channel(value, scale0, scale1, scale2) + of_channel(value, shift0, shift1, shift2)
    if NORM_PIX:
        target = normalise(target, value, P)
    store_patch(target_ptr, out, target, inside, value, P)


def launch_ideal_patches(
    images_BHWC: Tensor,
    ids_mask_BM: Tensor,
    target_BMP: Tensor,
    target: PatchTarget,
    run: Callable[[Any], Any],
) -> None:
    """Filter the images by products, and write the targets of the masked patches: one program for each."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        return _launch_product(a, b, run=run)

    real_BCSQ, imag_BCSQ, waves_QS = ideal_rows(images_BHWC, target.radius, product)
    scales, shifts = target.scales_and_shifts()
    run(_ideal_patches_kernel)[(ids_mask_BM.numel(),)](
        real_BCSQ,
        imag_BCSQ,
        waves_QS,
        ids_mask_BM.contiguous(),
        target_BMP,
        ids_mask_BM.shape[1],
        *scales,
        *shifts,
        **ideal_constants(images_BHWC.shape[1], target),
    )


def ideal_constants(size: int, target: PatchTarget) -> dict[str, int]:
    """Return the compile-time arguments and options of the kernel that writes ideal targets."""
    side = max(16, triton.next_power_of_2(target.patch))
    return {
        "S": size,
        "WAVES": 2 * ideal_frequencies(size, target.radius),
        "PATCH": target.patch,
        "NORM_PIX": target.norm_pix,
        "BLOCK": triton.next_power_of_2(target.patch**2 * 3),
        "SIDE": side,
        "TERMS": TERMS,
        "num_warps": 4 if side == 16 else 8,
    }
