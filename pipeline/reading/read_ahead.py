"""Samples read a few batches ahead of whoever consumes them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Final

import numpy as np

from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.reading.shard_files import Samples, ShardFiles, read_samples
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import Stopped, never
from turbomim.pipeline.system.executors import LOOK
from turbomim.pipeline.tars.split import Split

# bytes of shards that are asked for together of a store of objects
GROUP: Final = 24 * 2**20


class ReadAhead(Closing, Iterator[tuple[Turn, Samples]]):
    """Turns with their samples, strictly in order, while threads read the next ones.

    readers: threads that read, or that each make requests to a store of objects; prefetch: turns read ahead.
    A store of objects is asked for groups of turns, up to GROUP bytes, so that what lies side by side in a
    shard is one request: there it is the groups that are read ahead.
    on_wait: called every `wait_s` seconds while `next` waits for a read, with a line that names it; stopping:
    asked every LOOK seconds meanwhile.  Reading begins at the first `next`.
    Raises whatever a read raised, when its turn comes; Stopped while `next` waits, once `stopping` says so.
    """

    def __init__(
        self,
        split: Split,
        turns: Iterable[Turn],
        *,
        readers: int,
        prefetch: int,
        on_wait: Callable[[str], None] | None = None,
        wait_s: float = 5.0,
        stopping: Callable[[], bool] = never,
    ) -> None:
        self._split = split
        self._turns = iter(turns)
        self._prefetch = prefetch
        self._on_wait = on_wait
        self._wait_s = wait_s
        self._stopping = stopping
        self._remote = split.tars.folder is None
        # a group's reader waits for the requests, which threads of the files make
        self._readers = prefetch + 1 if self._remote else readers
        self._files = ShardFiles(split, readers=readers)
        self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="turbomim-read")
        self._queue: deque[tuple[list[Turn], list[Future[Samples]]]] = deque()
        self._read: deque[tuple[Turn, Samples]] = deque()
        # turns of the next group: the first does not wait for others
        self._together = 1

    def __next__(self) -> tuple[Turn, Samples]:
        while len(self._queue) <= self._prefetch and (group := list(islice(self._turns, self._together))):
            self._queue.append((group, self._begin(group)))
            self._together = self._next_together(group)
        if not self._read:
            if not self._queue:
                raise StopIteration
            self._read.extend(self._take(*self._queue.popleft()))
        return self._read.popleft()

    def _begin(self, group: list[Turn]) -> list[Future[Samples]]:
        """Begin to read the samples of a group, in shares."""
        ids_B = np.concatenate([turn.ids_B for turn in group])
        # every reader gets a share of every batch: on slow storage the first batch needs them all
        shares = 1 if self._remote else min(self._readers, len(ids_B))
        return [
            self._pool.submit(read_samples, self._split, self._files, share_B)
            for share_B in np.array_split(ids_B, shares)
        ]

    def _next_together(self, group: list[Turn]) -> int:
        """Turns of the group after this one: twice as many, within GROUP bytes."""
        if not self._remote:
            return 1
        manifest = self._split.manifest
        turn_bytes = len(group[0].ids_B) * manifest.bytes // manifest.samples
        return max(1, min(2 * len(group), GROUP // max(1, turn_bytes)))

    def _take(self, group: list[Turn], reads: list[Future[Samples]]) -> Iterator[tuple[Turn, Samples]]:
        """Wait for the reads of a group, and give each turn its samples."""
        begun = told = time.monotonic()
        for read in reads:
            while not wait((read,), min(LOOK, self._wait_s)).done:
                if self._stopping():
                    raise Stopped
                if (now := time.monotonic()) - told >= self._wait_s:
                    self._tell(now - begun)
                    told = now
        shares = [read.result() for read in reads]
        images = [image for share in shares for image in share.images]
        labels = np.concatenate([share.labels_B for share in shares])
        first = 0
        for turn in group:
            rows = slice(first, first + len(turn.ids_B))
            yield turn, Samples(images=images[rows], labels_B=labels[rows])
            first = rows.stop

    def _tell(self, seconds: float) -> None:
        read = self._files.oldest_read()
        # a request that fails says why
        due = not self._remote or TRAFFIC.due(1.5)
        if self._on_wait is not None and read is not None and due:
            self._on_wait(f"waiting for {read}, {seconds:.0f} s so far: slow or unreachable storage?")

    def close(self) -> None:
        """Drop what is queued, wait for the reads under way, end the threads and close the files.

        Requests to a store are not waited for.
        """
        self._files.halt()
        self._pool.shutdown(cancel_futures=True)
        self._queue.clear()
        self._read.clear()
        self._files.close()
