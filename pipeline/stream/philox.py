"""Philox4x32-10 on the host: random words that are a pure function of (seed, epoch, sample id, purpose).

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants from Random123.
Shape suffixes: B samples.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.stream.seeds import check_seed

CROP: Final = 0
FLIP: Final = 1
MASK: Final = 2
ORDER: Final = 3
# 4 and 8 are the device's: drop path, and the noise of erasing.  Of fine-tuning: an image's own changes, and
# what a micro-batch draws for its images together
AUGMENT: Final = 5
MIX: Final = 6
# of initial weights: there an id is a parameter's, and an epoch is a row of it
WEIGHT: Final = 7

EPOCHS: Final = 2**32
IDS: Final = 2**48

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Encrypt each counter with ten Philox rounds.

    counter (..., 4) uint32; key two 32-bit words.  Returns (..., 4) uint32.
    """
    x0, x1, x2, x3 = (counter[..., i].astype(np.uint64) for i in range(4))
    key0, key1 = key
    for _ in range(_ROUNDS):
        product0 = x0 * _MULTIPLIERS[0]
        product1 = x2 * _MULTIPLIERS[1]
        x0 = (product1 >> _HALF) ^ x1 ^ np.uint64(key0)
        x2 = (product0 >> _HALF) ^ x3 ^ np.uint64(key1)
        x1 = product1 & _LOW
        x3 = product0 & _LOW
        key0 = (key0 + _WEYL[0]) & 0xFFFFFFFF
        key1 = (key1 + _WEYL[1]) & 0xFFFFFFFF
    words = np.empty(counter.shape, np.uint32)
    for i, x in enumerate((x0, x1, x2, x3)):
        words[..., i] = x
    return words


def draw_u32(
    seed: int, epochs_B: NDArray[np.int64], ids_B: NDArray[np.int64], purpose: int, words: int
) -> NDArray[np.uint32]:
    """Return the first `words` random words of each sample for one purpose.

    epochs (B,) int64 in [0, 2**32); ids (B,) int64 in [0, 2**48); purpose CROP, FLIP, MASK, ORDER,
    AUGMENT, MIX or WEIGHT.
    Returns (B, words) uint32; words 4k to 4k+3 come from counter (k, id low, id high | purpose << 16, epoch).
    Raises UsageError if the seed is outside [0, 2**63).
    """
    check_seed("seed", seed)
    blocks = -(-words // 4)
    counter_BK4 = np.empty((len(ids_B), blocks, 4), np.uint32)
    counter_BK4[..., 0] = np.arange(blocks)
    counter_BK4[..., 1] = (ids_B & 0xFFFFFFFF)[:, None]
    counter_BK4[..., 2] = (ids_B >> 32 | purpose << 16)[:, None]
    counter_BK4[..., 3] = epochs_B[:, None]
    words_BK4 = philox4x32(counter_BK4, (seed & 0xFFFFFFFF, seed >> 32))
    return words_BK4.reshape(len(ids_B), 4 * blocks)[:, :words]
