"""The order of samples for slow storage: a few shards at a time, all of their samples mixed.

In each epoch the shards are permuted and cut into windows of consecutive shards; samples are permuted inside
each window.  As in order.py the sample at a position is a pure function of integers; here a table of the
epoch's shards is looked up, so a position costs a binary search over the shards.
Shape suffixes: B samples, S shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.stream.order import permute, round_keys
from turbomim.pipeline.stream.philox import EPOCHS

# a batch may reach from one epoch into the next
TABLES: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpochTable:
    """The shards of one epoch in their order. shards_S: their numbers; ends_S: samples up to and with each.

    Both are (S,) int64.
    """

    shards_S: NDArray[np.int64]
    ends_S: NDArray[np.int64]


class WindowOrder:
    """The order of a split's samples in windows of `window` shards.

    Of shards with 3, 2 and 4 samples and a window of 2, an epoch whose order of shards is 2, 0, 1 first mixes
    the samples of shards 2 and 0 (ids 5 to 8 and 0 to 2), then those of shard 1 (ids 3 and 4).
    shard_samples: samples of each shard, in storage order; some may be 0; group: whose samples these are
    (groups.py).  Raises ValueError if no shard has a sample.
    """

    def __init__(
        self, shard_samples: Sequence[int] | NDArray[np.int64], seed: int, *, window: int, group: int = 0
    ) -> None:
        self._samples_S = np.asarray(shard_samples, np.int64)
        self._firsts_S = np.cumsum(self._samples_S) - self._samples_S
        self._size = int(self._samples_S.sum())
        if self._size < 1:
            raise ValueError("0 samples: the order is defined for at least 1")
        self._round_keys = partial(round_keys, seed, group=group)
        self._window = window
        self._table = lru_cache(TABLES)(self._make_table)

    def __call__(self, positions_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the sample id at each position, two (B,) int64 arrays.

        positions (B,) int64, at least 0, in any order.  Raises ValueError if one lies beyond epoch 2**32.
        """
        epochs_B, index_B = np.divmod(positions_B, self._size)
        ids_B = np.empty_like(index_B)
        for epoch in np.unique(epochs_B).tolist():
            (of_epoch,) = np.nonzero(epochs_B == epoch)
            ids_B[of_epoch] = self._ids(epoch, index_B[of_epoch])
        return epochs_B, ids_B

    def _make_table(self, epoch: int) -> EpochTable:
        if not 0 <= epoch < EPOCHS:
            raise ValueError(f"epoch {epoch}: the stream has 2**32 epochs, from 0")
        shards = len(self._samples_S)
        shards_S = permute(np.arange(shards), shards, self._round_keys(np.array([epoch])))
        return EpochTable(shards_S=shards_S, ends_S=np.cumsum(self._samples_S[shards_S]))

    def _ids(self, epoch: int, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of the samples at places `index` of an epoch, (B,) int64."""
        table = self._table(epoch)
        windows_B = np.searchsorted(table.ends_S, index_B, side="right") // self._window
        mixed_B = np.empty_like(index_B)
        for window in np.unique(windows_B).tolist():
            (inside,) = np.nonzero(windows_B == window)
            first, end = self._span(table, window)
            # number 0 is the order of the shards
            keys = self._round_keys(np.array([epoch]), number=1 + window)
            mixed_B[inside] = first + permute(index_B[inside] - first, end - first, keys)
        place_B = np.searchsorted(table.ends_S, mixed_B, side="right")
        shards_B = table.shards_S[place_B]
        before_B = table.ends_S[place_B] - self._samples_S[shards_B]
        ids_B: NDArray[np.int64] = self._firsts_S[shards_B] + (mixed_B - before_B)
        return ids_B

    def _span(self, table: EpochTable, window: int) -> tuple[int, int]:
        """Return the first place of a window in its epoch, and the first one after it."""
        begin, last = window * self._window, min((window + 1) * self._window, len(table.ends_S)) - 1
        return int(table.ends_S[begin - 1]) if begin else 0, int(table.ends_S[last])
