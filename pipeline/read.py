"""Indexed reads: sample ids to encoded images and labels, a few batches ahead of whoever consumes them.

Each sample is one pread over its .cls member, the image's tar header and the image.  The header is compared
with the index, so a shard that was cut or replaced under a running job is an error, never a wrong picture.
Shape suffixes: B samples.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.errors import UserError
from turbomim.pipeline.order import Turn
from turbomim.pipeline.shards import Split
from turbomim.pipeline.tar import BLOCK

# half of the usual limit of 1024 descriptors a process stays free for everything else
OPEN_SHARDS = 512

REMEDY = "run `sha256sum -c SHA256SUMS` in the split's folder, then restore the shard or remake the split"

# fields of a USTAR header
SIZE_FIELD = slice(124, 136)
MAGIC_FIELD = slice(257, 262)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """Encoded images, one uint8 array each, views of what was read; labels (B,) int64."""

    images: list[NDArray[np.uint8]]
    labels_B: NDArray[np.int64]


@dataclass(slots=True)
class _OpenShard:
    descriptor: int
    users: int = 0


class ShardFiles:
    """The tar files of a split, opened at the first read of each; at most `limit` idle ones stay open.

    Safe to read from many threads; `close` only when none reads.
    """

    def __init__(self, split: Split, limit: int = OPEN_SHARDS) -> None:
        self._split = split
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def read(self, shard: int, length: int, offset: int) -> bytes:
        """Read up to `length` bytes of a shard; fewer only where the file ends.  Raises OSError."""
        # pread, not mmap: 8 µs a photograph against 3 µs from the page cache, but a shard that is cut under a
        # running job is a short read here and SIGBUS there
        file = self._take(shard)
        try:
            return os.pread(file.descriptor, length, offset)
        finally:
            self._give_back(file)

    def close(self) -> None:
        """Close every descriptor; a later read opens its shard again."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1].descriptor)

    def _take(self, shard: int) -> _OpenShard:
        with self._lock:
            file = self._open.get(shard)
            if file is None:
                file = _OpenShard(os.open(self._split.shard_path(shard), os.O_RDONLY | os.O_CLOEXEC))
                self._open[shard] = file
            self._open.move_to_end(shard)
            file.users += 1
            return file

    def _give_back(self, file: _OpenShard) -> None:
        with self._lock:
            file.users -= 1
            surplus = len(self._open) - self._limit
            if surplus > 0:
                idle = (shard for shard, other in self._open.items() if other.users == 0)
                for shard in list(islice(idle, surplus)):
                    os.close(self._open.pop(shard).descriptor)


def read_samples(split: Split, files: ShardFiles, ids_B: NDArray[np.int64]) -> Samples:
    """Read the samples with these ids, in this order.

    Raises UserError naming shard and offset if a shard cannot be read, ends early or holds something else.
    """
    index = split.index
    columns = (index.shard_N, index.offset_N, index.label_bytes_N, index.image_offset_N, index.image_bytes_N)
    rows = zip(*(column_N[ids_B].tolist() for column_N in columns), strict=True)
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for shard, offset, label_bytes, image_offset, image_bytes in rows:
        length = image_offset + image_bytes - offset
        try:
            content = files.read(shard, length, offset)
        except OSError as error:
            path = str(split.shard_path(shard))
            raise UserError(f"cannot read {path!r} at byte {offset}: {error.strerror}; {REMEDY}") from error
        image_start = image_offset - offset
        problem = _find_problem(content, length, label_bytes, image_start, image_bytes)
        if problem:
            where = f"{str(split.shard_path(shard))!r} at byte {offset}"
            raise UserError(f"{where}: {problem}, so the shard is not the one that was indexed; {REMEDY}")
        images.append(np.frombuffer(content, np.uint8, image_bytes, image_start))
        labels.append(int(content[:label_bytes]))
    return Samples(images=images, labels_B=np.array(labels, np.int64))


def _find_problem(
    content: bytes, length: int, label_bytes: int, image_start: int, image_bytes: int
) -> str | None:
    """Say what differs between the bytes read and what the index promised; None if nothing does."""
    if len(content) != length:
        return f"the file ends after {len(content)} of {length} bytes"
    header = content[image_start - BLOCK : image_start]
    if header[MAGIC_FIELD] != b"ustar":
        return f"no tar header stands before the image ({header[MAGIC_FIELD]!r}, not b'ustar')"
    size = header[SIZE_FIELD].rstrip(b"\0 ")
    if size.lstrip(b"0") != b"%o" % image_bytes:
        return f"the image's tar header says {size!r} bytes in octal, not {image_bytes:o}"
    if not content[:label_bytes].isdigit():
        return f"the label is {content[:label_bytes][:20]!r}, not a decimal number"
    return None


class ReadAhead(Iterator[tuple[Turn, Samples]]):
    """Turns with their samples, strictly in order, while `readers` threads read the next `prefetch` turns.

    Raises whatever a read raised, when its turn comes.  Reading begins at the first `next`.
    """

    def __init__(self, split: Split, turns: Iterable[Turn], *, readers: int, prefetch: int) -> None:
        self._split = split
        self._turns = iter(turns)
        self._readers = readers
        self._prefetch = prefetch
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
        shares = [read.result() for read in reads]
        images = [image for share in shares for image in share.images]
        return turn, Samples(images=images, labels_B=np.concatenate([share.labels_B for share in shares]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is queued, wait for the reads under way, end the threads and close the files."""
        self._pool.shutdown(cancel_futures=True)
        self._queue.clear()
        self._files.close()
