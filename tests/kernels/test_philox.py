"""Philox in torch: Random123's published vectors, and the host's words.

Which test fails for which mistake (each was made once, on purpose):
a round too few, a lost carry: test_random123_known_answers;
the purpose in other bits: test_words_equal_the_host.
"""

import numpy as np
import pytest
import torch

from turbomim.kernels.philox import PURPOSE_MASK, draw_u32_ref, philox4x32_ref
from turbomim.pipeline.stream import philox as host

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
VECTORS = [
    ((0,) * 4, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, 0x299F31D0_A4093822, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "seed", "words"), VECTORS, ids=["zeros", "ones", "pi"])
def test_random123_known_answers(counter: tuple[int, ...], seed: int, words: tuple[int, ...]) -> None:
    c0, c1, c2, c3 = torch.tensor(counter).unbind()
    assert tuple(int(word) for word in philox4x32_ref(seed, (c0, c1, c2, c3))) == words


def independent_words(seed: int, epoch: int, sample: int, purpose: int, words: int) -> list[int]:
    """Philox in Python integers."""
    result: list[int] = []
    for block in range((words + 3) // 4):
        x = [block, sample % 2**32, sample // 2**32 + purpose * 2**16, epoch]
        key = [seed % 2**32, seed // 2**32]
        for _ in range(10):
            a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
            x = [(b // 2**32) ^ x[1] ^ key[0], b % 2**32, (a // 2**32) ^ x[3] ^ key[1], a % 2**32]
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        result += x
    return result[:words]


@pytest.mark.parametrize("words", [1, 4, 7, 196])
@pytest.mark.parametrize("seed", [0, 7, 2**32, 2**63 - 1])
def test_words_equal_the_host(seed: int, words: int) -> None:
    epochs, ids = [0, 1, 2**31, 2**32 - 1], [0, 2**32 - 1, 2**31, 2**48 - 1]
    got = draw_u32_ref(seed, torch.tensor(epochs), torch.tensor(ids), PURPOSE_MASK, words)
    assert got.dtype == torch.int64
    expected = [independent_words(seed, e, i, PURPOSE_MASK, words) for e, i in zip(epochs, ids, strict=True)]
    assert got.tolist() == expected
    on_host = host.draw_u32(seed, np.array(epochs), np.array(ids), host.MASK, words)
    assert np.array_equal(got.numpy(), on_host)


def test_the_purpose_is_the_hosts() -> None:
    assert PURPOSE_MASK == host.MASK


def test_compiled_words_equal_eager() -> None:
    epochs, ids = torch.tensor([3, 2**32 - 1]), torch.tensor([2**48 - 1, 5])
    compiled = torch.compile(draw_u32_ref, fullgraph=True)
    assert torch.equal(compiled(2**62 + 9, epochs, ids, 1, 33), draw_u32_ref(2**62 + 9, epochs, ids, 1, 33))
