"""The header of an encoded image, walked to the pixels: is it whole, and what would a decoder allocate?

A few microseconds an image: no decoder is opened.  Parsers differ in what they forgive, and one that does not
can take the process with it, so an image is passed on only if its markers, chunks and lengths leave nothing
to forgive.  Only JPEG, PNG and WebP are walked; the loader reads nothing else.  Shape suffixes: N bytes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

# Pillow's own limit against decompression bombs: 2 * 89,478,485
MAX_PIXELS = 178_956_970

Format = Literal["jpg", "png", "webp"]
# what of an image its pixels do not have as the file has it, in words that follow `12 images`
ALTERED: Final = {
    "alpha": "with alpha, which is dropped: what is transparent shows the colour stored beneath it",
    "cmyk": "of four inks (CMYK), turned into RGB without a colour profile",
    "frames": "with more than one frame, of which the first is taken",
}

# markers of JPEG: start of frame, C0 to CF without the tables DHT, JPG and DAC
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE: Final = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
SCAN: Final = 0xDA
# those with a length: tables, frames, application data, comments
SEGMENTS: Final = FRAMES | {0xC4, 0xC8, 0xCC, *range(0xDA, 0xF0), 0xFE}
# of a JPEG by its format; decoders of the others take minutes for longer ones, or call them too large to hold
MAX_SIDE: Final = 65_535
# each scan of a progressive JPEG goes over all pixels: as many as a large sound photograph needs, and more
MAX_SCANS: Final = 500
MAX_SCAN_PIXELS: Final = 20 * MAX_PIXELS

# parts of a container: a sound one has fewer, and 2 GB of empty ones would take minutes to walk over
MAX_STEPS: Final = 100_000

PNG: Final = b"\x89PNG\r\n\x1a\n"
# bits a sample that each PNG colour type may have
PNG_BITS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# the chunks that make its pixels
PNG_PIXELS: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# of a chunk in front of its content and behind it
CHUNK_HEAD, CHUNK_CRC = 8, 4


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says. height, width: pixels, EXIF orientation ignored; bits: of a sample.

    altered: of `ALTERED`.
    Of a JPEG, components: 1, 3 or 4 (CMYK), and scan: the byte at which its first scan begins; 0 for others.
    """

    format: Format
    height: int
    width: int
    bits: int
    components: int = 0
    scan: int = 0
    altered: frozenset[str] = frozenset()


def check_header(content_N: NDArray[np.uint8]) -> Header:
    """Return an image's header; raise ValueError, with a reason, if the bytes must not reach a decoder.

    That is: another format, a header that is not whole or not well-formed, a side of 0 or over MAX_SIDE,
    more than MAX_PIXELS pixels, a progressive JPEG of too many scans.
    """
    header = read_header(content_N)
    height, width = header.height, header.width
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, over the limit of {MAX_PIXELS:,}")
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"{width} x {height} pixels, over the limit of {MAX_SIDE:,} a side")
    if height * width == 0:
        raise ValueError(f"its header says {width} x {height} pixels")
    return header


def image_format(content_N: NDArray[np.uint8]) -> Format:
    """Tell the format from the first bytes.  Raises ValueError if it is none of the three."""
    head = content_N[:12].tobytes()
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(PNG):
        return "png"
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "webp"
    raise ValueError("not a JPEG, PNG or WebP file" if head else "empty file")


def read_header(content_N: NDArray[np.uint8]) -> Header:
    """Walk a header.  Raises ValueError: another format, or a header with a fault.

    Source: ITU-T T.81 annex B; PNG specification, 5 and 11.2.1; WebP container specification, RFC 9649.
    """
    walk = {"jpg": _jpeg, "png": _png, "webp": _webp}[image_format(content_N)]
    try:
        return walk(content_N.data)
    except IndexError:
        raise ValueError("its header ends too early") from None


def _segments(content: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield each segment's marker, up to the first scan, and where it starts, its length stands, and it ends.

    Nothing may stand between two but bytes of FF, which start the next.  Raises ValueError and IndexError.
    """
    end, size, marker, steps = 2, len(content), 0, 0
    while marker != SCAN:
        start = at = end
        if content[at] != 0xFF:
            raise ValueError(f"byte {at:,} of its JPEG header, {content[at]:#04x}, is no marker")
        while content[at] == 0xFF:
            at, steps = at + 1, steps + 1
            if steps > MAX_STEPS:
                raise ValueError(f"over {MAX_STEPS:,} segments, or bytes between them, in its JPEG header")
        marker = content[at]
        if marker not in SEGMENTS:
            raise ValueError(f"byte {at:,} of its JPEG header, the marker FF {marker:02X}, must not be there")
        at += 1
        # by bytes: a slice and a call would take most of the time
        end = at + (content[at] << 8 | content[at + 1])
        if end < at + 2 or end > size:
            raise ValueError(f"a JPEG segment at byte {at:,} says that it has {end - at:,} bytes")
        yield marker, start, at, end


def _jpeg(content: memoryview) -> Header:
    """Find the frame among the segments."""
    found, end = None, 0
    for marker, _, at, end in _segments(content):
        if marker in FRAMES:
            if found is not None:
                raise ValueError("its JPEG header has two sizes")
            if end != at + 8 + 3 * content[at + 7] or content[at + 7] not in (1, 3, 4):
                raise ValueError(f"its JPEG frame of {content[at + 7]} components has {end - at} bytes")
            found = marker, content[at + 2 : at + 8].tolist()
    if found is None:
        raise ValueError("its JPEG header has no size")
    marker, (bits, *sides, components) = found
    height, width = sides[0] << 8 | sides[1], sides[2] << 8 | sides[3]
    if marker in PROGRESSIVE:
        scans = bytes(content).count(b"\xff\xda")
        if scans > MAX_SCANS or scans * height * width > MAX_SCAN_PIXELS:
            raise ValueError(f"a progressive JPEG of {scans:,} scans and {width} x {height} pixels")
    altered = frozenset({"cmyk"} if components == 4 else ())
    return Header("jpg", height, width, bits, components, scan=end, altered=altered)


def _chunks(content: memoryview) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield the kind of each PNG chunk up to the last, where it starts, its length and its end.

    Raises ValueError and IndexError.
    """
    end, kind, steps = len(PNG), b"", 0
    while kind != b"IEND":
        steps += 1
        if steps > MAX_STEPS:
            raise ValueError(f"over {MAX_STEPS:,} chunks in its PNG")
        start = end
        head = bytes(content[start : start + CHUNK_HEAD])
        if len(head) < CHUNK_HEAD:
            raise IndexError
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if (kind == b"IHDR") != (start == len(PNG)) or (kind == b"IHDR" and length != 13):
            raise ValueError("its PNG does not begin with its header, of 13 bytes")
        end = start + CHUNK_HEAD + length + CHUNK_CRC
        if end > len(content):
            raise ValueError(f"cut: a PNG chunk at byte {start:,} says that it has {length:,} bytes")
        yield kind, start, length, end


def _png(content: memoryview) -> Header:
    """Go through all chunks, of which some must hold pixels."""
    data, kinds = 0, set[bytes]()
    for kind, _, length, _ in _chunks(content):
        kinds.add(kind)
        data += length if kind == b"IDAT" else 0
    bits, colour, *methods = content[24:29]
    if bits not in PNG_BITS.get(colour, ()) or methods[:2] != [0, 0] or methods[2] > 1 or not data:
        raise ValueError("its PNG header says what no PNG has")
    width, height = struct.unpack(">II", content[16:24])
    # a type with alpha, or a transparent colour
    return Header(
        "png", height, width, bits, altered=_altered(colour in (4, 6) or b"tRNS" in kinds, b"acTL" in kinds)
    )


def for_pixels(content_N: NDArray[np.uint8], header: Header) -> bytes:
    """Return of a JPEG or PNG what makes its pixels, without texts, profiles, alpha and animation; else all.

    content: as `check_header` admits it.
    """
    content = content_N.data
    if header.format == "jpg":
        # of application data only JFIF's and Adobe's say how the colours are meant
        kept = (
            content[start:end]
            for marker, start, _, end in _segments(content)
            if marker not in range(0xE1, 0xF0) or marker == 0xEE
        )
        return b"".join((content[:2], *kept, content[header.scan :]))
    if header.format == "png":
        kept = (content[start:end] for kind, start, _, end in _chunks(content) if kind in PNG_PIXELS)
        return b"".join((PNG, *kept))
    return bytes(content)


def _webp(content: memoryview) -> Header:
    """Walk from chunk to chunk, up to the end that the container names; bytes behind it are free."""
    end = 8 + _little(content, 4, 4)
    if end > len(content):
        raise ValueError(f"cut: its WebP says that it has {end:,} bytes")
    at, kinds = 12, []
    while at < end:
        kind, length = bytes(content[at : at + 4]), _little(content, at + 4, 4)
        if at + CHUNK_HEAD + length > end:
            raise ValueError(f"cut: a WebP chunk at byte {at:,} says that it has {length:,} bytes")
        kinds.append(kind)
        if len(kinds) > MAX_STEPS:
            raise ValueError(f"over {MAX_STEPS:,} chunks in its WebP")
        at += CHUNK_HEAD + length + length % 2
    height, width = _webp_size(bytes(content[12:30]))
    if kinds[0] == b"VP8X" and not {b"VP8 ", b"VP8L", b"ANMF"} & {*kinds}:
        raise ValueError("its WebP has no picture")
    # byte 20 is of VP8X its flags, byte 24 of VP8L the end of its sizes
    flags = content[20] if kinds[0] == b"VP8X" else content[24] & 0x10 if kinds[0] == b"VP8L" else 0
    return Header("webp", height, width, 8, altered=_altered(bool(flags & 0x10), bool(flags & 0x02)))


def _altered(alpha: bool, frames: bool) -> frozenset[str]:
    found = {"alpha": alpha, "frames": frames}
    return frozenset(kind for kind, there in found.items() if there)


def _webp_size(chunk: bytes) -> tuple[int, int]:
    """Read height and width of the first chunk: its name, length and 10 bytes."""
    if len(chunk) < 18:
        raise IndexError
    kind, content = chunk[:4], memoryview(chunk)[8:]
    if kind == b"VP8X":
        return _little(content, 7, 3) + 1, _little(content, 4, 3) + 1
    if kind == b"VP8L" and content[0] == 0x2F:
        bits = _little(content, 1, 4)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 " and bytes(content[3:6]) == b"\x9d\x01\x2a":
        return _little(content, 8, 2) & 0x3FFF, _little(content, 6, 2) & 0x3FFF
    raise ValueError("its WebP header has no size")


def _little(content: memoryview, at: int, count: int) -> int:
    number = content[at : at + count]
    if len(number) < count:
        raise IndexError
    return int.from_bytes(number, "little")
