"""A patch's values inside a kernel: loaded, normalised and stored in (row, column, channel) order.

`value` (BLOCK,) are places in the patch, of which those under P = p * p * 3 are used.
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_cell(ids_ptr, row, S: tl.constexpr, PATCH: tl.constexpr):
    """Return a patch's row-major number, and whether the image has it."""
    cell = tl.load(ids_ptr + row)
    return cell, (cell >= 0) & (cell < (S // PATCH) * (S // PATCH))


@triton.jit
def load_patch(image_ptr, cell, inside, value, S: tl.constexpr, PATCH: tl.constexpr):
    """Return the patch's values 0..255, float32; nothing is read unless inside."""
    corner = (cell // (S // PATCH)) * (PATCH * S * 3) + (cell % (S // PATCH)) * (PATCH * 3)
    offset = (value // (PATCH * 3)) * (S * 3) + value % (PATCH * 3)
    valid = value < tl.where(inside, PATCH * PATCH * 3, 0)
    return tl.load(image_ptr + corner + offset, mask=valid, other=0).to(tl.float32)


@triton.jit
def single(number):
    """Return a number that was passed to the kernel in float32.

    Triton passes Python's floats so, and torch's compiler in float64, which would make float64 of all that
    they are multiplied with (pytorch #190340).
    """
    return tl.cast(number, tl.float32)


@triton.jit
def of_channel(value, number0, number1, number2):
    """Return each value's own channel's number, float32."""
    channel = value % 3
    return tl.where(channel == 0, single(number0), tl.where(channel == 1, single(number1), single(number2)))


@triton.jit
def normalise(target, value, P: tl.constexpr):
    """Subtract the patch's mean, and divide by the root of its unbiased variance + 1e-6."""
    mean = tl.sum(tl.where(value < P, target, 0.0)) / P
    centred = tl.where(value < P, target - mean, 0.0)
    variance = tl.sum(centred * centred) / (P - 1)
    return centred / tl.sqrt(variance + 1e-6)


@triton.jit
def store_patch(out_ptr, row, result, inside, value, P: tl.constexpr):
    """Write one row of an output (..., P), in its type; NaN if the patch is outside the image."""
    result = tl.where(inside, result, float("nan"))
    tl.store(out_ptr + row * P + value, result.to(out_ptr.dtype.element_ty), mask=value < P)
