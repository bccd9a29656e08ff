"""What is wanted of shards, as the fewest requests: neighbours become one, and no byte is asked for twice.

Shape suffixes: P parts that are wanted, R requests.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# bytes between two parts that are read with them: headers and padding of a tar, some short member
NEAR: Final = 4096
# bytes of a merged request, if no part alone is larger: larger ones come no faster
MOST: Final = 8 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Requests:
    """Ranges of shards, each to be read once, into memory one behind the other.

    shard_R, begin_R, end_R: number of a shard, and bytes of it from `begin` up to `end`; parts_R: how many
    parts they hold; at_R: where a request's bytes begin in that memory; at_P: where a part's do.  All int64.
    """

    shard_R: NDArray[np.int64]
    begin_R: NDArray[np.int64]
    end_R: NDArray[np.int64]
    parts_R: NDArray[np.int64]
    at_R: NDArray[np.int64]
    at_P: NDArray[np.int64]

    @property
    def bytes(self) -> int:
        """Size of that memory."""
        return int((self.end_R - self.begin_R).sum())


def one_each(shard_P: NDArray[np.int64], begin_P: NDArray[np.int64], end_P: NDArray[np.int64]) -> Requests:
    """A request a part, in their order: for a disk, which reads ahead by itself.

    Parts are bytes `begin` to `end` of shards, (P,) int64.
    """
    at_P = np.cumsum(end_P - begin_P) - (end_P - begin_P)
    return Requests(
        shard_R=shard_P, begin_R=begin_P, end_R=end_P, parts_R=np.ones_like(at_P), at_R=at_P, at_P=at_P
    )


def merged(shard_P: NDArray[np.int64], begin_P: NDArray[np.int64], end_P: NDArray[np.int64]) -> Requests:
    """Requests for a store of objects, where each costs time and money.

    Parts of a shard that overlap, or lie NEAR, are one, up to MOST bytes.  Of the parts 0:700, 9000:9500 and
    1024:2000 of a shard, the first and the third become the request 0:2000, the second is one of its own.
    """
    requests: list[list[int]] = []
    request_P = np.empty(len(shard_P), np.int64)
    for part in np.lexsort((begin_P, shard_P)).tolist():
        shard, begin, end = int(shard_P[part]), int(begin_P[part]), int(end_P[part])
        last = requests[-1] if requests else None
        if (
            last is not None
            and shard == last[0]
            and (end <= last[2] or (begin <= last[2] + NEAR and end <= last[1] + MOST))
        ):
            last[2] = max(last[2], end)
        else:
            requests.append([shard, begin, end])
        request_P[part] = len(requests) - 1
    shard_R, begin_R, end_R = np.array(requests, np.int64).reshape(-1, 3).T
    at_R = np.cumsum(end_R - begin_R) - (end_R - begin_R)
    at_P = at_R[request_P] + begin_P - begin_R[request_P]
    parts_R = np.bincount(request_P, minlength=len(requests))
    return Requests(shard_R=shard_R, begin_R=begin_R, end_R=end_R, parts_R=parts_R, at_R=at_R, at_P=at_P)
