"""Indexed reads: sample ids to encoded images and labels.

Each sample is one pread over its label, the image's tar header and the image; a label that lies elsewhere is
a second one.  The header is compared with the index, so a shard that was cut or replaced under a running job
is an error, never a wrong picture.
Shape suffixes: B samples.
"""

import os
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.reading.memory import Memory
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.open_files import OPEN_FILES
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.tar import BLOCK, NO_LABEL, is_label

REMEDY = "run `sha256sum -c SHA256SUMS` in the split's folder, then restore the shard or remake the split"

# bytes that one read may span between a label and its image: more headers, a short member
NEAR = 4096

# fields of a USTAR header
SIZE_FIELD = slice(124, 136)
MAGIC_FIELD = slice(257, 262)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """Encoded images, one uint8 array each, views of what was read; labels (B,) int64, -1 for none."""

    images: list[NDArray[np.uint8]]
    labels_B: NDArray[np.int64]


class ShardFiles(Closing):
    """The tar files of a split, opened at the first read of each.

    They stay open as pipeline/system/open_files.py allows.
    Safe to read from many threads; `close` only when none reads.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self.memory = Memory()
        # by thread, oldest first
        self._reading: dict[int, tuple[int, int]] = {}

    def read(self, shard: int, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from a shard; return the bytes read, fewer only where the file ends.

        Raises OSError.
        """
        # pread, not mmap: it copies, some 10 µs a photograph, but a shard that is cut under a running job is
        # a short read here and SIGBUS there
        thread = threading.get_ident()
        self._reading[thread] = shard, offset
        try:
            file = OPEN_FILES.take(self, shard, self._split.shard_path)
            try:
                done = 0
                # some file systems in user space give less at a time, and Linux never 2 GiB
                while done < len(buffer):
                    size = os.preadv(file.descriptor, (buffer[done:],), offset + done)
                    if size == 0:
                        break
                    done += size
                return done
            finally:
                OPEN_FILES.give_back(file)
        finally:
            del self._reading[thread]

    def oldest_read(self) -> str | None:
        """Name the shard and the offset of the read that began first of those under way."""
        oldest = next(iter(list(self._reading.values())), None)
        return oldest and f"{str(self._split.shard_path(oldest[0]))!r} at byte {oldest[1]}"

    def close(self) -> None:
        """Close every descriptor; a later read opens its shard again."""
        OPEN_FILES.close(self)


def read_samples(split: Split, files: ShardFiles, ids_B: NDArray[np.int64]) -> Samples:
    """Read the samples with these ids, in this order.

    Raises UserError naming shard and offset if a shard cannot be read, ends early or holds something else.
    """
    index = split.index
    shard_B, label_B, label_bytes_B = index.shard_N[ids_B], index.offset_N[ids_B], index.label_bytes_N[ids_B]
    image_B, image_bytes_B = index.image_offset_N[ids_B], index.image_bytes_N[ids_B]
    gap_B = image_B - label_B - label_bytes_B
    joined_B = (label_bytes_B > 0) & (gap_B >= BLOCK) & (gap_B <= NEAR)
    begin_B = np.where(joined_B, label_B, image_B - BLOCK)
    end_B = np.cumsum(image_B + image_bytes_B - begin_B)
    memory = files.memory.take(int(end_B[-1]) if len(ids_B) else 0)
    content, buffer = memory.view(), memory.data
    # the images are views of it, and nobody's to change
    content.flags.writeable = False
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    columns = (shard_B, label_B, label_bytes_B, joined_B, begin_B, image_B - begin_B, image_bytes_B, end_B)
    start = 0
    for shard, label_at, label_bytes, joined, begin, lead, image_bytes, end in zip(
        *(column_B.tolist() for column_B in columns), strict=True
    ):
        _fill(split, files, shard, buffer[start:end], begin)
        head = content[start : start + lead].tobytes()
        label = head[:label_bytes]
        if label_bytes and not joined:
            apart = bytearray(label_bytes)
            _fill(split, files, shard, memoryview(apart), label_at)
            label = bytes(apart)
        problem = _find_problem(head[-BLOCK:], image_bytes, label)
        if problem:
            raise _changed(split, shard, begin, problem)
        images.append(content[start + lead : end])
        labels.append(int(label) if label else NO_LABEL)
        start = end
    return Samples(images=images, labels_B=np.array(labels, np.int64))


def _fill(split: Split, files: ShardFiles, shard: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` from a shard, or raise UserError."""
    try:
        size = files.read(shard, buffer, offset)
    except OSError as error:
        path = str(split.shard_path(shard))
        raise UserError(f"cannot read {path!r} at byte {offset}: {explain(error, REMEDY)}") from error
    if size != len(buffer):
        raise _changed(split, shard, offset, f"the file ends after {size} of {len(buffer)} bytes")


def _changed(split: Split, shard: int, offset: int, problem: str) -> UserError:
    where = f"{str(split.shard_path(shard))!r} at byte {offset}"
    return UserError(f"{where}: {problem}, so the shard is not the one that was indexed; {REMEDY}")


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
