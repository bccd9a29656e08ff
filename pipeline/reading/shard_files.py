"""Indexed reads: sample ids to encoded images and labels.

Each sample is one range over its label, the image's tar header and the image; a label that lies elsewhere is
a second one.  The header is compared with the index, so a shard that was cut or replaced under a running job
is an error, never a wrong picture.
Shape suffixes: B samples, A labels apart from their images, R requests.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.places.folder import fill
from turbomim.pipeline.reading.memory import Memory
from turbomim.pipeline.reading.requests import NEAR, merged, one_each
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.executors import wait_unless
from turbomim.pipeline.system.open_files import OPEN_FILES
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.tar import BLOCK, NO_LABEL, is_label

# to a store of objects, a reader: each waits some tens of milliseconds for an answer
REQUESTS = 16

REMEDY = "run `turbomim shard verify` on the split, then restore the shard or remake the split"

# fields of a USTAR header
SIZE_FIELD = slice(124, 136)
MAGIC_FIELD = slice(257, 262)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """Encoded images, one uint8 array each, views of what was read; labels (B,) int64, -1 for none."""

    images: list[NDArray[np.uint8]]
    labels_B: NDArray[np.int64]


class ShardFiles(Closing):
    """The tar files of a split, for reading: opened at the first read of each, or asked for by requests.

    Files stay open as pipeline/system/open_files.py allows.  readers: each makes
    REQUESTS to a store of objects at a time.  Safe to read from many threads; `close` only when none reads.
    """

    def __init__(self, split: Split, *, readers: int = 2) -> None:
        self._split = split
        self._memory = Memory()
        # by thread, oldest first
        self._reading: dict[int, tuple[int, int]] = {}
        self._halt = threading.Event()
        self._pool = (
            None
            if split.tars.folder
            else ThreadPoolExecutor(REQUESTS * readers, thread_name_prefix="turbomim-request")
        )

    def read(self, shard: int, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from a shard; return the bytes read, fewer only where the file ends.

        Raises OSError.
        """
        thread = threading.get_ident()
        self._reading[thread] = shard, offset
        try:
            if self._pool is not None:
                return self._split.read_into(shard, buffer, offset, halt=self._halt)
            file = OPEN_FILES.take(self, shard, self._split.shard_path)
            try:
                return fill(file.descriptor, buffer, offset)
            finally:
                OPEN_FILES.give_back(file)
        finally:
            del self._reading[thread]

    def read_parts(
        self, shard_P: NDArray[np.int64], begin_P: NDArray[np.int64], end_P: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read parts of shards, bytes `begin` to `end` each.  Returns all bytes, and where each part begins.

        Raises UserError naming shard and offset; Stopped after `halt`, where requests are still on their way.
        """
        requests = (one_each if self._pool is None else merged)(shard_P, begin_P, end_P)
        content = self._memory.take(requests.bytes)
        columns = (requests.shard_R, requests.begin_R, requests.end_R, requests.parts_R, requests.at_R)
        buffer, cache = content.view().data, self._split.cache
        reads: list[Future[None]] = []
        try:
            for shard, begin, end, parts, at in zip(
                *(column_R.tolist() for column_R in columns), strict=True
            ):
                part = buffer[at : at + end - begin]
                if self._pool is None:
                    self._fill(shard, part, begin)
                elif cache is None or not cache.read_into(shard, part, begin, samples=parts):
                    reads.append(self._pool.submit(self._fill, shard, part, begin))
        finally:
            # for all, whatever befell one: they write into this memory, which nobody has again after `halt`
            wait_unless(self._halt.is_set, reads)
        for read in reads:
            read.result()
        # the images are views of it, and nobody's to change
        content.flags.writeable = False
        return content, requests.at_P

    def oldest_read(self) -> str | None:
        """Name the shard and the offset of the read that began first of those under way."""
        oldest = next(iter(list(self._reading.values())), None)
        return oldest and f"{self._at(oldest[0])!r} at byte {oldest[1]}"

    def halt(self) -> None:
        """Let no request be made, or made again: whoever waits for one is told within LOOK seconds."""
        self._halt.set()

    def close(self) -> None:
        """Close every descriptor; a later read opens its shard again.

        Requests that a store does not answer are left alone: each ends with its own limit (stores.py).
        """
        self.halt()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        OPEN_FILES.close(self)

    def changed(self, shard: int, offset: int, problem: str) -> UserError:
        """The error for a shard that holds something else than its index says."""
        where = f"{self._at(shard)!r} at byte {offset}"
        return UserError(f"{where}: {problem}, so the shard is not the one that was indexed; {REMEDY}")

    def _at(self, shard: int) -> str:
        return self._split.tars.at(self._split.manifest.shards[shard].name)

    def _fill(self, shard: int, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from a shard, or raise UserError."""
        try:
            size = self.read(shard, buffer, offset)
        except OSError as error:
            where = f"{self._at(shard)!r} at byte {offset}"
            if self._pool is not None:
                where = f"bytes {offset} to {offset + len(buffer) - 1} of {self._at(shard)!r}"
            raise UserError(f"cannot read {where}: {explain(error, REMEDY)}") from error
        if size != len(buffer):
            raise self.changed(shard, offset, f"the file ends after {size} of {len(buffer)} bytes")


def read_samples(split: Split, files: ShardFiles, ids_B: NDArray[np.int64]) -> Samples:
    """Read the samples with these ids, in this order.

    Raises UserError naming shard and offset if a shard cannot be read, ends early or holds something else.
    """
    index = split.index
    shard_B, label_B = index.shard_N[ids_B].astype(np.int64), index.offset_N[ids_B]
    label_bytes_B = index.label_bytes_N[ids_B].astype(np.int64)
    image_B, image_bytes_B = index.image_offset_N[ids_B], index.image_bytes_N[ids_B].astype(np.int64)
    gap_B = image_B - label_B - label_bytes_B
    joined_B = (label_bytes_B > 0) & (gap_B >= BLOCK) & (gap_B <= NEAR)
    begin_B = np.where(joined_B, label_B, image_B - BLOCK)
    (apart_A,) = np.nonzero((label_bytes_B > 0) & ~joined_B)
    content, at_P = files.read_parts(
        np.concatenate([shard_B, shard_B[apart_A]]),
        np.concatenate([begin_B, label_B[apart_A]]),
        np.concatenate([image_B + image_bytes_B, label_B[apart_A] + label_bytes_B[apart_A]]),
    )
    # a label that is joined begins its part
    label_at_B = at_P[: len(ids_B)].copy()
    label_at_B[apart_A] = at_P[len(ids_B) :]
    image_at_B = at_P[: len(ids_B)] + image_B - begin_B
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    columns = (shard_B, begin_B, image_at_B, image_bytes_B, label_at_B, label_bytes_B)
    for shard, begin, image_at, image_bytes, label_at, label_bytes in zip(
        *(column_B.tolist() for column_B in columns), strict=True
    ):
        label = content[label_at : label_at + label_bytes].tobytes()
        problem = _find_problem(content[image_at - BLOCK : image_at].tobytes(), image_bytes, label)
        if problem:
            raise files.changed(shard, begin, problem)
        images.append(content[image_at : image_at + image_bytes])
        labels.append(int(label) if label else NO_LABEL)
    return Samples(images=images, labels_B=np.array(labels, np.int64))


def _find_problem(header: bytes, image_bytes: int, label: bytes) -> str | None:
    """Say what differs between the bytes read and what the index promised; None if nothing does."""
    if header[MAGIC_FIELD] != b"ustar":
        return f"no tar header stands before the image ({header[MAGIC_FIELD]!r}, not b'ustar')"
    size = header[SIZE_FIELD].strip(b"\0 ")
    if (size.lstrip(b"0") or b"0") != b"%o" % image_bytes:
        return f"the image's tar header says {size!r} bytes in octal, not {image_bytes:o}"
    if label and not is_label(label):
        return f"the label is {label!r}, not a decimal number"
    return None
