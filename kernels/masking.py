"""Random masking: which units of a sample stay visible, as a pure function of (seed, epoch, sample id).

Suffixes: B batch, K kept, M masked.  Mask polarity: 1 = removed, 0 = kept.
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from turbomim.kernels.philox import PURPOSE_MASK, draw_u32_ref, philox_words
from turbomim.kernels.source import SOURCE

# A sort key is noise << 31 | unit: equal noise is ordered by unit, and the key stays a positive int64.
_UNIT_BITS = 31

# Rectangles that `block_masking` draws, and the bits of a patch in its sort key.
_BLOCKS = 32
_PATCH_BITS = 24

# Units ranked by one program, and Philox blocks (of four units) they are compared with at a time.  A thread
# draws the noise of TILE * CHUNK / (32 * NUM_WARPS) units: with chunks of 16 it needs more instructions and
# registers than with 8.
TILE = 64
CHUNK = 8
NUM_WARPS = 4


def random_masking(
    seed: int, epochs_B: Tensor, ids_B: Tensor, units: int, keep: int
) -> tuple[Tensor, Tensor]:
    """Shuffle the units of each sample; the first `keep` stay visible, the others are removed.

    epochs (B,) and ids (B,) int64, 0 <= epoch < 2**32, 0 <= id < 2**48; 0 <= seed < 2**63.
    Returns ids_keep (B, keep) and ids_mask (B, units - keep), int64, both in shuffled order.
    A unit is one patch, or several: see `patches_of_units`.
    Raises ValueError if the shapes, dtypes, devices or numbers do not fit.
    Source: arXiv:2111.06377 sec. 3 and MAE's random_masking; here the noise is a 32-bit integer that belongs
    to the sample, and equal noise is ordered by unit number.
    """
    if not 0 < keep < units:
        raise ValueError(f"keep is {keep}: keep at least 1 and fewer than all {units} units of a sample")
    _check(seed, epochs_B, ids_B)
    ids_keep_BK, ids_mask_BM = random_masking_op(seed, epochs_B, ids_B, units, keep, SOURCE)
    return ids_keep_BK, ids_mask_BM


def _check(seed: int, epochs_B: Tensor, ids_B: Tensor) -> None:
    """Raise ValueError if these name no samples."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}: choose 0 <= seed < 2**63")
    if ids_B.ndim != 1 or epochs_B.shape != ids_B.shape:
        raise ValueError(
            f"epochs {tuple(epochs_B.shape)} and ids {tuple(ids_B.shape)}: give one of each a sample"
        )
    if ids_B.dtype != torch.int64 or epochs_B.dtype != torch.int64:
        raise ValueError(f"epochs are {epochs_B.dtype} and ids {ids_B.dtype}: give torch.int64")
    if ids_B.device != epochs_B.device:
        raise ValueError(f"epochs are on {epochs_B.device} and ids on {ids_B.device}: move one")


def patches_of_units(ids: Tensor, grid: int, unit: int) -> Tensor:
    """Replace each mask unit by its patches, column by column as LSMAE does.

    ids (B, K) int64, row-major numbers of the units of `unit` x `unit` patches in an image of grid x grid
    patches.  Returns (B, K * unit * unit) int64, row-major patch numbers.
    Raises ValueError if the units do not tile the image.
    Source: long_seq_mae (2 x 2); SimMIM (32 pixels: 2 x 2 patches of 16, 8 x 8 of 4).
    """
    if unit < 1 or grid % unit:
        raise ValueError(f"unit is {unit}: choose a divisor of the image's {grid} patches a side")
    near = torch.arange(unit, device=ids.device)
    inner = near[None, :] * grid + near[:, None]  # (column, row)
    corner = ids // (grid // unit) * (grid * unit) + ids % (grid // unit) * unit
    return (corner[..., None, None] + inner).flatten(1)


def complementary_masks(ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Make four masks of one that keeps a quarter: each keeps the next quarter of the same permutation.

    ids_keep (B, K) and ids_mask (B, 3K) int64.  Returns (4B, K) and (4B, 3K) int64: the given masks, then the
    samples again with their second quarters, and so on, so that every patch of a sample is kept once.
    Raises ValueError if it keeps no quarter.
    Source: FastConvMAE.
    """
    keep = ids_keep_BK.shape[1]
    if ids_mask_BM.shape[1] != 3 * keep:
        raise ValueError(f"{keep} are kept and {ids_mask_BM.shape[1]} removed: keep a quarter")
    order_BN = torch.cat([ids_keep_BK, ids_mask_BM], dim=1)
    orders_BN = torch.cat([order_BN.roll(-quarter * keep, dims=1) for quarter in range(4)])
    return orders_BN[:, :keep].contiguous(), orders_BN[:, keep:].contiguous()


def block_masking(seed: int, epochs_B: Tensor, ids_B: Tensor, grid: int, keep: int) -> tuple[Tensor, Tensor]:
    """Remove rectangles of patches until `keep` of the grid x grid patches of each sample are left.

    epochs, ids and seed as in `random_masking`; returns the same, ids_keep (B, keep) and ids_mask int64.
    A rectangle has one of all sizes of 16 patches (of 1, if fewer go) to as many as are removed, height /
    width from 0.3 to 1 / 0.3, and lies anywhere, each equally likely.  Patches go in the order of the first
    rectangle that covers them, in one by rows, so the last may go in part.  What 32 rectangles leave goes at
    random.
    Raises ValueError if the shapes, dtypes, devices or numbers do not fit.
    Source: arXiv:2106.08254 sec. 2.3; there the number removed varies.
    """
    patches = grid * grid
    if not 0 < keep < patches:
        raise ValueError(f"keep is {keep}: keep at least 1 and fewer than all {patches} patches of a sample")
    _check(seed, epochs_B, ids_B)
    words = draw_u32_ref(seed, epochs_B, ids_B, PURPOSE_MASK, 3 * _BLOCKS + patches)
    first_BN = _first_rectangle(words[:, : 3 * _BLOCKS].reshape(-1, _BLOCKS, 3), grid, patches - keep)
    noise_BN = torch.where(first_BN == _BLOCKS, words[:, 3 * _BLOCKS :], 0)
    patch_N = torch.arange(patches, device=ids_B.device)
    order_BN = (((first_BN << 32) | noise_BN) << _PATCH_BITS | patch_N).argsort(dim=1)
    return order_BN[:, patches - keep :].contiguous(), order_BN[:, : patches - keep].contiguous()


def _first_rectangle(words_BR3: Tensor, grid: int, most: int) -> Tensor:
    """Return the number (B, N) int64 of the first rectangle that covers each patch, or R if none does.

    words (B, R, 3): for each rectangle, what draws its shape, top and left.  All is integers, so that every
    device draws the same: a 32-bit word times n, without its low 32 bits, is one of 0 ... n - 1.
    """
    shape, y, x = words_BR3.unbind(2)
    side = torch.arange(grid, device=words_BR3.device)
    height, width = (side + 1)[:, None], (side + 1)[None, :]
    area = height * width
    allowed = (area >= (16 if most >= 16 else 1)) & (area <= most)
    allowed &= (3 * width <= 10 * height) & (3 * height <= 10 * width)
    numbered = allowed.flatten().cumsum(0)
    cell = torch.searchsorted(numbered, (shape * numbered[-1] >> 32) + 1)
    height, width = cell // grid + 1, cell % grid + 1
    top, left = y * (grid - height + 1) >> 32, x * (grid - width + 1) >> 32
    row, column = side - top[..., None], side - left[..., None]
    rows = (row >= 0) & (row < height[..., None])
    columns = (column >= 0) & (column < width[..., None])
    number = torch.arange(_BLOCKS, dtype=torch.uint8, device=side.device)[:, None, None]
    covered_by = torch.where(rows[..., :, None] & columns[..., None, :], number, _BLOCKS)
    return covered_by.amin(1).flatten(1).long()


def random_masking_ref(
    seed: int, epochs_B: Tensor, ids_B: Tensor, units: int, keep: int
) -> tuple[Tensor, Tensor]:
    """Do what `random_masking` does, in plain torch on any device."""
    noise_BN = draw_u32_ref(seed, epochs_B, ids_B, PURPOSE_MASK, units)
    unit_N = torch.arange(units, dtype=torch.int64, device=ids_B.device)
    shuffled_BN = ((noise_BN << _UNIT_BITS) | unit_N).argsort(dim=1)
    # An op's outputs may not share storage, and contiguous() copies nothing of a batch of one.
    halves = shuffled_BN[:, :keep], shuffled_BN[:, keep:]
    ids_keep_BK, ids_mask_BM = (half.clone(memory_format=torch.contiguous_format) for half in halves)
    return ids_keep_BK, ids_mask_BM


@triton.jit
def _random_masking_kernel(
    epochs_ptr,  # (B,) int64
    ids_ptr,  # (B,) int64
    keep_ptr,  # (B, K) int64
    mask_ptr,  # (B, M) int64
    seed,
    UNITS: tl.constexpr,
    KEEP: tl.constexpr,
    PURPOSE: tl.constexpr,
    UNIT_BITS: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Rank TILE units of one sample among all its units, and store each at its rank.

    Counting smaller keys equals sorting, since no two keys are equal, and needs no power of two.
    """
    b = tl.program_id(0).to(tl.int64)
    epoch = tl.load(epochs_ptr + b)
    sample = tl.load(ids_ptr + b)

    unit = tl.program_id(1) * TILE + tl.arange(0, TILE)
    w0, w1, w2, w3 = philox_words(seed, epoch, sample, PURPOSE, unit // 4)
    word = unit % 4
    noise = tl.where(word == 0, w0, tl.where(word == 1, w1, tl.where(word == 2, w2, w3)))
    key = (noise.to(tl.int64) << UNIT_BITS) | unit

    smaller = tl.zeros((TILE, CHUNK), tl.int32)
    for first in range(0, (UNITS + 3) // 4, CHUNK):
        block = first + tl.arange(0, CHUNK)
        words = philox_words(seed, epoch, sample, PURPOSE, block)
        for lane in tl.static_range(4):
            other = block * 4 + lane
            other_key = (words[lane].to(tl.int64) << UNIT_BITS) | other
            smaller += ((other_key[None, :] < key[:, None]) & (other < UNITS)[None, :]).to(tl.int32)
    rank = tl.sum(smaller, axis=1)

    valid = unit < UNITS
    kept = valid & (rank < KEEP)
    masked = valid & (rank >= KEEP)
    tl.store(keep_ptr + b * KEEP + rank, unit.to(tl.int64), mask=kept)
    tl.store(mask_ptr + b * (UNITS - KEEP) + (rank - KEEP), unit.to(tl.int64), mask=masked)


def _launch_random_masking(
    seed: int,
    epochs_B: Tensor,
    ids_B: Tensor,
    units: int,
    keep: int,
    run: Callable[[Any], Any] = lambda kernel: kernel,
) -> tuple[Tensor, Tensor]:
    """Allocate the outputs and run the kernel: one program for every TILE units of every sample."""
    batch = ids_B.shape[0]
    ids_keep_BK = torch.empty((batch, keep), dtype=torch.int64, device=ids_B.device)
    ids_mask_BM = torch.empty((batch, units - keep), dtype=torch.int64, device=ids_B.device)
    if batch:
        run(_random_masking_kernel)[(batch, triton.cdiv(units, TILE))](
            epochs_B.contiguous(),
            ids_B.contiguous(),
            ids_keep_BK,
            ids_mask_BM,
            seed,
            **kernel_constants(units, keep),
        )
    return ids_keep_BK, ids_mask_BM


def kernel_constants(units: int, keep: int) -> dict[str, int]:
    """Return the kernel's compile-time arguments and options."""
    return {
        "UNITS": units,
        "KEEP": keep,
        "PURPOSE": PURPOSE_MASK,
        "UNIT_BITS": _UNIT_BITS,
        "TILE": TILE,
        "CHUNK": CHUNK,
        "num_warps": NUM_WARPS,
    }


@triton_op("turbomim::random_masking", mutates_args={})
def random_masking_op(
    seed: int, epochs_B: Tensor, ids_B: Tensor, units: int, keep: int, source: str
) -> tuple[Tensor, Tensor]:
    """Run the kernel on a GPU and the reference elsewhere; `random_masking` checks the arguments."""
    if not ids_B.is_cuda:
        return random_masking_ref(seed, epochs_B, ids_B, units, keep)
    return _launch_random_masking(seed, epochs_B, ids_B, units, keep, run=wrap_triton)
