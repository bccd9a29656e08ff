"""The DALI v1.2 index beside each tar, ours or foreign: written, read, and held against the tar.

A line is a sample: `EXT OFFSET SIZE NAME` of each of its members, where OFFSET is the first data byte.
Shape suffixes: N samples, M members of all samples.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from turbomim.pipeline.tars.keys import KEYS, Keys, looks_like_image
from turbomim.pipeline.tars.tar import BLOCK, LABEL_BYTES, RECORD, round_up

# values that an index line has for each member
FIELDS = 4
MEMBER = "EXT OFFSET SIZE NAME"


@dataclass(frozen=True, kw_only=True, slots=True)
class Members:
    """Which members of a sample are read, by extension, lower-cased. label: None for no labels.

    image: one of these; empty, while tars are indexed: the one whose last extension is an image's.
    keys: at which dot the sample's key ends and the extension begins.
    """

    image: tuple[str, ...] = ("jpg", "png", "webp", "ppm")
    label: str | None = "cls"
    keys: Keys = "first-dot"

    def is_image(self, extension: str) -> bool:
        """Whether a member with this extension is the sample's image."""
        return extension in self.image if self.image else looks_like_image(extension)

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Self:
        """Read the members out of a manifest's `made`, ours without a record.  Raises ValueError."""
        record = made.get("indexed", {"image": cls().image, "label": cls().label})
        try:
            # older versions knew but the first dot
            keys = record.get("keys", "first-dot")
            members = cls(image=tuple(record["image"]), label=record["label"], keys=keys)
            words = (*members.image, members.label or "none")
            if keys in KEYS and members.image and all(re.fullmatch("[!-~]+", word) for word in words):
                return members
        except (TypeError, KeyError, AttributeError):
            pass
        raise ValueError(f"indexed is {record!r}, not the extensions of the image and of the label")


OURS = Members()


def index_text(lines: list[str]) -> bytes:
    """Give the index file of a tar, from one line a sample."""
    return "\n".join((f"v1.2 {len(lines)}", *lines, "")).encode()


def index_lines(text: bytes) -> list[str]:
    """Give the lines of an index file, one a sample: `splitlines` would end them at other bytes too."""
    return text.decode("latin-1").split("\n")[1:-1]


def parse_index(text: bytes, members: Members = OURS) -> npt.NDArray[np.int64]:
    """Parse the index file of a tar: all lines at once, without a step of Python a sample.

    Returns (4, N) int64: label offset, label bytes, image offset, image bytes.  Where a sample has no label
    its bytes are 0 and its offset is the image's.  Raises ValueError on anything else.

    `v1.2 2`, `cls 512 1 a.cls jpg 1536 700 a.jpg`, `jpg 3072 90 b.jpg`, a line each, are three members of two
    samples, M = 3 and N = 2.  `ends` has the place of each of their 12 blanks and line ends, `ends_MF` a row
    of four for each member.  The members 1 and 2 end lines: `last_M` is 0 1 1, and `sample_M`, the lines that
    ended before each member, 0 0 1.  Their extensions are cls, jpg, jpg, so the images are those of the
    samples 0 and 1, and the one label is of the sample 0.  The result has the rows 512 3072 (b has no label),
    1 0, 1536 3072 and 700 90.
    """
    head, _, body = text.partition(b"\n")
    match = re.fullmatch(rb"v1\.2 (\d{1,12})", head)
    if not match:
        raise ValueError(f"its first line is {head[:40]!r}, not 'v1.2 SAMPLES'")
    samples = int(match[1])
    chars = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero((chars == ord(" ")) | (chars == ord("\n")))
    broken = ValueError(f"it is not {samples:,} lines of '{MEMBER}' a member")
    if len(ends) % FIELDS or (ends[-1] + 1 if len(ends) else 0) != len(chars):
        raise broken
    ends_MF = ends.reshape(-1, FIELDS)
    starts_MF = np.concatenate(([0], ends[:-1] + 1))[: len(ends)].reshape(-1, FIELDS)
    last_M = chars[ends_MF[:, -1]] == ord("\n")
    if np.count_nonzero(chars == ord("\n")) != samples:
        raise broken
    sample_M = np.cumsum(last_M) - last_M
    longest = 1 + max(len(extension) for extension in (*members.image, members.label or ""))
    extension_M = _extensions(chars, starts_MF[:, 0], ends_MF[:, 0], longest)

    def find(extensions: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """Sample, offset and bytes, (3, n), of the members with one of these extensions."""
        (member_n,) = np.nonzero(np.isin(extension_M, [extension.encode() for extension in extensions]))
        numbers = [_decimal(chars, starts_MF[member_n, field], ends_MF[member_n, field]) for field in (1, 2)]
        return np.stack([sample_M[member_n], *numbers])

    image_3N = find(members.image)
    images_N = np.bincount(image_3N[0], minlength=samples)
    if (images_N != 1).any():
        line = int(np.argmax(images_N != 1))
        wanted = " or ".join(members.image)
        raise ValueError(f"line {line + 2:,} has {images_N[line]} images ({wanted}), not one")
    columns_4N: npt.NDArray[np.int64] = np.stack(
        [image_3N[1], np.zeros_like(image_3N[1]), image_3N[1], image_3N[2]]
    )
    if members.label is not None:
        label_3n = find((members.label,))
        if (np.diff(label_3n[0]) == 0).any():
            raise ValueError(f"a line has more than one label ({members.label})")
        columns_4N[:2, label_3n[0]] = label_3n[1:]
    return columns_4N


def check_bounds(columns_4N: npt.NDArray[np.int64], samples: int, tar_bytes: int) -> None:
    """Check that there are `samples` samples whose members lie on blocks inside the tar, else ValueError."""
    if columns_4N.shape[1] != samples:
        raise ValueError(f"it lists {columns_4N.shape[1]:,} samples, the manifest {samples:,}")
    offset_2N, bytes_2N = columns_4N[0::2], columns_4N[1::2]
    if (offset_2N < BLOCK).any() or (offset_2N % BLOCK).any() or (offset_2N + bytes_2N > tar_bytes).any():
        raise ValueError("its offsets are those of another tar")
    if (bytes_2N[0] > LABEL_BYTES).any() or (bytes_2N[1] >= 2**31).any():
        raise ValueError(f"a label has over {LABEL_BYTES} bytes, or an image over 2 GiB")


def check_layout(columns_4N: npt.NDArray[np.int64], samples: int, tar_bytes: int) -> None:
    """Check that the members of a tar of ours follow each other without a gap and end where the tar ends.

    Raises ValueError.  This finds the index of another tar without reading the tar.
    """
    check_bounds(columns_4N, samples, tar_bytes)
    offset_N, label_bytes_N, image_offset_N, image_bytes_N = columns_4N
    after_N = np.concatenate(([0], round_up(image_offset_N + image_bytes_N, BLOCK)))
    contiguous = (
        bool(label_bytes_N.all())
        and np.array_equal(offset_N, after_N[:-1] + BLOCK)
        and np.array_equal(image_offset_N, round_up(offset_N + label_bytes_N, BLOCK) + BLOCK)
        and round_up(int(after_N[-1]) + 2 * BLOCK, RECORD) == tar_bytes
    )
    if not contiguous:
        raise ValueError("its offsets are those of another tar")


def _decimal(
    chars: npt.NDArray[np.uint8], starts_N: npt.NDArray[np.int64], ends_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Read the decimal numbers at chars[starts:ends] all at once: a step a digit, not a step a number."""
    width_N = ends_N - starts_N
    value_N = np.zeros(len(width_N), np.int64)
    if not len(width_N):
        return value_N
    if width_N.min() < 1 or width_N.max() > 18:
        raise ValueError("an offset or a size is empty, or has over 18 digits")
    for place in range(int(width_N.max()), 0, -1):
        # from the right, so that shorter numbers join later; bytes below "0" wrap around to above 9
        digit_N = chars[np.maximum(ends_N - place, starts_N)] - np.uint8(ord("0"))
        if digit_N.max() > 9:
            raise ValueError("an offset or a size is not a decimal number")
        digit_N *= width_N >= place
        value_N *= 10
        value_N += digit_N
    return value_N


def _extensions(
    chars: npt.NDArray[np.uint8],
    starts_M: npt.NDArray[np.int64],
    ends_M: npt.NDArray[np.int64],
    longest: int,
) -> npt.NDArray[np.bytes_]:
    """Give the text at chars[starts:ends], (M,) bytes, cut after `longest` bytes."""
    place_L = np.arange(longest)
    inside_ML = place_L < (ends_M - starts_M)[:, None]
    letters_ML = chars[np.minimum(starts_M[:, None] + place_L, ends_M[:, None])] * inside_ML
    text_M: npt.NDArray[np.bytes_] = letters_ML.view(f"S{longest}")[:, 0]
    return text_M
