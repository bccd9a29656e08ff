"""Initial weights are functions of seed, name and place, and have the distributions that were asked for.

Planted bugs that fail it: words numbered by the order of parameters
(`test_what_else_a_model_has_changes_nothing`), every row with the words of the first (`test_rows_differ`),
chunks that begin anew (`test_chunks_are_one_whole`), a cut that gathers what lies beyond at the limit
(`test_a_cut_normal_distribution`), words rounded to float32 (`test_bits_of_every_torch`).
"""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from turbomim.pipeline.stream.philox import WEIGHT, draw_u32
from turbomim.train.models import initial
from turbomim.train.models.initial import Draw, fill, initialise, normal, uniform

# float32 weights that these functions gave once
UNIFORM = ["-0x1.15cfa60000000p-4", "-0x1.b453460000000p-8", "-0x1.4b9ae60000000p-5", "-0x1.1b08980000000p-7"]
NORMAL = ["-0x1.44b0040000000p-6", "-0x1.b5fdb40000000p-10", "-0x1.5c31e40000000p-7", "-0x1.1c572e0000000p-9"]
CUT = ["-0x1.949fcc0000000p-7", "-0x1.2ad3800000000p-10", "-0x1.cf71f60000000p-8", "-0x1.83d37a0000000p-10"]


def filled(draw: Draw, *shape: int, seed: int = 3, name: str = "head.weight") -> Tensor:
    weight = torch.full(shape, math.nan)
    fill(weight, draw, seed, name)
    assert not weight.isnan().any()
    return weight


def test_bits_of_every_torch() -> None:
    """The same bits with every version of torch and numpy, and on every processor."""
    assert [float(w).hex() for w in filled(uniform(0.1), 2, 2).flatten()] == UNIFORM
    assert [float(w).hex() for w in filled(normal(0.02), 2, 2).flatten()] == NORMAL
    assert [float(w).hex() for w in filled(normal(0.02, cut=0.02), 2, 2).flatten()] == CUT


def test_weights_are_their_words() -> None:
    """Against the standard library's inverse of the normal distribution."""
    # the beginning of the SHA-256 of "a.weight"
    number = int.from_bytes(bytes.fromhex("f30bfc0e2402"), "little")
    words_RC = draw_u32(5, np.arange(4), np.full(4, number), WEIGHT, 6)
    share_RC = (words_RC.astype(np.float64) + 0.5) / 2**32
    expected = [[0.02 * NormalDist().inv_cdf(share) for share in row] for row in share_RC.tolist()]
    torch.testing.assert_close(filled(normal(0.02), 4, 6, seed=5, name="a.weight"), torch.tensor(expected))
    flat = torch.tensor(0.2 * share_RC - 0.1).float().view(4, 1, 2, 3)
    assert torch.equal(filled(uniform(0.1), 4, 1, 2, 3, seed=5, name="a.weight"), flat)


def test_what_else_a_model_has_changes_nothing() -> None:
    small, large = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    initialise(small, {"0.weight": normal(1)}, 7)
    initialise(large, {"1.weight": normal(1), "0.bias": np.ones_like, "0.weight": normal(1)}, 7)
    weights = large.state_dict()
    assert torch.equal(small.state_dict()["0.weight"], weights["0.weight"])
    assert torch.equal(weights["0.bias"], torch.ones(4))
    with pytest.raises(KeyError, match=r"2\.weight"):
        initialise(small, {"2.weight": normal(1)}, 7)


def test_rows_differ() -> None:
    weight = filled(normal(1), 200, 300)
    assert len(set(weight.flatten().tolist())) > 0.99 * 60_000
    for other in (
        filled(normal(1), 200, 300, seed=4),
        filled(normal(1), 200, 300, name="head.bias"),
        weight.roll(1, 0),
        weight.roll(1, 1),
    ):
        both = torch.stack([weight.flatten(), other.flatten()])
        # four deviations of the correlation of 60,000 independent pairs
        assert abs(float(both.corrcoef()[0, 1])) < 4 / 60_000**0.5


def test_chunks_are_one_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled(uniform(1), 11, 7)
    for chunk in (1, 7, 20):
        monkeypatch.setattr(initial, "_CHUNK", chunk)
        assert torch.equal(filled(uniform(1), 11, 7), whole)


def test_a_uniform_distribution() -> None:
    weight = filled(uniform(0.3), 400, 250).double()
    assert 0.2999 < float(weight.abs().max()) <= 0.3
    assert abs(float(weight.mean())) < 4 * 0.3 / 3**0.5 / 100_000**0.5
    assert float(weight.std()) == pytest.approx(0.3 / 3**0.5, rel=0.01)


@pytest.mark.parametrize("cut", [math.inf, 2.0, 1.0])
def test_a_cut_normal_distribution(cut: float) -> None:
    weight = filled(normal(0.5, cut=cut * 0.5), 400, 250).double().flatten()
    assert float(weight.abs().max()) <= cut * 0.5
    below = NormalDist().cdf(-cut) if cut < math.inf else 0.0
    for share in (0.001, 0.1, 0.3, 0.5, 0.8, 0.999):
        value = 0.5 * NormalDist().inv_cdf(below + share * (1 - 2 * below))
        found = float((weight < value).double().mean())
        assert found == pytest.approx(share, abs=4 * (share * (1 - share) / 100_000) ** 0.5), share


def test_other_dtypes_and_no_storage() -> None:
    half = torch.empty(5, 6, dtype=torch.bfloat16)
    fill(half, normal(1), 3, "head.weight")
    assert torch.equal(half, filled(normal(1), 5, 6).bfloat16())
    shape = torch.empty(10**6, 10**6, device="meta")
    fill(shape, normal(1), 3, "head.weight")


def test_a_tensor_that_wants_its_gradient_is_filled() -> None:
    param = nn.Parameter(torch.zeros(3, 3))
    fill(param, normal(1), 3, "head.weight")
    assert param.requires_grad and param.is_leaf and torch.equal(param.detach(), filled(normal(1), 3, 3))
