"""The windowed stream: each epoch exactly once, a few shards at a time, well mixed, pure."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from turbomim.pipeline.stream.turns import BatchCut, SampleStream, turns
from turbomim.pipeline.stream.window_order import WindowOrder

shard_lists = st.lists(st.sampled_from([0, 0, 1, 1, 2, 5, 30]), min_size=1, max_size=40).filter(any)


def epoch_of(shards: list[int], seed: int, window: int, epoch: int = 0) -> NDArray[np.int64]:
    size = sum(shards)
    return WindowOrder(shards, seed, window=window)(np.arange(size * epoch, size * (epoch + 1)))[1]


def shards_of(ids: NDArray[np.int64], shards: list[int]) -> NDArray[np.int64]:
    return np.searchsorted(np.cumsum(shards), ids, side="right")


@given(shard_lists, st.integers(0, 2**63 - 1), st.integers(1, 50), st.integers(0, 2**31))
def test_each_sample_once_an_epoch(shards: list[int], seed: int, window: int, epoch: int) -> None:
    assert np.array_equal(np.sort(epoch_of(shards, seed, window, epoch)), np.arange(sum(shards)))


@given(shard_lists, st.integers(0, 99), st.integers(1, 9))
def test_only_a_window_of_shards_is_touched_at_a_time(shards: list[int], seed: int, window: int) -> None:
    """Cut the epoch where every shard so far is read to its end: no piece has more than `window` shards."""
    order = shards_of(epoch_of(shards, seed, window), shards)
    left, opened = dict(enumerate(shards)), set[int]()
    for shard in order.tolist():
        opened.add(shard)
        left[shard] -= 1
        assert len(opened) <= window
        if not any(left[other] for other in opened):
            opened.clear()


def test_samples_are_mixed_over_the_whole_window() -> None:
    shards, window = [100] * 64, 16
    order = shards_of(epoch_of(shards, 3, window), shards).reshape(4, 1600)
    for of_window in order:
        assert len(set(of_window.tolist())) == window
        # a run of 100 samples holds about 6 of each of the 16 shards, never 20 of one
        counts = [np.bincount(run, minlength=64) for run in of_window.reshape(16, 100)]
        assert max(count.max() for count in counts) < 20
        assert len({tuple(run) for run in of_window.reshape(16, 100).tolist()}) == 16


def test_windows_differ_from_each_other_in_order() -> None:
    ids = epoch_of([50] * 8, 1, window=1).reshape(8, 50) % 50
    assert len({tuple(order) for order in ids.tolist()}) == 8


def test_epoch_and_seed_change_shards_and_samples() -> None:
    shards = [20] * 30
    first, second, other = epoch_of(shards, 1, 4), epoch_of(shards, 1, 4, epoch=1), epoch_of(shards, 2, 4)
    for changed in (second, other):
        assert (first == changed).mean() < 0.02
        assert (shards_of(first, shards)[::80] == shards_of(changed, shards)[::80]).mean() < 0.5
        assert (first % 20 == changed % 20).mean() < 0.2


def test_positions_may_come_in_any_order() -> None:
    order = WindowOrder([3, 0, 50, 1, 20, 7], 4, window=2)
    positions = np.random.default_rng(0).permutation(np.arange(75, 400))
    epochs, ids = order(positions)
    for i in range(0, 325, 37):
        epoch, sample = WindowOrder([3, 0, 50, 1, 20, 7], 4, window=2)(positions[i : i + 1])
        assert (epoch[0], sample[0]) == (epochs[i], ids[i])


def test_order_is_pinned() -> None:
    """A run that resumes under a later version must see the same samples."""
    epochs, ids = WindowOrder([4, 0, 1, 3, 5], 2**40 + 3, window=2)(np.arange(8, 20))
    assert epochs.tolist() == [0] * 5 + [1] * 7
    assert ids.tolist() == [3, 0, 1, 2, 4, 7, 2, 6, 5, 1, 0, 3]


def test_ranks_take_contiguous_parts_of_a_step() -> None:
    ranks = [
        islice(
            turns(
                SampleStream(
                    seed=5,
                    shuffle="window",
                    window=2,
                    cut=BatchCut(global_batch=12, micro_batch=3, rank=r, world=2, start=12),
                ),
                [9, 9, 6],
            ),
            4,
        )
        for r in (0, 1)
    ]
    found = {turn.position: turn for rank in ranks for turn in rank}
    assert sorted(found) == list(range(12, 36, 3))
    ids = np.concatenate([found[position].ids_B for position in sorted(found)])
    assert np.array_equal(ids, WindowOrder([9, 9, 6], 5, window=2)(np.arange(12, 36))[1])


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        WindowOrder([0, 0], 0, window=1)
    with pytest.raises(ValueError, match=r"2\*\*32 epochs"):
        WindowOrder([3], 0, window=1)(np.array([2**32 * 3]))
