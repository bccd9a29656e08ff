"""Philox on the host: published vectors, and the layout of the counter."""

import numpy as np
import pytest

from turbomim.pipeline.stream.philox import CROP, FLIP, MASK, ORDER, draw_u32, philox4x32
from turbomim.pipeline.system.errors import UserError

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
VECTORS = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS, ids=["zeros", "ones", "pi"])
def test_random123_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    out = philox4x32(np.array(counter, np.uint32), key)
    assert out.dtype == np.uint32
    assert out.tolist() == list(words)


def test_vectorised_over_leading_axes() -> None:
    counters = np.array([vector[0] for vector in VECTORS for _ in range(2)], np.uint32).reshape(3, 2, 4)
    out = philox4x32(counters, (7, 8))
    for place in np.ndindex(3, 2):
        assert np.array_equal(out[place], philox4x32(counters[place], (7, 8)))


@pytest.mark.parametrize("purpose", [CROP, FLIP, MASK, ORDER])
def test_draw_lays_the_counter_out_as_stated(purpose: int) -> None:
    seed, epoch, sample = (5 << 32) + 9, 2**32 - 1, 2**48 - 3
    words = draw_u32(seed, np.array([epoch]), np.array([sample]), purpose, 9)
    expected = [
        philox4x32(
            np.array([block, sample & 0xFFFFFFFF, (sample >> 32) | (purpose << 16), epoch], np.uint32), (9, 5)
        )
        for block in range(3)
    ]
    assert words.shape == (1, 9)
    assert words[0].tolist() == np.concatenate(expected)[:9].tolist()


def test_purposes_are_numbered_as_the_kernels_number_them() -> None:
    assert (CROP, FLIP, MASK, ORDER) == (0, 1, 2, 3)


def test_a_draw_belongs_to_its_sample() -> None:
    epochs, ids = np.array([0, 3, 3, 9]), np.array([5, 5, 2**40, 0])
    together = draw_u32(1, epochs, ids, MASK, 5)
    alone = [draw_u32(1, epochs[i : i + 1], ids[i : i + 1], MASK, 5) for i in (3, 0, 2, 1)]
    assert np.array_equal(together[[3, 0, 2, 1]], np.concatenate(alone))
    assert len(np.unique(together)) == together.size


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UserError, match=r"seed = .*: must be 0 to 2\^63 - 1"):
        draw_u32(seed, np.array([0]), np.array([0]), CROP, 1)
