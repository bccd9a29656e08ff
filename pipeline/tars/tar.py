"""The bytes of our tar files.

A sample is two USTAR members, KEY.cls (decimal text), then KEY.jpg|png|webp|ppm; one of a foreign tar has any
members in any order.  Shape suffixes: N samples.
"""

import tarfile
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Size = TypeVar("Size", int, npt.NDArray[np.int64])

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE

# bytes: a label is a number in decimal text
LABEL_BYTES = 18
# what stands for a label where there is none: other programs expect a KEY.cls
NO_LABEL = -1


def is_label(content: bytes) -> bool:
    """Whether a label's bytes are a decimal number, or -1, which stands for none."""
    return content.strip().isdigit() or content.strip() == b"%d" % NO_LABEL


def tar_member(name: str, content: bytes) -> bytes:
    """Give one USTAR member: header, content, zeros up to the block.

    mtime, uid, gid are 0, mode is 0444, the owner's names are empty: equal content gives equal bytes.
    (webdataset's TarWriter accepts a format but leaves tarfile at PAX, so it is not used here.)
    """
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = 0o444
    return header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict") + content + bytes(-len(content) % BLOCK)


def tar_end(size: int) -> bytes:
    """Give what closes a tar of `size` bytes: two zero blocks, then zeros up to the record, as GNU tar
    does."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


def sample_bytes(label_bytes: int, image_bytes: int) -> int:
    """Give the bytes that a sample takes in the tar: two headers, two padded contents."""
    return 2 * BLOCK + round_up(label_bytes, BLOCK) + round_up(image_bytes, BLOCK)


def round_up(size: Size, unit: int) -> Size:
    """Round up to a multiple of `unit`."""
    return -(-size // unit) * unit
