"""Philox4x32-10: the random words of a sample, as integers of torch or inside a Triton kernel.

A word is a pure function of (seed, epoch, sample id, purpose, word number): there is no state to save.
Suffix: B batch.
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# the host has the others: crops, flips, order, augmentation, initial weights
PURPOSE_MASK = 2
PURPOSE_DROP_PATH = 4
PURPOSE_ERASE = 8

_LOW = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def draw_u32_ref(seed: int, epochs_B: Tensor, ids_B: Tensor, purpose: int, words: int) -> Tensor:
    """Return the first random words of each sample.

    epochs (B,) and ids (B,) int64, on any device.  Returns (B, words) int64, values in [0, 2**32), on that
    device. Word n is word n % 4 of the Philox block with key = seed (two 32-bit halves, low first) and
    counter = (n // 4, id's low 32 bits, id's high 16 bits | purpose << 16, epoch).
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    blocks = torch.arange((words + 3) // 4, dtype=torch.int64, device=ids_B.device)[None, :]
    blocks = blocks.expand(ids_B.shape[0], -1)
    return philox_words_ref(seed, epochs_B[:, None], ids_B[:, None], purpose, blocks).flatten(1)[:, :words]


def philox_words_ref(seed: int, epochs: Tensor, ids: Tensor, purpose: int, blocks: Tensor) -> Tensor:
    """Return the four words of Philox blocks of samples, (..., 4) int64.

    epochs, ids and blocks: int64, that broadcast; words 4 n to 4 n + 3 of a sample are those of its block n.
    """
    counter = (blocks, ids & _LOW, (ids >> 32) | (purpose << 16), epochs & _LOW)
    return torch.stack(philox4x32_ref(seed, counter), dim=-1)


def philox4x32_ref(
    seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of one Philox4x32-10 block.

    counter: four int64 tensors that broadcast.  Returns four int64 tensors.  All values are in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    key_low, key_high = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key_low, low1, high0 ^ c3 ^ key_high, low0
        key_low, key_high = (key_low + _WEYL[0]) & _LOW, (key_high + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low 32 bits of a * b, for 32-bit values held in int64."""
    # 16 bits of b at a time: no product passes 2**48, so int64 never overflows.
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _LOW


@triton.jit
def philox_words(seed, epoch, sample, purpose, block):
    """Return the four uint32 words of each Philox block; bit-identical to `draw_u32_ref`.

    seed, epoch and sample are integer scalars, purpose a number, block an int32 tensor of block numbers.
    """
    zero = block * 0
    c1 = zero + (sample & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True)
    c2 = zero + ((sample >> 32) | (purpose << 16)).to(tl.uint32).to(tl.int32, bitcast=True)
    c3 = zero + (epoch & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True)
    return tl.philox(seed, block, c1, c2, c3)
