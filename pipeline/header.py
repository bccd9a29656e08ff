"""The size of an encoded image, out of its header: what a decoder would allocate, known before it does.

A few microseconds an image: no decoder is opened.  Only JPEG, PNG and WebP have a size here; the loader reads
nothing else.  Shape suffixes: N bytes.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.photographs import MAX_PIXELS

# start-of-frame markers of JPEG: C0 to CF without the tables DHT, JPG and DAC
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# markers without a length: TEM, RST0 to RST7, SOI
BARE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
# what ends a JPEG's header: EOI, SOS
LAST: Final = frozenset((0xD9, 0xDA))

PNG: Final = b"\x89PNG\r\n\x1a\n"


def check_header(content_N: NDArray[np.uint8]) -> None:
    """Raise ValueError, with a reason for people, if these bytes are not to be given to a decoder.

    That is: another format, a header without a size, a side of 0, or more than MAX_PIXELS pixels.
    """
    height, width = image_size(content_N)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, over the limit of {MAX_PIXELS:,}")
    if height * width == 0:
        raise ValueError(f"its header says {width} x {height} pixels")


def image_size(content_N: NDArray[np.uint8]) -> tuple[int, int]:
    """Read height and width, in pixels, from an image's header.  Raises ValueError: no such header.

    EXIF orientation is ignored.  Source: ITU-T T.81 annex B; PNG specification 11.2.1; WebP container
    specification, RFC 9649.
    """
    head = content_N[:32].tobytes()
    try:
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(content_N)
        if head.startswith(PNG) and head[12:16] == b"IHDR":
            return _big(head[20:24]), _big(head[16:20])
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp_size(head)
    except IndexError:
        raise ValueError("its header ends before the size") from None
    raise ValueError("not a JPEG, PNG or WebP file" if head else "empty file")


def _jpeg_size(content_N: NDArray[np.uint8]) -> tuple[int, int]:
    """Walk from marker to marker up to the frame's; bytes between segments are skipped, as libjpeg does."""
    content = content_N.data
    at = 2
    while True:
        while content[at] != 0xFF:
            at += 1
        while content[at] == 0xFF:
            at += 1
        marker = content[at]
        at += 1
        if marker in FRAMES:
            # length (2 bytes), bits (1), height, width
            return content[at + 3] << 8 | content[at + 4], content[at + 5] << 8 | content[at + 6]
        if marker in LAST:
            raise ValueError("its JPEG header has no size")
        if marker and marker not in BARE:
            at += content[at] << 8 | content[at + 1]


def _webp_size(head: bytes) -> tuple[int, int]:
    kind = head[12:16]
    if len(head) < 30:
        raise IndexError
    if kind == b"VP8X":
        return _little(head[27:30]) + 1, _little(head[24:27]) + 1
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = _little(head[21:25])
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        return _little(head[28:30]) & 0x3FFF, _little(head[26:28]) & 0x3FFF
    raise ValueError("its WebP header has no size")


def _big(number: bytes) -> int:
    if len(number) < 4:
        raise IndexError
    return int.from_bytes(number, "big")


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")
