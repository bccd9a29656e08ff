"""`random_masking` away from a GPU: the reference, the op and the compiled op.

Which test fails for which mistake (each was made once, on purpose):
descending order: test_order_is_ascending_noise; ties by anything but the unit's number:
test_equal_noise_is_ordered_by_unit; noise that leaves out the epoch: test_masks_differ,
test_draws_are_independent; visible units sorted: test_visible_units_are_shuffled, test_pairs_are_as_likely;
noise that favours some units: test_all_orders_are_as_likely; outputs that share storage for a batch of one:
test_opcheck; a unit's patches by rows, units and patches a side confused: test_patches_of_units;
rectangles past the border, too small or too long, a mask not of the first ones, a last one cut by columns:
test_block_masks_follow_the_rule.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from turbomim.kernels import masking
from turbomim.kernels.masking import block_masking, patches_of_units, random_masking, random_masking_op
from turbomim.kernels.source import SOURCE
from turbomim.pipeline.stream import philox as host

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


def all_units(seed: int, epochs: Tensor, ids: Tensor, units: int) -> Tensor:
    return torch.cat(random_masking(seed, epochs, ids, units, 1), dim=1)


def assert_uniform(cell: Tensor, cells: int) -> None:
    """Chi-square of counts that would be equally likely: within five deviations."""
    counts = torch.bincount(cell, minlength=cells).double()
    mean = cell.numel() / cells
    assert mean > 20
    chi_square = float(((counts - mean) ** 2).sum() / mean)
    assert abs(chi_square - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5, chi_square


def test_all_orders_are_as_likely() -> None:
    batch = torch.arange(24000)
    order = all_units(3, batch * 0, batch, 4)
    assert_uniform(torch.unique(order @ torch.tensor([64, 16, 4, 1]), return_inverse=True)[1], 24)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 35), (8, 9)])
def test_pairs_are_as_likely(one: int, other: int) -> None:
    batch = torch.arange(60000)
    order = all_units(4, batch * 0 + 2, batch, 36)
    first, second = order[:, one], order[:, other]
    # of the others, which
    assert_uniform(first * 35 + second - (second > first).long(), 36 * 35)


@pytest.mark.parametrize("change", ["sample", "epoch", "seed"])
def test_draws_are_independent(change: str) -> None:
    batch = torch.arange(60000)
    one = all_units(5, batch * 0, 2 * batch, 36)[:, 0]
    other = {
        "sample": lambda: all_units(5, batch * 0, 2 * batch + 1, 36),
        "epoch": lambda: all_units(5, batch * 0 + 1, 2 * batch, 36),
        "seed": lambda: all_units(6, batch * 0, 2 * batch, 36),
    }[change]()[:, 0]
    assert_uniform(one * 36 + other, 36 * 36)


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


def test_patches_of_units() -> None:
    # 2 x 2 units of 2 x 2 patches: column by column
    assert patches_of_units(torch.tensor([[3, 0]]), 4, 2).tolist() == [[10, 14, 11, 15, 0, 4, 1, 5]]
    assert torch.equal(patches_of_units(torch.tensor([[5, 2]]), 6, 1), torch.tensor([[5, 2]]))


@pytest.mark.parametrize(("grid", "unit", "keep"), [(28, 2, 49), (14, 2, 19), (48, 8, 14)])
def test_units_cover_every_patch_once(grid: int, unit: int, keep: int) -> None:
    halves = random_masking(1, *samples(3), (grid // unit) ** 2, keep)
    patches = torch.cat([patches_of_units(half, grid, unit) for half in halves], dim=1)
    assert torch.equal(patches.sort(1).values, torch.arange(grid * grid).expand(3, -1))
    assert torch.equal(
        patches[:, :: unit * unit] // grid // unit * (grid // unit)
        + patches[:, :: unit * unit] % grid // unit,
        torch.cat(halves, dim=1),
    )


def test_units_must_tile_the_image() -> None:
    with pytest.raises(ValueError, match=r"unit is 2: .* 15 patches"):
        patches_of_units(torch.zeros(1, 1, dtype=torch.int64), 15, 2)


def block_mask_by_loops(seed: int, epoch: int, sample: int, grid: int, keep: int) -> list[int]:
    """The patches removed, by the rule of `block_masking` in Python integers, in order."""
    words = host.draw_u32(seed, np.array([epoch]), np.array([sample]), host.MASK, 96 + grid * grid)[0]
    draw = [int(word) for word in words]
    removed: list[int] = []
    count = grid * grid - keep
    shapes = [
        (height, width)
        for height in range(1, grid + 1)
        for width in range(1, grid + 1)
        if (16 if count >= 16 else 1) <= height * width <= count and 0.3 <= height / width <= 1 / 0.3
    ]
    for block in range(32):
        height, width = shapes[draw[3 * block] * len(shapes) // 2**32]
        top = draw[3 * block + 1] * (grid - height + 1) // 2**32
        left = draw[3 * block + 2] * (grid - width + 1) // 2**32
        inside = [y * grid + x for y in range(top, top + height) for x in range(left, left + width)]
        removed += [patch for patch in inside if patch not in removed]
    rest = [patch for patch in range(grid * grid) if patch not in removed]
    removed += sorted(rest, key=lambda patch: (draw[96 + patch], patch))
    return removed


@pytest.mark.parametrize(
    ("grid", "keep"), [(14, 121), (14, 49), (12, 9), (3, 6), (16, 255), (2, 1), (12, 140)]
)
def test_block_masks_follow_the_rule(grid: int, keep: int) -> None:
    epochs, ids = samples(4)
    ids_keep, ids_mask = block_masking(9, epochs, ids, grid, keep)
    assert (ids_keep.shape, ids_mask.shape) == ((4, keep), (4, grid * grid - keep))
    for row in range(4):
        order = block_mask_by_loops(9, int(epochs[row]), int(ids[row]), grid, keep)
        assert ids_mask[row].tolist() + ids_keep[row].tolist() == order


def test_block_masks_are_contiguous() -> None:
    """Neighbours share their fate far more often than in a random mask of as many patches."""
    batch = torch.arange(200)
    _, ids_mask = block_masking(1, batch * 0, batch, 14, 121)
    mask = torch.zeros(200, 196).scatter(1, ids_mask, 1.0).reshape(200, 14, 14)
    together = (mask[:, :, 1:] * mask[:, :, :-1]).sum() / mask[:, :, 1:].sum()
    # at random 75 of 196 would go: 0.38
    assert together > 0.75


def test_compiled_block_masks_equal_eager() -> None:
    compiled = torch.compile(block_masking, fullgraph=True, backend="aot_eager")
    got, want = (function(8, *samples(3), 8, 20) for function in (compiled, block_masking))
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_opcheck() -> None:
    torch.library.opcheck(random_masking_op, (2**40, *samples(3), 49, 12, SOURCE))
    torch.library.opcheck(random_masking_op, (7, *samples(1), 36, 9, SOURCE))


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
    with pytest.raises(ValueError, match="ids on meta"):
        random_masking(0, epochs, ids.to("meta"), 4, 2)
    with pytest.raises(ValueError, match="keep is 16"):
        block_masking(0, epochs, ids, 4, 16)
