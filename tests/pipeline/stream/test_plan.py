"""Exactly once and the same order, whatever cuts the stream: shards, ranks, micro-batches, readers, stops.

This is the plan alone, integers in and out, so that many cases are cheap.  20,000 of them:
`python tests/pipeline/stream/test_plan.py 20000`.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, Shuffle, Turn, turns
from turbomim.pipeline.stream.window_order import WindowOrder


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A run's plan: the shards, the seed, how they are shuffled, and the samples of a step of all ranks."""

    shards: tuple[int, ...]
    seed: int
    shuffle: Shuffle
    window: int
    global_batch: int

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(self.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One of the runs that a job is cut into: on so many ranks, in such micro-batches, for some steps."""

    world: int
    micro_batch: int
    readers: int
    steps: int


@st.composite
def plans(draw: st.DrawFn) -> tuple[Job, list[Launch]]:
    shards = draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 7, 12]), min_size=1, max_size=7).filter(any))
    global_batch = draw(st.integers(1, 12))
    job = Job(
        shards=tuple(shards),
        seed=draw(st.integers(0, 2**63 - 1)),
        shuffle=draw(st.sampled_from(["full", "window"])),
        window=draw(st.integers(1, 8)),
        global_batch=global_batch,
    )
    worlds = st.sampled_from([world for world in range(1, 9) if global_batch % world == 0])
    launches = []
    for _ in range(draw(st.integers(1, 4))):
        world = draw(worlds)
        share = global_batch // world
        micro_batch = draw(st.sampled_from([m for m in range(1, share + 1) if share % m == 0]))
        readers, steps = draw(st.integers(1, 5)), draw(st.integers(0, 2))
        launches.append(Launch(world=world, micro_batch=micro_batch, readers=readers, steps=steps))
    return job, launches


def stream(job: Job, launch: Launch, start: int, rank: int) -> Iterator[Turn]:
    """The turns of a rank, as the loader draws them."""
    cut = BatchCut(
        global_batch=job.global_batch,
        micro_batch=launch.micro_batch,
        rank=rank,
        world=launch.world,
        start=start,
    )
    return turns(SampleStream(seed=job.seed, shuffle=job.shuffle, window=job.window, cut=cut), job.shards)


def run(job: Job, launches: list[Launch]) -> NDArray[np.int64]:
    """Run the launches one after the other, each from where the last stopped; (positions, 2) epoch and id.

    Every rank's every micro-batch, cut among its readers and joined again, is put where its position says.
    """
    rows: dict[int, tuple[int, int]] = {}
    start = 0
    for launch in launches:
        for rank in range(launch.world):
            micros = launch.steps * job.global_batch // (launch.world * launch.micro_batch)
            for turn in islice(stream(job, launch, start, rank), micros):
                parts = np.array_split(turn.ids_B, min(launch.readers, len(turn.ids_B)))
                pairs = zip(turn.epochs_B.tolist(), np.concatenate(parts).tolist(), strict=True)
                for position, pair in enumerate(pairs, turn.position):
                    assert position not in rows, f"position {position} is served twice"
                    rows[position] = pair
        start += launch.steps * job.global_batch
    assert sorted(rows) == list(range(start)), "a position is missing"
    return np.array([rows[position] for position in range(start)], np.int64).reshape(-1, 2)


def check(job: Job, launches: list[Launch]) -> None:
    """Compare what the launches served with one process that never stops, and count every epoch's samples."""
    rows = run(job, launches)
    if job.shuffle == "full":
        epochs, ids = sample_ids(np.arange(len(rows)), job.samples, job.seed)
    else:
        epochs, ids = WindowOrder(job.shards, job.seed, window=job.window)(np.arange(len(rows)))
    assert rows[:, 0].tolist() == epochs.tolist()
    assert rows[:, 1].tolist() == ids.tolist()
    whole = len(rows) // job.samples * job.samples
    for served in rows[:whole, 1].reshape(-1, job.samples):
        assert np.array_equal(np.sort(served), np.arange(job.samples)), "a sample is missing or doubled"
    # the epoch under way has no sample twice
    assert len(np.unique(rows[whole:, 1])) == len(rows) - whole
    assert np.array_equal(rows[:, 0], np.arange(len(rows)) // job.samples)


@settings(max_examples=300)
@given(plans())
def test_exactly_once_in_the_same_order(plan: tuple[Job, list[Launch]]) -> None:
    check(*plan)


def record(cases: int) -> None:
    """Check as many plans as asked for, the same ones every time."""
    settings(max_examples=cases, deadline=None, derandomize=True)(given(plans())(lambda plan: check(*plan)))()


if __name__ == "__main__":
    begun = time.perf_counter()
    record(int(sys.argv[1]))
    print(f"{sys.argv[1]} plans in {time.perf_counter() - begun:.0f} s: 0 missing, 0 doubled, 0 out of order")
