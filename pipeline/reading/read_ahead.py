"""Samples read a few batches ahead of whoever consumes them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from turbomim.pipeline.reading.shard_files import Samples, ShardFiles, read_samples
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.tars.split import Split


class ReadAhead(Closing, Iterator[tuple[Turn, Samples]]):
    """Turns with their samples, strictly in order, while `readers` threads read the next `prefetch` turns.

    on_wait: called every `wait_s` seconds while `next` waits for a read, with a line that names it.
    Raises whatever a read raised, when its turn comes.  Reading begins at the first `next`.
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
    ) -> None:
        self._split = split
        self._turns = iter(turns)
        self._readers = readers
        self._prefetch = prefetch
        self._on_wait = on_wait
        self._wait_s = wait_s
        self._files = ShardFiles(split)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="turbomim-read")
        self._queue: deque[tuple[Turn, list[Future[Samples]]]] = deque()

    def __next__(self) -> tuple[Turn, Samples]:
        while len(self._queue) <= self._prefetch and (turn := next(self._turns, None)) is not None:
            # every reader gets a share of every batch: on slow storage the first batch needs them all
            parts = np.array_split(turn.ids_B, min(self._readers, len(turn.ids_B)))
            reads = [self._pool.submit(read_samples, self._split, self._files, part_B) for part_B in parts]
            self._queue.append((turn, reads))
        if not self._queue:
            raise StopIteration
        turn, reads = self._queue.popleft()
        begun = time.monotonic()
        for read in reads:
            while not wait((read,), self._wait_s).done:
                self._tell(time.monotonic() - begun)
        shares = [read.result() for read in reads]
        images = [image for share in shares for image in share.images]
        return turn, Samples(images=images, labels_B=np.concatenate([share.labels_B for share in shares]))

    def _tell(self, seconds: float) -> None:
        read = self._files.oldest_read()
        if self._on_wait is not None and read is not None:
            self._on_wait(f"waiting for {read}, {seconds:.0f} s so far: slow or unreachable storage?")

    def close(self) -> None:
        """Drop what is queued, wait for the reads under way, end the threads and close the files."""
        self._pool.shutdown(cancel_futures=True)
        self._queue.clear()
        self._files.close()
