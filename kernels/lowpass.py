"""PixMIM's low-frequency images by a Gaussian blur: few and near taps.  The published filter is in `ideal`.

Suffixes: B batch, C channels, H W pixels (H == W == S).
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from turbomim.kernels.patch_values import single

# The kernel's taps add up to this: their small halves stay above float16's smallest numbers, and 255 times
# their sum below its largest.
_TAP_SUM = 64


def gaussian_extent(size: int, radius: float) -> tuple[float, int]:
    """Return the blur's standard deviation in pixels, and its reach: the pixels it reads on each side.

    The reach is at least four standard deviations; the kernel has 2 * reach + 1 taps.
    Raises ValueError if the blur reaches past a reflected image.
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}: choose a positive number of cycles per image")
    sigma = size / (2 * math.pi * radius)
    reach = math.ceil(4 * sigma)
    if reach >= size:
        smallest = 4 / (2 * math.pi * (1 - 1 / size))
        raise ValueError(
            f"radius is {radius}: a {size} pixel image needs more than {smallest:.2f} cycles per image"
        )
    return sigma, reach


def gaussian_ref(images_BHWC: Tensor, radius: float) -> Tensor:
    """Blur each channel with a Gaussian whose frequency response has the standard deviation `radius`.

    images (B, S, S, 3) uint8; radius in cycles per image.  Returns (B, S, S, 3) float32 in 0..1 units.
    The border is reflected and the edge pixel not repeated, as in torchvision's gaussian_blur.
    Raises ValueError if the radius is too small for the image.
    """
    # The taps depend on the size, so a traced size becomes a constant here.
    size = int(images_BHWC.shape[1])
    sigma, reach = gaussian_extent(size, radius)
    taps = [math.exp(-0.5 * (tap / sigma) ** 2) for tap in range(-reach, reach + 1)]
    weights = [tap / math.fsum(taps) for tap in taps]
    padded_BHWC = _reflect(_reflect(images_BHWC, reach, 1), reach, 2)
    rows_BHWC = _weighted_sum(padded_BHWC, [weight / 255 for weight in weights], 1, size)
    return _weighted_sum(rows_BHWC, weights, 2, size)


def _reflect(x: Tensor, reach: int, dim: int) -> Tensor:
    """Extend one dimension on both sides by its mirror image, without repeating the edge."""
    if reach == 0:
        return x
    before = x.narrow(dim, 1, reach).flip(dim)
    after = x.narrow(dim, x.shape[dim] - 1 - reach, reach).flip(dim)
    return torch.cat([before, x, after], dim)


def _weighted_sum(x: Tensor, weights: list[float], dim: int, size: int) -> Tensor:
    """Correlate one dimension with the weights, in float32."""
    total = x.narrow(dim, 0, size).float() * weights[0]
    for tap, weight in enumerate(weights[1:], start=1):
        total = total + x.narrow(dim, tap, size).float() * weight
    return total


def blur_scalars(size: int, radius: float) -> tuple[float, float, float]:
    """Return the taps' exponent and scale that `blur_patch` needs, and `untap`, which undoes two scales."""
    sigma, reach = gaussian_extent(size, radius)
    exponent = -0.5 / sigma**2
    total = math.fsum(math.exp(exponent * tap**2) for tap in range(-reach, reach + 1))
    return exponent, _TAP_SUM / total, 1 / _TAP_SUM**2


@triton.jit
def blur_patch(
    image_ptr,
    cell,
    inside,
    value,
    tap_exponent,
    tap_scale,
    S: tl.constexpr,
    PATCH: tl.constexpr,
    REACH: tl.constexpr,
    SIDE: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Return the blurred patch's values, in (row, column, channel) order.

    cell is the patch's row-major number, and nothing is read unless inside; value (BLOCK,) are places in the
    patch; SIDE and WINDOW are powers of two, at least PATCH and PATCH + 2 * REACH.
    The three channels (of four, for the power of two) are stacked, so that one product with the banded matrix
    of the taps blurs along the columns and another along the rows.
    The other way, a shifted load for every tap, was compiled too: for a patch of 16 and a reach of 4 each of
    its threads loads 650 times and holds 128 registers; here 12 times and 64 (sm_80).
    The result is as many times too large as `untap` of `blur_scalars` is small.
    """
    near = tl.arange(0, WINDOW)
    tap = near[:, None] - tl.arange(0, SIDE)[None, :] - REACH
    weight = tl.exp((tap * tap).to(tl.float32) * single(tap_exponent)) * single(tap_scale)
    band = tl.where((tap >= -REACH) & (tap <= REACH), weight, 0.0)
    band_high, band_low = _split(band)  # (WINDOW, SIDE)

    stack = tl.arange(0, 4 * WINDOW)
    row = _mirror((cell // (S // PATCH)).to(tl.int32) * PATCH - REACH + stack % WINDOW, S)
    column = _mirror((cell % (S // PATCH)).to(tl.int32) * PATCH - REACH + near, S)
    used = tl.where(inside, PATCH + 2 * REACH, 0)
    valid = ((stack % WINDOW < used) & (stack < 3 * WINDOW))[:, None] & (near < used)[None, :]
    window_ptr = image_ptr + (row * (S * 3) + stack // WINDOW)[:, None] + (column * 3)[None, :]

    # Bytes are exact in float16.
    window = tl.load(window_ptr, mask=valid, other=0).to(tl.float16)  # (channel, row | column)
    half = tl.dot(window, band_high)
    half = tl.dot(window, band_low, half)
    half = tl.reshape(tl.permute(tl.reshape(half, (4, WINDOW, SIDE)), (0, 2, 1)), (4 * SIDE, WINDOW))
    half_high, half_low = _split(half)  # (channel, column | row)
    blurred = tl.dot(half_high, band_high)
    blurred = tl.dot(half_high, band_low, blurred)
    blurred = tl.dot(half_low, band_high, blurred)

    place = ((value % 3) * SIDE + value % (PATCH * 3) // 3) * SIDE + value // (PATCH * 3)
    place = tl.where(value < PATCH * PATCH * 3, place, 0)
    return tl.gather(tl.reshape(blurred, (4 * SIDE * SIDE,)), place, 0)


@triton.jit
def _mirror(position, S: tl.constexpr):
    """Reflect positions at both borders; the edge pixel is not repeated."""
    return (S - 1) - tl.abs((S - 1) - tl.abs(position))


@triton.jit
def _split(x):
    """Return two float16 tensors that add up to x, to 22 bits: tensor cores multiply them without loss."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)
