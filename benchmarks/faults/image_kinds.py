"""Odd, damaged and malicious image files, with the pixels that a reader should make of them."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """An image file. pixels: (H, W, 3) uint8, what a reader should give; None: it should give nothing."""

    name: str
    content: bytes
    pixels: Pixels | None


def photograph(height: int = 90, width: int = 120) -> Pixels:
    """Smooth colours with some noise, (H, W, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9 + y / 17), np.sin(y / 11), np.cos(x / 23 - y / 7)], -1)
    noise = np.random.default_rng(0).normal(0, 8, waves.shape)
    pixels: Pixels = np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)
    return pixels


def encode(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """Encode by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(content: bytes) -> Pixels:
    """Decode the first frame to RGB; Pillow ignores the orientation and drops alpha."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """Write a PNG file out of its filtered rows, by the PNG specification: Pillow has no 16-bit RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def kinds() -> list[Kind]:
    """Give all kinds: whole ones first, then damaged ones, then bombs."""
    return [*whole_kinds(), *damaged_kinds(), *bombs()]


def whole_kinds() -> list[Kind]:
    """Files that a reader should decode."""
    image = Image.fromarray(photograph())
    rgba, rotated = image.copy(), Image.Exif()
    rgba.putalpha(image.convert("L"))
    rotated[0x112] = 6
    other = Image.fromarray(photograph()[::-1])
    deep = photograph().astype(">u2") * 256 + np.arange(120, dtype=np.uint16)[:, None]
    rows = b"".join(b"\0" + row.tobytes() for row in deep.astype(">u2"))
    grey = deep[..., 0].astype(">u2")
    grey_rows = b"".join(b"\0" + row.tobytes() for row in grey)
    files = {
        "JPEG": encode(image),
        "progressive JPEG": encode(image, progressive=True),
        "grey JPEG": encode(image.convert("L")),
        "CMYK JPEG": encode(image.convert("CMYK")),
        "JPEG, trailing garbage": encode(image) + b"garbage" * 100,
        "JPEG, EXIF orientation 6": encode(image, exif=rotated),
        "PNG named .jpg": encode(image, "PNG"),
        "WebP named .jpg": encode(image, "WEBP", quality=90),
        "PNG, palette with transparency": encode(image.quantize(16), "PNG", transparency=3),
        "PNG with alpha": encode(rgba, "PNG"),
        "WebP with alpha": encode(rgba, "WEBP", lossless=True, exact=True),
        "BMP": encode(image, "BMP"),
        "animated GIF": encode(image, "GIF", save_all=True, append_images=[other]),
        "animated WebP": encode(image, "WEBP", save_all=True, append_images=[other], lossless=True),
        "animated PNG": encode(image, "PNG", save_all=True, append_images=[other]),
        "1 x 1 PNG": encode(image.resize((1, 1)), "PNG"),
        "1 x 5000 JPEG": encode(image.resize((1, 5000))),
        "5000 x 1 PNG": encode(image.resize((5000, 1)), "PNG"),
    }
    return [
        *(Kind(name=name, content=content, pixels=by_pillow(content)) for name, content in files.items()),
        Kind(
            name="16-bit grey PNG",
            content=png(120, 90, 16, 0, grey_rows),
            pixels=np.repeat(to_8_bits(grey)[..., None], 3, -1),
        ),
        Kind(name="16-bit RGB PNG", content=png(120, 90, 16, 2, rows), pixels=to_8_bits(deep)),
    ]


def to_8_bits(deep: NDArray[Any]) -> Pixels:
    """Scale 0 to 65535 to 0 to 255, rounded."""
    pixels: Pixels = np.rint(deep / 257).astype(np.uint8)
    return pixels


def damaged_kinds() -> list[Kind]:
    """Files that no reader should decode to these pixels; a reader that gives others is silently wrong."""
    image = Image.fromarray(photograph())
    jpeg, flat, webp = encode(image), encode(image, "PNG"), encode(image, "WEBP", quality=90)
    random = np.random.default_rng(1).integers(0, 255, 40, np.uint8).tobytes()

    def spoil(content: bytes, spoiled: bytes) -> bytes:
        middle = len(content) * 2 // 3
        return content[:middle] + spoiled + content[middle + len(spoiled) :]

    files = {
        "JPEG cut at 50 %": jpeg[: len(jpeg) // 2],
        "JPEG without its last 2 bytes": jpeg[:-2],
        "JPEG, first 100 bytes": jpeg[:100],
        "JPEG, 40 random bytes in the scan": spoil(jpeg, random),
        "JPEG, an end marker in the scan": spoil(jpeg, b"\xff\xd9"),
        "PNG cut at 50 %": flat[: len(flat) // 2],
        "PNG, 40 random bytes in the data": spoil(flat, random),
        "WebP cut at 50 %": webp[: len(webp) // 2],
        "WebP, 40 random bytes in the data": spoil(webp, random),
        "0 bytes": b"",
        "1,000 zeros": bytes(1000),
        "HTML page": b"<!DOCTYPE html><html><title>404 Not Found</title></html>" * 10,
    }
    return [Kind(name=name, content=content, pixels=None) for name, content in files.items()]


def bombs() -> list[Kind]:
    """Small files that announce images too large to allocate."""
    side = 20_000
    lying = bytearray(encode(Image.fromarray(photograph())))
    frame = lying.index(b"\xff\xc0")
    lying[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return [
        Kind(
            name="PNG of 20000 x 20000, 49 kB",
            content=png(side, side, 1, 0, bytes(side * (side // 8 + 1))),
            pixels=None,
        ),
        Kind(name="JPEG whose header says 65500 x 65500", content=bytes(lying), pixels=None),
    ]
