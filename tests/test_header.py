"""Sizes out of headers: those that Pillow reads, damaged ones, and bombs."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from turbomim.benchmarks.image_kinds import whole_kinds
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.header import check_header, image_size
from turbomim.pipeline.photographs import MAX_PIXELS


def content(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


def encoded(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(texture(0, 61, 302)).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", whole_kinds(), ids=lambda kind: kind.name)
def test_sizes_are_those_of_the_pixels(kind: Any) -> None:
    if kind.name not in ("BMP", "animated GIF"):
        assert image_size(content(kind.content)) == kind.pixels.shape[:2]


@pytest.mark.parametrize(
    "file",
    [
        encoded("JPEG"),
        encoded("JPEG", progressive=True, icc_profile=bytes(100_000), comment=b"\xff\xc0" * 50),
        encoded("JPEG", exif=b"Exif\0\0" + encoded("JPEG")),
        # padding and stray bytes between segments
        encoded("JPEG")[:2] + b"\xff\xff\xff" + encoded("JPEG")[2:],
        encoded("JPEG")[:20] + b"\0\xff\0stray" + encoded("JPEG")[20:],
        # a table, whose marker is among those of frames
        encoded("JPEG")[:2] + b"\xff\xc4\0\x0e" + bytes(12) + encoded("JPEG")[2:],
        encoded("PNG"),
        encoded("WEBP"),
        encoded("WEBP", lossless=True),
        encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    ],
    ids=[
        "jpeg",
        "segments",
        "thumbnail",
        "padding",
        "stray",
        "tables",
        "png",
        "webp",
        "lossless",
        "extended",
    ],
)
def test_forms_of_headers(file: bytes) -> None:
    assert image_size(content(file)) == (61, 302)
    # shorter, it has either no size or the same
    for end in range(0, min(len(file), 1000), 7):
        try:
            assert image_size(content(file[:end])) == (61, 302)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "^empty file$"),
        (b"\xff\xd8\xff", "ends before"),
        (b"\xff\xd8\xff\xd9" + bytes(20), "has no size"),
        (b"\xff\xd8" + b"\xff" * 1000, "ends before"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0", "ends before"),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(30), "WebP header has no size"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "ends before"),
        (b"GIF89a" + bytes(100), "not a JPEG, PNG or WebP"),
        (b"P6\n1 1\n255\n123", "not a JPEG, PNG or WebP"),
    ],
)
def test_what_has_no_size(file: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_header(content(file))


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (20_000, 20_000, "^20000 x 20000 pixels, over the limit of 178,956,970$"),
        (2**31 - 1, 2**31 - 1, "over the limit"),
        (MAX_PIXELS + 1, 1, "over the limit"),
        (0, 7, "0 x 7 pixels"),
    ],
)
def test_what_is_not_given_to_a_decoder(width: int, height: int, words: str) -> None:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    with pytest.raises(ValueError, match=words):
        check_header(content(head + struct.pack(">II", width, height)))
    check_header(content(head + struct.pack(">II", MAX_PIXELS, 1)))
