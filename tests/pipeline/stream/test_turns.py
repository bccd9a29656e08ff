"""The micro-batches of a rank: together the stream, each position once; cuts that cannot be."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbomim.pipeline.stream.turns import BatchCut, SampleStream, rank_slice, turns
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
