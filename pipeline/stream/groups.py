"""Groups: a stream of several streams, each over its own share of the shards.

A step takes as many samples of each.  So a machine that serves one group reads the shards of that one alone.
Of N samples in storage order, group k of g has those from k * N // g on, up to (k + 1) * N // g; only a shard
in which a share ends is in two groups.  Each group has its own epochs and its own permutations.
Shape suffixes: B samples, S shards.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.stream.order import Order

# numbers of groups are the upper 16 bits of the ids that orders are keyed by
MOST_GROUPS: Final = 2**16


def share_of(group: int, groups: int, samples: int) -> range:
    """The sample ids of a group: its share of the storage order."""
    return range(group * samples // groups, (group + 1) * samples // groups)


def shards_of(share: range, shard_samples: Sequence[int]) -> range:
    """The numbers of the shards that hold a share, which is not empty."""
    ends_S = np.cumsum(shard_samples, dtype=np.int64)
    first, last = np.searchsorted(ends_S, [share.start, share.stop - 1], side="right").tolist()
    return range(first, last + 1)


def samples_of(share: range, shard_samples: Sequence[int]) -> NDArray[np.int64]:
    """How many samples of a share each of its shards holds, (S,) int64, in storage order.

    Shards without samples are of every share, so that all samples together are `shard_samples` again.
    """
    samples_S = np.asarray(shard_samples, np.int64)
    ends_S = np.cumsum(samples_S)
    inside_S = np.minimum(ends_S, share.stop) - np.maximum(ends_S - samples_S, share.start)
    own_S: NDArray[np.int64] = inside_S.clip(min=0)[(inside_S > 0) | (samples_S == 0)]
    return own_S


def groups_of(rank: int, world: int, groups: int) -> range:
    """The groups that a rank meets: one, where the number of ranks is a multiple of the number of groups."""
    return range(rank * groups // world, -(-(rank + 1) * groups // world))


def sort_by_group(
    places_B: NDArray[np.int64], groups: int, *, start: int, global_batch: int
) -> NDArray[np.int64]:
    """Return the position that stands at each place of a stream whose steps are sorted by group.

    places and positions (B,) int64, from `start` on; position p is of group p % groups.  start and
    global_batch are multiples of `groups`.  With 2 groups and steps of 4 from 0 on, the places 0 to 7 hold
    the positions 0, 2, 1, 3, 4, 6, 5, 7.  One group leaves all as they are.
    """
    in_step_B = (places_B - start) % global_batch
    groups_B, turns_B = np.divmod(in_step_B, global_batch // groups)
    positions_B: NDArray[np.int64] = places_B - in_step_B + turns_B * groups + groups_B
    return positions_B


class GroupedOrder:
    """The order of a stream of groups: position p is place p // g of group p % g, for g groups.

    orders: each group's own, over ids from 0 on; samples: of all groups.
    """

    def __init__(self, orders: Sequence[Order], samples: int) -> None:
        self._orders = orders
        self._firsts = [share_of(group, len(orders), samples).start for group in range(len(orders))]

    def __call__(self, positions_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch, its group's, and the sample id at each position, two (B,) int64 arrays."""
        places_B, groups_B = np.divmod(positions_B, len(self._orders))
        epochs_B, ids_B = np.empty_like(places_B), np.empty_like(places_B)
        for group in np.unique(groups_B).tolist():
            (inside,) = np.nonzero(groups_B == group)
            epochs_B[inside], own_ids = self._orders[group](places_B[inside])
            ids_B[inside] = self._firsts[group] + own_ids
        return epochs_B, ids_B
