"""`random_masking` away from a GPU: the reference, the op and the compiled op.

Which test fails for which mistake (each was made once, on purpose):
descending order: test_order_is_ascending_noise; ties by anything but the unit's number:
test_equal_noise_is_ordered_by_unit; noise that leaves out the epoch: test_masks_differ; visible units sorted:
test_visible_units_are_shuffled; outputs that share storage for a batch of one: test_masks_differ.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from turbomim.kernels import masking
from turbomim.kernels.masking import random_masking, random_masking_op
from turbomim.pipeline import philox as host

SHAPES = [(1, 196, 49), (3, 36, 9), (3, 49, 12), (2, 5, 4), (1, 2, 1), (2, 784, 196)]


def samples(batch: int) -> tuple[Tensor, Tensor]:
    return torch.arange(batch) * 3, torch.arange(batch) * 2**33 + 11


@pytest.mark.parametrize(("batch", "units", "keep"), SHAPES)
def test_order_is_ascending_noise(batch: int, units: int, keep: int) -> None:
    epochs, ids = samples(batch)
    ids_keep, ids_mask = random_masking(12345, epochs, ids, units, keep)
    assert ids_keep.dtype == ids_mask.dtype == torch.int64
    noise = host.draw_u32(12345, epochs.numpy(), ids.numpy(), host.MASK, units)
    shuffled = np.argsort(noise, axis=1, kind="stable")
    assert np.array_equal(ids_keep.numpy(), shuffled[:, :keep])
    assert np.array_equal(ids_mask.numpy(), shuffled[:, keep:])


def test_equal_noise_is_ordered_by_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.tensor([[7, 2**32 - 1, 7, 0, 2**32 - 1, 0]])
    monkeypatch.setattr(masking, "draw_u32_ref", lambda *_: noise)
    epochs, ids = samples(1)
    ids_keep, ids_mask = masking.random_masking_ref(0, epochs, ids, 6, 3)
    assert (ids_keep.tolist(), ids_mask.tolist()) == ([[3, 5, 0]], [[2, 1, 4]])


def test_every_unit_is_kept_equally_often() -> None:
    batch, units, keep = 20000, 49, 12
    ids_keep, _ = random_masking(5, torch.zeros(batch, dtype=torch.int64), torch.arange(batch), units, keep)
    counts = torch.bincount(ids_keep.flatten(), minlength=units).double()
    mean = batch * keep / units
    # Each sample keeps exactly `keep`, so the counts vary less than Poisson's and sum to a constant.
    chi_square = ((counts - mean) ** 2).sum() / (mean * (1 - keep / units)) * (units - 1) / units
    # Chi-square with 48 degrees of freedom is outside this once in ten thousand fair seeds.
    assert 19 < chi_square < 92


def test_visible_units_are_shuffled() -> None:
    batch = 4000
    ids_keep, _ = random_masking(5, torch.zeros(batch, dtype=torch.int64), torch.arange(batch), 36, 9)
    first_is_smaller = (ids_keep[:, 0] < ids_keep[:, 1]).double().mean()
    assert abs(first_is_smaller - 0.5) < 0.04


def test_masks_differ() -> None:
    def kept(seed: int, epoch: int, sample: int) -> list[int]:
        ids_keep, _ = random_masking(seed, torch.tensor([epoch]), torch.tensor([sample]), 196, 49)
        return [int(unit) for unit in ids_keep[0]]

    base = kept(1, 2, 3)
    assert kept(1, 2, 3) == base
    others = [kept(2, 2, 3), kept(1 + 2**32, 2, 3), kept(1, 3, 3), kept(1, 2, 4), kept(1, 2, 3 + 2**32)]
    shared = [len(set(base) & set(other)) for other in others]
    assert max(shared) < 30, shared


def test_mask_does_not_depend_on_the_batch() -> None:
    epochs, ids = samples(5)
    whole, _ = random_masking(9, epochs, ids, 36, 9)
    alone, _ = random_masking(9, epochs[3:4], ids[3:4], 36, 9)
    assert torch.equal(whole[3:4], alone)


def test_opcheck() -> None:
    torch.library.opcheck(random_masking_op, (2**40, *samples(3), 49, 12))


def test_compiled_equals_eager() -> None:
    epochs, ids = samples(3)
    compiled = torch.compile(random_masking, fullgraph=True)
    for got, want in zip(
        compiled(8, epochs, ids, 196, 49), random_masking(8, epochs, ids, 196, 49), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("seed", "units", "keep", "message"),
    [(0, 4, 0, "keep is 0"), (0, 4, 4, "keep is 4"), (-1, 4, 2, "seed is -1"), (2**63, 4, 2, "seed is")],
)
def test_bad_numbers_are_named(seed: int, units: int, keep: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_masking(seed, *samples(1), units, keep)


def test_bad_tensors_are_named() -> None:
    epochs, ids = samples(2)
    with pytest.raises(ValueError, match="one of each a sample"):
        random_masking(0, epochs, ids[:1], 4, 2)
    with pytest.raises(ValueError, match=r"torch\.int32"):
        random_masking(0, epochs, ids.int(), 4, 2)
