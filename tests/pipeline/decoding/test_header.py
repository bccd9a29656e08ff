"""Sizes out of headers: those that Pillow reads, damaged ones, and bombs."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from turbomim.benchmarks.faults.image_kinds import png, whole_kinds
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.header import MAX_PIXELS, MAX_SIDE, check_header, for_pixels, read_header


def content(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


def image_size(content_N: NDArray[np.uint8]) -> tuple[int, int]:
    header = read_header(content_N)
    return header.height, header.width


def encoded(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(texture(0, 61, 302)).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", whole_kinds(), ids=lambda kind: kind.name)
def test_sizes_are_those_of_the_pixels(kind: Any) -> None:
    if kind.name not in ("BMP", "animated GIF"):
        assert image_size(content(kind.content)) == kind.pixels.shape[:2]


@pytest.mark.parametrize("kind", whole_kinds(), ids=lambda kind: kind.name)
def test_what_the_pixels_do_not_have_is_told(kind: Any) -> None:
    expected = {
        "CMYK JPEG": {"cmyk"},
        "PNG, palette with transparency": {"alpha"},
        "PNG with alpha": {"alpha"},
        "WebP with alpha": {"alpha"},
        "animated WebP": {"frames"},
        "animated PNG": {"frames"},
    }
    if kind.name not in ("BMP", "animated GIF"):
        assert read_header(content(kind.content)).altered == expected.get(kind.name, set())


def test_each_way_to_write_alpha_is_told() -> None:
    """Planted, and seen to fail: alpha of the extended WebP alone, of colour type 6 alone."""
    rgba = Image.fromarray(np.dstack([texture(0, 61, 302), texture(1, 61, 302)[..., :1]]))

    def altered(image: Image.Image, form: str, **options: Any) -> set[str]:
        file = io.BytesIO()
        image.save(file, form, **options)
        return set(read_header(content(file.getvalue())).altered)

    assert altered(rgba, "PNG") == altered(rgba.convert("LA"), "PNG") == {"alpha"}
    assert altered(rgba.convert("L"), "PNG", transparency=7) == {"alpha"}
    assert altered(rgba, "WEBP", lossless=True) == altered(rgba, "WEBP", quality=80) == {"alpha"}
    two: dict[str, Any] = {"save_all": True, "append_images": [rgba.rotate(180)]}
    assert altered(rgba, "WEBP", **two) == altered(rgba, "PNG", **two) == {"alpha", "frames"}
    extended = {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}
    assert altered(rgba, "WEBP", **extended) == {"alpha"}
    for plain in (rgba.convert("RGB"), rgba.convert("L")):
        assert altered(plain, "WEBP", lossless=True, **extended) == altered(plain, "PNG") == set()


@pytest.mark.parametrize(
    "file",
    [
        encoded("JPEG"),
        encoded("JPEG", progressive=True, icc_profile=bytes(100_000), comment=b"\xff\xc0" * 50),
        encoded("JPEG", exif=b"Exif\0\0" + encoded("JPEG")),
        # padding between segments
        encoded("JPEG")[:2] + b"\xff\xff\xff" + encoded("JPEG")[2:],
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


def frame(sides: bytes, components: int = 1) -> bytes:
    """A start of frame, height and width of 2 bytes each, or of what is given."""
    return b"\xff\xc0\0\x0b\x08" + sides + bytes((components, 1, 0x11, 0))


SCAN = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = encoded("JPEG")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "^empty file$"),
        (b"GIF89a" + bytes(100), "not a JPEG, PNG or WebP"),
        (b"P6\n1 1\n255\n123", "not a JPEG, PNG or WebP"),
        (b"\xff\xd8\xff", "ends too early"),
        (b"\xff\xd8" + b"\xff" * 1000, "ends too early"),
        (b"\xff\xd8\xff\xd9" + bytes(20), "the marker FF D9, must not be there"),
        (b"\xff\xd8\xff\xd0" + JPEG[2:], "the marker FF D0, must not be there"),
        (b"\xff\xd8\xff\0" + JPEG[2:], "the marker FF 00, must not be there"),
        (JPEG[:20] + bytes(7) + JPEG[20:], "byte 20 of its JPEG header, 0x00, is no marker"),
        (JPEG[:2] + b"\xff\xe5\0\x01" + JPEG[2:], "segment at byte 4 says that it has 1 bytes"),
        (JPEG[:2] + b"\xff\xe5\xff\xff" + JPEG[2:9000], "says that it has 65,535 bytes"),
        (b"\xff\xd8" + SCAN, "JPEG header has no size"),
        (b"\xff\xd8" + 2 * frame(b"\0\x09\0\x09") + SCAN, "two sizes"),
        (b"\xff\xd8" + frame(b"\0\x09\0\x09", components=3) + SCAN, "frame of 3 components has 11 bytes"),
        (PNG + b"\0\0\0\rIHDR\0\0\0", "a PNG chunk at byte 8 says that it has 13 bytes"),
        (PNG + b"\0\0\0\x0cIHDR" + bytes(40), "does not begin with its header"),
        (PNG + b"\0\0\0\0IDAT" + bytes(40), "does not begin with its header"),
        (encoded("PNG")[:-12], "ends too early"),
        (encoded("PNG")[:-200], "cut: a PNG chunk"),
        (png(9, 9, 7, 2, bytes(300)), "what no PNG has"),
        (png(9, 9, 16, 3, bytes(300)), "what no PNG has"),
        (b"RIFF\x1e\0\0\0WEBPVP8 \x12\0\0\0" + bytes(30), "WebP header has no size"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "ends too early"),
        (encoded("WEBP")[:-200], "cut: its WebP says"),
        (b"RIFF\x16\0\0\0WEBPVP8X\n\0\0\0" + bytes(10), "no picture"),
        (b"RIFF\x1a\0\0\0WEBPVP8X\xff\0\0\0" + bytes(14), "a WebP chunk at byte 12 says that it has 255"),
    ],
)
def test_what_is_no_header(file: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_header(content(file))


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (20_000, 20_000, "^20000 x 20000 pixels, over the limit of 178,956,970$"),
        (2**31 - 1, 2**31 - 1, "over the limit"),
        (MAX_PIXELS + 1, 1, "over the limit"),
        (MAX_SIDE + 1, 1, "^65536 x 1 pixels, over the limit of 65,535 a side$"),
        (0, 7, "0 x 7 pixels"),
    ],
)
def test_what_is_not_given_to_a_decoder(width: int, height: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_header(content(png(width, height, 8, 2, b"\0")))
    check_header(content(png(MAX_SIDE, MAX_PIXELS // MAX_SIDE, 8, 2, b"\0")))


def test_a_progressive_jpeg_of_very_many_scans() -> None:
    """Each goes over all pixels: some megabytes would take hours."""
    plain = encoded("JPEG", progressive=True)
    scan = plain.index(b"\xff\xda")
    assert check_header(content(plain)).scan == scan + 2 + int.from_bytes(plain[scan + 2 : scan + 4], "big")
    with pytest.raises(ValueError, match=r"a progressive JPEG of 1,\d\d\d scans and 302 x 61 pixels"):
        check_header(content(plain[:scan] + plain[scan:-2] * 180 + plain[-2:]))


def test_what_makes_the_pixels_is_left() -> None:
    flat = encoded("PNG", icc_profile=bytes(3000), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    exif = encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", icc_profile=bytes(99_000))
    assert for_pixels(content(exif), check_header(content(exif))) == JPEG
    lean = for_pixels(content(flat), check_header(content(flat)))
    assert len(lean) < len(flat) and lean == encoded("PNG")


def long_files() -> dict[str, bytes]:
    flat, webp = encoded("PNG"), encoded("WEBP")[12:] + b"EXIF\0\0\0\0" * 100_001
    return {
        "segments": b"\xff\xd8" + b"\xff\xe5\0\2" * 100_001 + JPEG[2:],
        "padding": b"\xff\xd8" + b"\xff" * 100_001 + JPEG[2:],
        "chunks": flat[:33] + b"\0\0\0\0teXt\0\0\0\0" * 100_001 + flat[33:],
        "webp": b"RIFF" + (4 + len(webp)).to_bytes(4, "little") + b"WEBP" + webp,
    }


@pytest.mark.parametrize("name", long_files())
def test_a_walk_that_would_not_end(name: str) -> None:
    """Gigabytes of empty parts are not gone through."""
    with pytest.raises(ValueError, match=r"over 100,000 (segments|chunks)"):
        check_header(content(long_files()[name]))
