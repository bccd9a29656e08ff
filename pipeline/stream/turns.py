"""The stream of a rank: positions of a run cut into its micro-batches, and which sample stands at each.

Shape suffixes: B samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

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
    at a time ("window").  Raises UsageError: no stream has these values.
    """

    seed: int
    shuffle: Shuffle = "full"
    window: int = 16
    cut: BatchCut

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        need(self.shuffle in get_args(Shuffle), "shuffle", repr(self.shuffle), "full or window")
        need(self.window >= 1, "window", self.window, "at least 1 shard")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Turn:
    """One micro-batch of the stream: its first sample's position; epoch and id of each sample, (B,) int64."""

    position: int
    epochs_B: NDArray[np.int64]
    ids_B: NDArray[np.int64]


def turns(stream: SampleStream, shard_samples: Sequence[int]) -> Iterator[Turn]:
    """Yield a rank's micro-batches for ever.  shard_samples: samples of each shard, in storage order."""
    order: Order = (
        partial(sample_ids, size=sum(shard_samples), seed=stream.seed)
        if stream.shuffle == "full"
        else WindowOrder(shard_samples, stream.seed, window=stream.window)
    )
    done, together = 0, 1
    micro_batch = stream.cut.micro_batch
    while True:
        slices = [rank_slice(turn, stream.cut) for turn in range(done, done + together)]
        epochs_B, ids_B = order(np.concatenate([np.arange(s.start, s.stop) for s in slices]))
        for number, positions in enumerate(slices):
            rows = slice(number * micro_batch, (number + 1) * micro_batch)
            yield Turn(position=positions.start, epochs_B=epochs_B[rows], ids_B=ids_B[rows])
        done += together
        # small micro-batches are drawn several at a time, but the first does not wait for the others
        together = min(2 * together, -(-CALL // micro_batch))


def rank_slice(turn: int, cut: BatchCut) -> range:
    """Return the positions of a rank's micro-batch number `turn` (0, 1, ...), counted from the cut's start.

    Step s covers the global batch from start + s * global_batch; rank r takes the r-th of `world` contiguous
    parts, which the micro-batches of that step split in order.  Of global batch 12, micro-batch 3 and 2 ranks
    from position 100 on, rank 1 takes positions 106 to 108, then 109 to 111, then 118 to 120.
    """
    share = cut.global_batch // cut.world
    step, micro = divmod(turn, share // cut.micro_batch)
    first = cut.start + step * cut.global_batch + cut.rank * share + micro * cut.micro_batch
    return range(first, first + cut.micro_batch)
