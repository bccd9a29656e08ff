"""The order of samples: a bijection each epoch, well mixed, each sample once."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from turbomim.pipeline.stream.order import permute, round_keys, sample_ids


def orders(size: int, epochs: int, seed: int = 11) -> NDArray[np.int64]:
    """Every epoch's order, (epochs, size)."""
    return sample_ids(np.arange(size * epochs), size, seed)[1].reshape(epochs, size)


def z_score(counts: NDArray[np.int64], degrees: float, scale: float = 1.0) -> float:
    """How many standard deviations the chi-square of equally likely counts lies above its mean."""
    expected = counts.sum() / counts.size
    chi_square = scale * ((counts - expected) ** 2 / expected).sum()
    return float((chi_square - degrees) / np.sqrt(2 * degrees))


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**32 - 1))
def test_bijection(size: int, seed: int, epoch: int) -> None:
    ids = permute(np.arange(size), size, round_keys(seed, np.array([epoch])))
    assert np.array_equal(np.sort(ids), np.arange(size))


@pytest.mark.parametrize("size", range(1, 70))
def test_bijection_at_every_small_size(size: int) -> None:
    assert np.array_equal(np.sort(orders(size, 3), axis=1), np.tile(np.arange(size), (3, 1)))


@pytest.mark.parametrize("size", [10**10, 2**40 + 1, 2**48])
def test_sizes_that_cannot_be_materialised(size: int) -> None:
    positions = np.concatenate([np.arange(1000), np.arange(size - 1000, size)])
    epochs, ids = sample_ids(positions, size, 5)
    assert not epochs.any()
    assert ids.min() >= 0
    assert ids.max() < size
    assert len(np.unique(ids)) == len(ids)
    # the two thousand ids spread over the whole range: 10 bins of about 200
    assert np.histogram(ids, 10, (0, size))[0].min() > 140


def test_size_out_of_range() -> None:
    with pytest.raises(ValueError, match="48"):
        permute(np.array([0]), 2**48 + 1, round_keys(0, np.array([0])))


@pytest.mark.parametrize(("size", "epochs"), [(10, 20_000), (100, 4_000)])
def test_every_sample_is_equally_often_at_every_position(size: int, epochs: int) -> None:
    position = np.broadcast_to(np.arange(size), (epochs, size))
    counts = np.bincount((orders(size, epochs) * size + position).ravel(), minlength=size * size)
    # a row and a column are fixed by the others, and counts within an epoch exclude each other
    assert abs(z_score(counts, (size - 1) ** 2, scale=(size - 1) / size)) < 4


@pytest.mark.parametrize(("size", "epochs"), [(10, 20_000), (100, 4_000)])
def test_every_pair_follows_each_other_equally_often(size: int, epochs: int) -> None:
    ids = orders(size, epochs)
    counts = np.bincount((ids[:, :-1] * size + ids[:, 1:]).ravel(), minlength=size * size).reshape(size, size)
    assert not counts.diagonal().any()
    pairs = counts[~np.eye(size, dtype=bool)]
    assert abs(z_score(pairs, len(pairs) - 1)) < 4


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_every_order_is_equally_likely(size: int) -> None:
    ids = orders(size, 60_000)
    codes = ids @ size ** np.arange(size)
    counts = np.array([(codes == order @ size ** np.arange(size)).sum() for order in all_orders(size)])
    assert counts.sum() == 60_000
    assert abs(z_score(counts, max(1, len(counts) - 1))) < 4


def all_orders(size: int) -> list[NDArray[np.int64]]:
    return [np.array(order) for order in permutations(range(size))]


def test_epoch_and_seed_change_the_order() -> None:
    first, second = orders(1000, 2)
    assert (first == second).mean() < 0.02
    assert (first == orders(1000, 1, seed=12)[0]).mean() < 0.02


def test_order_is_pinned() -> None:
    """A run that resumes under a later version must see the same samples."""
    epochs, ids = sample_ids(np.arange(8, 14), 10, 2**40 + 3)
    assert epochs.tolist() == [0, 0, 1, 1, 1, 1]
    assert ids.tolist() == [0, 5, 8, 4, 2, 1]


def test_positions_may_come_in_any_order() -> None:
    positions = np.random.default_rng(0).permutation(np.arange(95, 395))
    epochs, ids = sample_ids(positions, 100, 4)
    for i in range(0, 300, 37):
        epoch, sample = sample_ids(positions[i : i + 1], 100, 4)
        assert (epoch[0], sample[0]) == (epochs[i], ids[i])


def test_the_stream_ends_at_the_last_epoch() -> None:
    assert sample_ids(np.array([2**32 * 3 - 1]), 3, 0)[0] == 2**32 - 1
    with pytest.raises(ValueError, match=r"2\*\*32 epochs"):
        sample_ids(np.array([2**32 * 3]), 3, 0)
