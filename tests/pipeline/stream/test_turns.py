"""The micro-batches of a rank: together the stream, each position once; cuts that cannot be."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.stream.turns import (
    BatchCut,
    SampleStream,
    epoch_batches,
    epoch_slices,
    next_position,
    rank_slice,
    turns,
)
from turbomim.pipeline.system.errors import UserError


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 200),
    world=st.integers(1, 4),
    micros=st.integers(1, 3),
    micro=st.integers(1, 9),
    start=st.integers(0, 10**9),
    steps=st.integers(1, 12),
)
def test_ranks_and_micro_batches_tile_the_stream(
    size: int, world: int, micros: int, micro: int, start: int, steps: int
) -> None:
    """All ranks together give the positions from `start` on, each once: so each sample once an epoch."""
    batch = world * micros * micro
    ranks = [
        islice(
            turns(
                SampleStream(
                    seed=3,
                    cut=BatchCut(global_batch=batch, micro_batch=micro, rank=rank, world=world, start=start),
                ),
                [size],
            ),
            steps * micros,
        )
        for rank in range(world)
    ]
    by_position = {}
    for stream in ranks:
        for turn in stream:
            for i, pair in enumerate(zip(turn.epochs_B.tolist(), turn.ids_B.tolist(), strict=True)):
                assert turn.position + i not in by_position
                by_position[turn.position + i] = pair
    assert sorted(by_position) == list(range(start, start + steps * batch))
    first_epoch, last_epoch = -(-start // size), (start + steps * batch) // size
    for epoch in range(first_epoch, last_epoch):
        seen = [by_position[position] for position in range(epoch * size, (epoch + 1) * size)]
        assert sorted(seen) == [(epoch, sample) for sample in range(size)]


def test_rank_slice_written_out() -> None:
    def positions(turn: int, rank: int) -> list[int]:
        cut = BatchCut(global_batch=12, micro_batch=3, rank=rank, world=2, start=100)
        return list(rank_slice(turn, cut))

    assert positions(0, 0) == [100, 101, 102]
    assert positions(1, 0) == [103, 104, 105]
    assert positions(0, 1) == [106, 107, 108]
    assert positions(2, 1) == [118, 119, 120]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((10, 3, 0, 2), "10 .* 2 ranks x micro-batch 3 = 6"),
        ((8, 4, 2, 2), "rank = 2: must be .* below the 2 ranks"),
        ((8, 4, -1, 2), "rank = -1: must be 0 or more"),
        ((0, 1, 0, 1), "global_batch = 0"),
        ((8, 0, 0, 1), "micro_batch = 0"),
        ((8, 4, 0, 0), "world = 0"),
    ],
)
def test_numbers_that_do_not_fit(numbers: tuple[int, int, int, int], words: str) -> None:
    global_batch, micro_batch, rank, world = numbers
    with pytest.raises(UserError, match=words):
        BatchCut(global_batch=global_batch, micro_batch=micro_batch, rank=rank, world=world)


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 100),
    world=st.integers(1, 4),
    micro=st.integers(1, 9),
    start=st.integers(0, 300),
)
def test_by_epoch_no_batch_crosses_the_border(size: int, world: int, micro: int, start: int) -> None:
    """Ranks take as many samples of each step; fewer than there are ranks are left out of an epoch."""
    if size < world:
        return
    cuts = [
        BatchCut(global_batch=world * micro, micro_batch=micro, rank=rank, world=world, start=start)
        for rank in range(world)
    ]
    steps = 2 * epoch_batches(cuts[0], size) + 2
    ranks = [list(islice(turns(SampleStream(seed=3, by_epoch=True, cut=cut), [size]), steps)) for cut in cuts]
    position, seen = start, 0
    for step in zip(*ranks, strict=True):
        border = (position // size + 1) * size
        if border - position < world:
            position, border = border, border + size
        (share,) = {len(turn.ids_B) for turn in step}
        assert 1 <= share == min(micro, (border - position) // world)
        assert [turn.position for turn in step] == [position + rank * share for rank in range(world)]
        for turn in step:
            places = np.arange(turn.position, turn.position + share)
            epochs, ids = sample_ids(places, size, 3)
            assert np.array_equal(turn.epochs_B, epochs) and np.array_equal(turn.ids_B, ids)
            assert {*epochs.tolist()} == {position // size}
        position += world * share
        after = {next_position(t.position, share, cut, size) for t, cut in zip(step, cuts, strict=True)}
        assert after == {border if border - position < world else position}
        seen += 1
    assert seen == steps


def test_an_epoch_written_out() -> None:
    cut = BatchCut(global_batch=4, micro_batch=2, rank=1, world=2)
    assert [list(s) for s in islice(epoch_slices(cut, 10), 4)] == [[2, 3], [6, 7], [9], [12, 13]]
    assert epoch_batches(cut, 10) == 3 and epoch_batches(cut, 9) == 2 and epoch_batches(cut, 8) == 2


def test_by_epoch_goes_without_groups_and_micro_batches() -> None:
    with pytest.raises(UserError, match="groups = 2: must be 1"):
        SampleStream(seed=0, groups=2, by_epoch=True, cut=BatchCut(global_batch=4, micro_batch=4))
    with pytest.raises(UserError, match="global_batch = 4: must be 2"):
        SampleStream(seed=0, by_epoch=True, cut=BatchCut(global_batch=4, micro_batch=2))
