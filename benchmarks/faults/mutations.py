"""Seeds and mutations of encoded images: what a disk, a broken download or an attacker makes of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from PIL import Image

from turbomim.benchmarks.faults.image_kinds import encode, photograph, png
from turbomim.pipeline.decoding.header import Format, check_header

Random = np.random.Generator
# numbers that sizes and lengths are changed to
NUMBERS: Final = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
EXIF: Final = b"Exif\0\0II*\0\x08\0\0\0\0\0"
SIDES: Final = ((61, 83), (8, 8), (17, 120), (96, 40), (1, 33))


def seeds(form: Format) -> list[bytes]:
    """Give sound images of many kinds."""
    images = [Image.fromarray(photograph()[:height, :width]) for height, width in SIDES]
    return [content for image in images for content in SEEDS[form](image)]


def _jpegs(image: Image.Image) -> list[bytes]:
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "maker"
    plain = encode(image)
    return [
        plain,
        encode(image, quality=98, subsampling=0),
        encode(image, quality=30, subsampling=1, optimize=True),
        encode(image, progressive=True),
        encode(image, progressive=True, quality=95, subsampling=0, exif=exif),
        encode(image, restart_marker_blocks=2),
        encode(image, exif=exif, icc_profile=bytes(range(256)) * 9, comment=b"a comment"),
        encode(image.convert("L")),
        encode(image.convert("L"), progressive=True),
        encode(image.convert("CMYK")),
        plain + plain,
        plain[:2] + b"\xff\xff\xff" + plain[2:],
    ]


def _pngs(image: Image.Image) -> list[bytes]:
    rgba = image.copy()
    rgba.putalpha(image.convert("L"))
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    deep = pixels.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    grey_rows = b"".join(b"\0" + row.tobytes() for row in deep[..., 0])
    return [
        encode(image, "PNG"),
        encode(rgba, "PNG"),
        encode(image.convert("L"), "PNG"),
        encode(rgba.convert("LA"), "PNG"),
        encode(image.convert("1"), "PNG"),
        encode(image.quantize(4), "PNG"),
        encode(image.quantize(16), "PNG", transparency=3),
        encode(image.quantize(200), "PNG", optimize=True),
        encode(image, "PNG", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)]),
        encode(
            image, "PNG", icc_profile=bytes(range(256)), dpi=(72, 72), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"
        ),
        png(width, height, 16, 2, rows),
        png(width, height, 16, 0, grey_rows),
        _interlaced(pixels),
    ]


def _webps(image: Image.Image) -> list[bytes]:
    rgba = image.copy()
    rgba.putalpha(image.convert("L"))
    other = image.transpose(Image.Transpose.ROTATE_180)
    return [
        encode(image, "WEBP"),
        encode(image, "WEBP", quality=20, method=6),
        encode(image, "WEBP", lossless=True),
        encode(rgba, "WEBP"),
        encode(rgba, "WEBP", lossless=True, exact=True),
        encode(image, "WEBP", save_all=True, append_images=[other]),
        encode(rgba, "WEBP", save_all=True, append_images=[other], lossless=True),
        encode(image, "WEBP", exif=EXIF, icc_profile=bytes(range(255))),
    ]


SEEDS: Final[dict[Format, Callable[[Image.Image], list[bytes]]]] = {
    "jpg": _jpegs,
    "png": _pngs,
    "webp": _webps,
}


def _interlaced(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Write a PNG by Adam7, which Pillow cannot."""
    firsts = ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0))
    steps = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1))
    rows = b""
    for (top, left), (down, across) in zip(firsts, steps, strict=True):
        part = pixels[top::down, left::across]
        rows += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    height, width, _ = pixels.shape
    flat = bytearray(png(width, height, 8, 2, rows))
    flat[28] = 1
    return with_right_sums(bytes(flat))


def parts(content: bytes, form: Format) -> list[tuple[int, int]]:
    """Give the first and the last byte of each segment or chunk; of what is behind them, one part."""
    found: list[tuple[int, int]] = []
    at = {"jpg": 2, "png": 8, "webp": 12}[form]
    end = check_header(np.frombuffer(content, np.uint8)).scan if form == "jpg" else len(content)
    while at < end:
        if form == "jpg":
            start = at
            while content[at] == 0xFF:
                at += 1
            at += 1 + int.from_bytes(content[at + 1 : at + 3], "big")
            found.append((start, at))
            continue
        order, place, more = ("big", at, 12) if form == "png" else ("little", at + 4, 8)
        length = int.from_bytes(content[place : place + 4], order)  # type: ignore[arg-type]
        size = length + more + (length % 2 if form == "webp" else 0)
        found.append((at, at + size))
        at += size
    return [*found, (at, len(content))] if at < len(content) else found


def with_right_sums(content: bytes) -> bytes:
    """Return a PNG with the checksums that its chunks should have, as far as they can be told apart."""
    fixed, at = bytearray(content), 8
    while at + 12 <= len(fixed):
        length = int.from_bytes(fixed[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def mutate(random: Random, pool: list[bytes], form: Format) -> bytes:
    """Damage a seed in one to three ways."""
    content = pool[random.integers(len(pool))]
    for _ in range(int(random.integers(1, 4))):
        change = MUTATIONS[random.integers(len(MUTATIONS))]
        content = change(random, content, pool, form)
    return with_right_sums(content) if form == "png" and random.random() < 0.7 else content


def _bytes_anywhere(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    return _changed(random, content, 0, len(content))


def _bytes_of_the_header(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    return _changed(random, content, 0, min(len(content), 640))


def _changed(random: Random, content: bytes, start: int, end: int) -> bytes:
    if end <= start:
        return content
    spoiled = bytearray(content)
    for place in random.integers(start, end, int(random.integers(1, 9))):
        spoiled[place] = int(random.choice([int(random.integers(256)), 0, 0xFF, spoiled[place] ^ 1 << 7]))
    return bytes(spoiled)


def _a_number(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    """Change a length, or a number behind it, to one at which programs stumble."""
    found = _parts_or_none(content, form)
    start = found[random.integers(len(found))][0] if found else 0
    width = int(random.choice((1, 2, 4)))
    at = start + int(random.integers(0, 20))
    number = int(random.choice(NUMBERS)) % 256**width
    order: Literal["little", "big"] = "little" if form == "webp" else "big"
    return bytes(content[:at] + number.to_bytes(width, order) + content[at + width :])


def _a_part_gone(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    found = _parts_or_none(content, form)
    if not found:
        return content
    start, end = found[random.integers(len(found))]
    return content[:start] + content[end:]


def _a_part_twice(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    """Put a part of this or of another image before another one."""
    other = pool[random.integers(len(pool))]
    theirs, ours = _parts_or_none(other, form), _parts_or_none(content, form)
    if not (theirs and ours):
        return content
    start, end = theirs[random.integers(len(theirs))]
    at = ours[random.integers(len(ours))][0]
    return content[:at] + other[start:end] + content[at:]


def _strays(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    """Put bytes between two parts."""
    found = _parts_or_none(content, form)
    at = found[random.integers(len(found))][0] if found else int(random.integers(len(content) + 1))
    kinds = (bytes(int(random.integers(1, 9))), b"\xff\0", b"\xff" * 5, b"\xff\xd9", random.bytes(7))
    return content[:at] + kinds[random.integers(len(kinds))] + content[at:]


def _cut(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    return content[: int(random.integers(0, len(content) + 1))]


def _joined(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    other = pool[random.integers(len(pool))]
    return content[: int(random.integers(0, len(content) + 1))] + other[int(random.integers(len(other))) :]


def _markers(random: Random, content: bytes, pool: list[bytes], form: Format) -> bytes:
    """Put a marker of JPEG somewhere: a restart, an end, a frame, a scan."""
    at = int(random.integers(len(content) + 1))
    return content[:at] + bytes((0xFF, int(random.integers(0xC0, 0x100)))) + content[at + 2 :]


def _parts_or_none(content: bytes, form: Format) -> list[tuple[int, int]]:
    try:
        return parts(content, form)
    except (ValueError, IndexError):
        return []


MUTATIONS: Final = (
    _bytes_anywhere,
    _bytes_of_the_header,
    _a_number,
    _a_part_gone,
    _a_part_twice,
    _strays,
    _cut,
    _joined,
    _markers,
)
