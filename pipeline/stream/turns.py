"""The stream of a rank: positions of a run cut into its micro-batches, and which sample stands at each.

Shape suffixes: B samples, N of all turns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.stream.groups import (
    MOST_GROUPS,
    GroupedOrder,
    samples_of,
    share_of,
    sort_by_group,
)
from turbomim.pipeline.stream.order import Order, sample_ids
from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.stream.window_order import WindowOrder
from turbomim.pipeline.system.errors import UserError, need

Shuffle = Literal["full", "window"]

# positions: fewer in a call to an order cost nearly the same
CALL: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchCut:
    """How the samples of each step are cut over the ranks, and a rank's into micro-batches.

    global_batch: samples a step, all ranks; micro_batch: samples a batch; rank: the one that the stream is
    for, of `world`; start: position of the first step.
    Raises UserError: `world` ranks and whole micro-batches do not divide the global batch.
    """

    global_batch: int
    micro_batch: int
    rank: int = 0
    world: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        need(self.global_batch >= 1, "global_batch", self.global_batch, "at least 1")
        need(self.micro_batch >= 1, "micro_batch", self.micro_batch, "at least 1")
        need(self.world >= 1, "world", self.world, "at least 1 rank")
        need(0 <= self.rank < self.world, "rank", self.rank, f"0 or more, and below the {self.world} ranks")
        need(self.start >= 0, "start", self.start, "0 or more: positions count samples from 0")
        unit = self.world * self.micro_batch
        if self.global_batch % unit:
            raise UserError(
                f"global batch {self.global_batch} is not a multiple of {self.world} ranks x micro-batch "
                f"{self.micro_batch} = {unit}: choose a multiple of {unit} or another micro-batch"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleStream:
    """Which samples a rank gets, and what is drawn for them: all that batches follow from beside the split.

    seed: of order, crops and flips; shuffle: order of an epoch, of all samples ("full") or of `window` shards
    at a time ("window"); groups: streams that a step takes equal parts of, each over its own share of the
    shards (groups.py), a divisor of the cut's global batch and start; by_epoch: no batch holds samples of two
    epochs, see `epoch_slices`, which goes without groups and with steps of one micro-batch alone.
    Raises UsageError: no stream has these values.
    """

    seed: int
    shuffle: Shuffle = "full"
    window: int = 16
    groups: int = 1
    by_epoch: bool = False
    cut: BatchCut

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        need(self.shuffle in get_args(Shuffle), "shuffle", repr(self.shuffle), "full or window")
        need(self.window >= 1, "window", self.window, "at least 1 shard")
        need(1 <= self.groups <= MOST_GROUPS, "groups", self.groups, f"1 to {MOST_GROUPS:,}")
        for name, whole in (("global batch", self.cut.global_batch), ("start", self.cut.start)):
            need(whole % self.groups == 0, "groups", self.groups, f"a divisor of the {name}, {whole}")
        if self.by_epoch:
            need(self.groups == 1, "groups", self.groups, "1 for batches by epoch")
            step = self.cut.world * self.cut.micro_batch
            need(self.cut.global_batch == step, "global_batch", self.cut.global_batch, f"{step}, by epoch")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Turn:
    """One micro-batch of the stream: epoch and id of each sample, (B,) int64.

    position: how many samples of the stream, on all ranks, come before its first.
    """

    position: int
    epochs_B: NDArray[np.int64]
    ids_B: NDArray[np.int64]


def turns(stream: SampleStream, shard_samples: Sequence[int]) -> Iterator[Turn]:
    """Yield a rank's micro-batches for ever.  shard_samples: samples of each shard, in storage order.

    Raises UserError: by epoch, if there are fewer samples than ranks.
    """
    order = stream_order(stream, shard_samples)
    cut, together = stream.cut, 1
    slices = (
        epoch_slices(cut, sum(shard_samples))
        if stream.by_epoch
        else (rank_slice(turn, cut) for turn in count())
    )
    while True:
        # small micro-batches are drawn several at a time, but the first does not wait for the others
        drawn = list(islice(slices, together))
        places_B = np.concatenate([np.arange(s.start, s.stop) for s in drawn])
        epochs_B, ids_B = order(
            sort_by_group(places_B, stream.groups, start=cut.start, global_batch=cut.global_batch)
        )
        ends = np.cumsum([len(s) for s in drawn])
        for positions, end in zip(drawn, ends.tolist(), strict=True):
            rows = slice(end - len(positions), end)
            yield Turn(position=positions.start, epochs_B=epochs_B[rows], ids_B=ids_B[rows])
        together = min(2 * together, -(-CALL // cut.micro_batch))


def turns_of(ids_N: NDArray[np.int64], batch: int) -> Iterator[Turn]:
    """Yield samples in the order of `ids`, `batch` at a time; their positions count in `ids`."""
    for start in range(0, len(ids_N), batch):
        ids_B = ids_N[start : start + batch]
        yield Turn(position=start, epochs_B=np.zeros_like(ids_B), ids_B=ids_B)


def stream_order(stream: SampleStream, shard_samples: Sequence[int]) -> Order:
    """The order of a stream's samples at every position, whoever takes them."""
    samples = sum(shard_samples)

    def order_of(group: int) -> Order:
        share = share_of(group, stream.groups, samples)
        if stream.shuffle == "full":
            return partial(sample_ids, size=len(share), seed=stream.seed, group=group)
        own = samples_of(share, shard_samples)
        return WindowOrder(own, stream.seed, window=stream.window, group=group)

    return GroupedOrder([order_of(group) for group in range(stream.groups)], samples)


def rank_slice(turn: int, cut: BatchCut) -> range:
    """Return the places of a rank's micro-batch number `turn` (0, 1, ...), counted from the cut's start.

    Step s covers the global batch from start + s * global_batch; rank r takes the r-th of `world` contiguous
    parts, which the micro-batches of that step split in order.  Of global batch 12, micro-batch 3 and 2 ranks
    from position 100 on, rank 1 takes 106 to 108, then 109 to 111, then 118 to 120.  A place is a position,
    unless there are groups: by these the positions of a step are sorted.
    """
    share = cut.global_batch // cut.world
    step, micro = divmod(turn, share // cut.micro_batch)
    first = cut.start + step * cut.global_batch + cut.rank * share + micro * cut.micro_batch
    return range(first, first + cut.micro_batch)


def epoch_slices(cut: BatchCut, samples: int) -> Iterator[range]:
    """Yield a rank's positions of each step, for ever, where a step ends with the epoch.

    The last step of an epoch takes equal shares of what is left: on one rank all of it, on several so much
    that fewer samples than ranks are left out of the epoch.  Of 10 samples, micro-batch 2 and 2 ranks, rank 1
    takes 2 and 3, then 6 and 7, then 9.  Raises UserError: fewer samples than ranks.
    """
    if samples < cut.world:
        raise UserError(f"{samples} samples for {cut.world} ranks: an epoch needs at least one for each")
    position = cut.start
    while True:
        end = (position // samples + 1) * samples
        share = min(cut.micro_batch, (end - position) // cut.world)
        first = position + cut.rank * share
        if share:
            yield range(first, first + share)
        position = next_position(first, share, cut, samples)


def next_position(first: int, share: int, cut: BatchCut, samples: int) -> int:
    """The position at which the step after one of `epoch_slices` begins.

    first: position of this rank's first sample in the step; share: samples of each rank in it.
    """
    done = first + (cut.world - cut.rank) * share
    left = -done % samples
    return done + left if left < cut.world else done


def epoch_batches(cut: BatchCut, samples: int) -> int:
    """How many steps `epoch_slices` gives a whole epoch of `samples`."""
    steps, left = divmod(samples, cut.global_batch)
    return steps + (left >= cut.world)
