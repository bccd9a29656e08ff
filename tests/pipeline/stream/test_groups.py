"""Groups: the same samples on any number of ranks, each rank within its group's shards, each sample once.

Planted bugs that fail here: steps that are not sorted by group, groups keyed alike, a share that ends one
sample later, windows over the shards of all groups.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from turbomim.pipeline.stream.groups import groups_of, samples_of, shards_of, share_of, sort_by_group
from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, Shuffle, stream_order, turns
from turbomim.pipeline.stream.window_order import WindowOrder
from turbomim.pipeline.system.errors import UsageError

SHARDS = [5, 8, 3, 8, 6, 2]
SAMPLES = sum(SHARDS)
SHUFFLES = pytest.mark.parametrize("shuffle", ["full", "window"])


def make_stream(
    groups: int, shuffle: Shuffle = "full", *, seed: int = 3, window: int = 2, **cut: int
) -> SampleStream:
    """A stream in steps of 8 and micro-batches of 2, unless told otherwise."""
    cut = {"global_batch": 8, "micro_batch": 2} | cut
    return SampleStream(seed=seed, shuffle=shuffle, window=window, groups=groups, cut=BatchCut(**cut))


def served(stream: SampleStream, steps: int, shards: Sequence[int] = SHARDS) -> NDArray[np.int64]:
    """Epoch and id of each sample of a rank's first steps, (steps, samples of a step, 2)."""
    cut = stream.cut
    share = cut.global_batch // cut.world
    taken = islice(turns(stream, shards), steps * share // cut.micro_batch)
    pairs = np.concatenate([np.stack([turn.epochs_B, turn.ids_B], 1) for turn in taken])
    return pairs.reshape(steps, share, 2)


def homes(ids: NDArray[np.int64], shards: Sequence[int] = SHARDS) -> set[int]:
    """The shards that samples are in."""
    return set(np.searchsorted(np.cumsum(shards), ids.ravel(), side="right").tolist())


@given(st.integers(1, 40), st.integers(1, 10**7))
def test_shares_are_the_storage_order_cut_evenly(groups: int, samples: int) -> None:
    shares = [share_of(group, groups, samples) for group in range(groups)]
    assert shares[0].start == 0 and shares[-1].stop == samples
    assert all(one.stop == other.start for one, other in pairwise(shares))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shards_of_a_share_written_out() -> None:
    # 32 samples in halves: the second begins with the last 8 of shards 0 to 3
    assert [samples_of(share_of(k, 2, SAMPLES), SHARDS).tolist() for k in (0, 1)] == [[5, 8, 3], [8, 6, 2]]
    assert [shards_of(share_of(k, 2, SAMPLES), SHARDS) for k in (0, 1)] == [range(3), range(3, 6)]
    # and in quarters: shards 1 and 4 are cut
    quarters = [[5, 3], [5, 3], [8], [6, 2]]
    assert [samples_of(share_of(k, 4, SAMPLES), SHARDS).tolist() for k in range(4)] == quarters
    assert shards_of(range(7, 8), [4, 0, 4, 0]) == range(2, 3)
    assert samples_of(range(4, 8), [4, 0, 4, 0]).tolist() == [0, 4, 0]


@pytest.mark.parametrize(
    ("world", "groups", "met"),
    [
        (1, 4, [range(4)]),
        (2, 4, [range(2), range(2, 4)]),
        (4, 2, [range(1), range(1), range(1, 2), range(1, 2)]),
        (3, 2, [range(1), range(2), range(1, 2)]),
        (6, 4, [range(1), range(2), range(1, 2), range(2, 3), range(2, 4), range(3, 4)]),
    ],
)
def test_groups_that_ranks_meet(world: int, groups: int, met: list[range]) -> None:
    assert [groups_of(rank, world, groups) for rank in range(world)] == met


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 50), st.integers(1, 4))
def test_a_step_is_sorted_by_group(groups: int, each: int, start: int, steps: int) -> None:
    start, batch = start * groups, groups * each
    places = np.arange(start, start + steps * batch)
    found = sort_by_group(places, groups, start=start, global_batch=batch).reshape(steps, batch)
    for step, positions in enumerate(found.tolist()):
        whole = range(start + step * batch, start + (step + 1) * batch)
        assert positions == sorted(whole, key=lambda position: (position % groups, position))


@SHUFFLES
def test_one_group_is_the_stream_without_groups(shuffle: Shuffle) -> None:
    positions = np.arange(200)
    plain = (
        sample_ids(positions, SAMPLES, 3)
        if shuffle == "full"
        else WindowOrder(SHARDS, 3, window=2)(positions)
    )
    assert np.array_equal(served(make_stream(1, shuffle), 25).reshape(-1, 2), np.stack(plain, 1))


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], SampleStream]:
    shards = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 12]), min_size=1, max_size=7).filter(any))
    groups = draw(st.integers(1, min(6, sum(shards))))
    batch = groups * draw(st.integers(1, 6))
    start, seed = groups * draw(st.integers(0, 99)), draw(st.integers(0, 2**63 - 1))
    cut = BatchCut(global_batch=batch, micro_batch=batch, start=start)
    shuffle: Shuffle = draw(st.sampled_from(["full", "window"]))
    window = draw(st.integers(1, 4))
    return shards, SampleStream(seed=seed, shuffle=shuffle, window=window, groups=groups, cut=cut)


@settings(max_examples=200)
@given(streams(), st.data())
def test_ranks_see_the_same_samples_in_their_shards(
    case: tuple[list[int], SampleStream], data: st.DataObject
) -> None:
    """On any number of ranks; a rank of a multiple of the groups serves one of them alone."""
    shards, one = case
    batch, samples = one.cut.global_batch, sum(shards)
    world = data.draw(st.sampled_from([world for world in range(1, 13) if batch % world == 0]))
    micro = data.draw(st.sampled_from([m for m in range(1, batch + 1) if batch // world % m == 0]))
    parts = []
    for rank in range(world):
        stream = replace(one, cut=replace(one.cut, micro_batch=micro, rank=rank, world=world))
        parts.append(served(stream, 6, shards))
        shares = [share_of(group, one.groups, samples) for group in groups_of(rank, world, one.groups)]
        assert homes(parts[-1][..., 1], shards) <= {s for share in shares for s in shards_of(share, shards)}
        if world % one.groups == 0:
            assert len(shares) == 1 and set(parts[-1][..., 1].ravel().tolist()) <= set(shares[0])
    assert np.array_equal(np.concatenate(parts, 1), served(one, 6, shards))


@settings(max_examples=200)
@given(streams())
def test_each_sample_once_an_epoch_of_its_group(case: tuple[list[int], SampleStream]) -> None:
    """Where the groups divide the samples, that is each sample once an epoch of the stream."""
    shards, stream = case
    samples, groups = sum(shards), stream.groups
    epochs, ids = stream_order(stream, shards)(np.arange(3 * samples))
    for group in range(groups):
        share = share_of(group, groups, samples)
        own = ids[group::groups]
        whole = len(own) // len(share)
        assert np.array_equal(epochs[group::groups], np.arange(len(own)) // len(share))
        rounds = own[: whole * len(share)].reshape(whole, len(share))
        assert np.array_equal(np.sort(rounds, axis=1), np.tile(share, (whole, 1)))
    if samples % groups == 0:
        assert np.array_equal(np.sort(ids.reshape(3, samples), axis=1), np.tile(np.arange(samples), (3, 1)))


@given(st.integers(1, 6), st.integers(40, 90), st.integers(0, 99))
def test_samples_are_seen_as_often_as_each_other(groups: int, samples: int, seed: int) -> None:
    """Within one, as long as the epochs are few beside the samples of a group."""
    stream = make_stream(groups, seed=seed, global_batch=12 * groups, micro_batch=1)
    for epochs in (1, 2):
        _, ids = stream_order(stream, [samples])(np.arange(epochs * samples))
        assert np.abs(np.bincount(ids, minlength=samples) - epochs).max() <= 1


@SHUFFLES
def test_positions_may_come_in_any_order(shuffle: Shuffle) -> None:
    order = stream_order(make_stream(4, shuffle), SHARDS)
    positions = np.random.default_rng(0).permutation(np.arange(64, 300))
    epochs, ids = order(positions)
    for i in range(0, len(positions), 17):
        fresh = stream_order(make_stream(4, shuffle), SHARDS)
        assert [int(found[0]) for found in fresh(positions[i : i + 1])] == [epochs[i], ids[i]]


@SHUFFLES
def test_a_launch_goes_on_where_the_last_one_stopped(shuffle: Shuffle) -> None:
    whole = served(make_stream(4, shuffle), 9)
    assert np.array_equal(served(make_stream(4, shuffle, start=40), 4), whole[5:])


@SHUFFLES
def test_groups_are_shuffled_otherwise_than_each_other(shuffle: Shuffle) -> None:
    _, ids = stream_order(make_stream(4, shuffle), [50] * 32)(np.arange(1600))
    places = ids.reshape(400, 4) - 400 * np.arange(4)
    for one, other in ((0, 1), (1, 2), (0, 3)):
        assert (places[:, one] == places[:, other]).mean() < 0.05


def test_a_window_of_each_group_is_open_at_a_time() -> None:
    shards, groups, window = [10] * 32, 4, 2
    _, ids = stream_order(make_stream(groups, "window", window=window), shards)(np.arange(320))
    for group in range(groups):
        own = ids[group::groups].reshape(-1, 10 * window)
        assert all(len(homes(of_window, shards)) == window for of_window in own)
        assert homes(own, shards) == set(range(8 * group, 8 * group + 8))


@pytest.mark.parametrize(
    ("shuffle", "ids"),
    [
        ("full", [1, 0, 6, 5, 11, 12, 3, 2, 7, 4, 10, 9, 0, 1, 6, 7, 11, 8, 2, 3, 4, 5, 12, 12]),
        ("window", [1, 3, 4, 6, 9, 8, 0, 2, 7, 5, 8, 12, 0, 2, 6, 7, 9, 11, 3, 1, 4, 5, 10, 12]),
    ],
)
def test_order_is_pinned(shuffle: Shuffle, ids: list[int]) -> None:
    """A run that resumes under a later version must see the same samples.

    The 13 samples are in groups of 4, 4 and 5, and each step takes two of each group.
    """
    found = served(make_stream(3, shuffle, seed=2**40 + 3, global_batch=6, start=24), 4, [4, 0, 1, 3, 5])
    assert found[..., 0].tolist() == [
        [2, 2, 2, 2, 1, 1],
        [2, 2, 2, 2, 2, 2],
        [3, 3, 3, 3, 2, 2],
        [3, 3, 3, 3, 2, 3],
    ]
    assert found[..., 1].ravel().tolist() == ids


@pytest.mark.parametrize(
    ("groups", "start", "words"),
    [
        (0, 0, "groups = 0: must be 1 to 65,536"),
        (2**16 + 1, 0, "groups = 65537: must be 1 to 65,536"),
        (3, 0, "groups = 3: must be a divisor of the global batch, 8"),
        (4, 6, "groups = 4: must be a divisor of the start, 6"),
    ],
)
def test_numbers_that_do_not_fit(groups: int, start: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_stream(groups, start=start)
