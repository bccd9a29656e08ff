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

# A sort key is noise << 31 | unit: equal noise is ordered by unit, and the key stays a positive int64.
_UNIT_BITS = 31

# Units ranked by one program, and Philox blocks (of four units) they are compared with at a time.
TILE = 64
CHUNK = 32
NUM_WARPS = 4


def random_masking(
    seed: int, epochs_B: Tensor, ids_B: Tensor, units: int, keep: int
) -> tuple[Tensor, Tensor]:
    """Shuffle the units of each sample; the first `keep` stay visible, the others are removed.

    epochs (B,) and ids (B,) int64, 0 <= epoch < 2**32, 0 <= id < 2**48; 0 <= seed < 2**63.
    Returns ids_keep (B, keep) and ids_mask (B, units - keep), int64, both in shuffled order.
    Raises ValueError if the shapes, dtypes or numbers do not fit.
    Source: arXiv:2111.06377 sec. 3 and MAE's random_masking; here the noise is a 32-bit integer that belongs
    to the sample, and equal noise is ordered by unit number.
    """
    if not 0 < keep < units:
        raise ValueError(f"keep is {keep}: keep at least 1 and fewer than all {units} units of a sample")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}: choose 0 <= seed < 2**63")
    if ids_B.ndim != 1 or epochs_B.shape != ids_B.shape:
        raise ValueError(
            f"epochs {tuple(epochs_B.shape)} and ids {tuple(ids_B.shape)}: give one of each a sample"
        )
    if ids_B.dtype != torch.int64 or epochs_B.dtype != torch.int64:
        raise ValueError(f"epochs are {epochs_B.dtype} and ids {ids_B.dtype}: give torch.int64")
    ids_keep_BK, ids_mask_BM = random_masking_op(seed, epochs_B, ids_B, units, keep)
    return ids_keep_BK, ids_mask_BM


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
    seed: int, epochs_B: Tensor, ids_B: Tensor, units: int, keep: int
) -> tuple[Tensor, Tensor]:
    """Run the kernel on a GPU and the reference elsewhere; `random_masking` checks the arguments."""
    if not ids_B.is_cuda:
        return random_masking_ref(seed, epochs_B, ids_B, units, keep)
    return _launch_random_masking(seed, epochs_B, ids_B, units, keep, run=wrap_triton)
