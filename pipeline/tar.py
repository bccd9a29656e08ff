"""The bytes of our tar files and of the DALI v1.2 index beside each, written and read.

A sample is two USTAR members, KEY.cls (decimal text), then KEY.jpg|png|webp; its index line is
`cls OFFSET SIZE KEY.cls jpg OFFSET SIZE KEY.jpg`, where OFFSET is the member's first data byte.
"""

import re
import tarfile
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Size = TypeVar("Size", int, npt.NDArray[np.int64])

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE

# values of an index line: extension, offset, size, name; twice
FIELDS = 8
LINE = "cls OFFSET SIZE KEY.cls jpg OFFSET SIZE KEY.jpg"


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


def index_text(lines: list[str]) -> bytes:
    """Give the index file of a tar, from one line a sample."""
    return "\n".join((f"v1.2 {len(lines)}", *lines, "")).encode()


def parse_index(text: bytes) -> npt.NDArray[np.int64]:
    """Parse the index file of one of our tars.

    Returns (4, N) int64: label offset, label bytes, image offset, image bytes.  Raises ValueError on anything
    else.
    """
    head, _, body = text.partition(b"\n")
    match = re.fullmatch(rb"v1\.2 (\d{1,12})", head)
    if not match:
        raise ValueError(f"its first line is {head[:40]!r}, not 'v1.2 SAMPLES'")
    samples = int(match[1])
    chars = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero((chars == ord(" ")) | (chars == ord("\n")))
    if len(ends) != FIELDS * samples or (samples and ends[-1] != len(chars) - 1):
        raise ValueError(f"it is not {samples:,} lines of '{LINE}'")
    if samples == 0:
        return np.zeros((4, 0), np.int64)
    ends_NF = ends.reshape(samples, FIELDS)
    starts_NF = np.concatenate(([0], ends[:-1] + 1)).reshape(samples, FIELDS)
    kind_N4 = chars[starts_NF[:, :1] + np.arange(4)]
    if (chars[ends_NF[:, -1]] != ord("\n")).any() or (kind_N4 != np.frombuffer(b"cls ", np.uint8)).any():
        raise ValueError(f"a line is not '{LINE}'")
    return np.stack([_decimal(chars, starts_NF[:, field], ends_NF[:, field]) for field in (1, 2, 5, 6)])


def check_layout(columns_4N: npt.NDArray[np.int64], samples: int, tar_bytes: int) -> None:
    """Check that `samples` members follow each other without a gap and end where the tar ends, else
    ValueError.

    This finds the index of another tar without reading the tar.
    """
    if columns_4N.shape[1] != samples:
        raise ValueError(f"it lists {columns_4N.shape[1]:,} samples, the manifest {samples:,}")
    offset_N, label_bytes_N, image_offset_N, image_bytes_N = columns_4N
    after_N = np.concatenate(([0], round_up(image_offset_N + image_bytes_N, BLOCK)))
    contiguous = (
        np.array_equal(offset_N, after_N[:-1] + BLOCK)
        and np.array_equal(image_offset_N, round_up(offset_N + label_bytes_N, BLOCK) + BLOCK)
        and round_up(int(after_N[-1]) + 2 * BLOCK, RECORD) == tar_bytes
    )
    if not contiguous:
        raise ValueError("its offsets are those of another tar")


def round_up(size: Size, unit: int) -> Size:
    """Round up to a multiple of `unit`."""
    return -(-size // unit) * unit


def _decimal(
    chars: npt.NDArray[np.uint8], starts_N: npt.NDArray[np.int64], ends_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Read the decimal numbers at chars[starts:ends] all at once: a step a digit, not a step a number."""
    width_N = ends_N - starts_N
    if width_N.min() < 1 or width_N.max() > 18:
        raise ValueError("an offset or a size is empty, or has over 18 digits")
    value_N = np.zeros(len(width_N), np.int64)
    for place in range(int(width_N.max())):
        # bytes below "0" wrap around to above 9
        digit_N = chars[np.minimum(starts_N + place, ends_N - 1)] - np.uint8(ord("0"))
        inside_N = place < width_N
        if (digit_N[inside_N] > 9).any():
            raise ValueError("an offset or a size is not a decimal number")
        value_N = np.where(inside_N, value_N * 10 + digit_N, value_N)
    return value_N
