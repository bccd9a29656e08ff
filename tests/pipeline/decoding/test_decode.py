"""The host's decoder: pixels of every kind of image, reasons for the others, and nothing else.

Planted bugs: `strict=False` taken for the pixels of a JPEG with an error fails
`test_pixels_that_nobody_wrote_are_no_pixels`; PNGs given whole to Pillow fail
`test_a_png_of_long_texts_and_profiles`; no limit for sides fails `test_sides_that_decoders_choke_on`.
"""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from turbomim.benchmarks.faults.image_kinds import Kind, encode, kinds, photograph, png, to_8_bits
from turbomim.benchmarks.faults.mutations import mutate, seeds
from turbomim.pipeline.decoding.decode import Undecodable, decode, decode_or_say, find_undecodable
from turbomim.pipeline.decoding.header import Format

KINDS = {kind.name: kind for kind in kinds()}
# libjpeg and libwebp paint over these
PAINTED = (
    "JPEG, 40 random bytes in the scan",
    "JPEG, an end marker in the scan",
    "WebP, 40 random bytes in the data",
)
NOT_READ = ("BMP", "animated GIF")


def of(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(content, np.uint8)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind(kind: Kind) -> None:
    """Sound ones to their pixels, the others to a reason in one line; no warning either way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode_or_say(of(kind.content))
    if kind.pixels is None or kind.name in NOT_READ:
        assert isinstance(result, str) == (kind.name not in PAINTED)
        assert not isinstance(result, str) or (0 < len(result) < 120 and "\n" not in result)
        return
    assert not isinstance(result, str), result
    assert result.dtype == np.uint8 and result.flags.c_contiguous
    # 16 bits of colour lose their lower ones, which may be one level
    most = 1 if kind.name == "16-bit RGB PNG" else 0
    assert np.abs(result.astype(int) - kind.pixels).max() <= most


def test_what_libjpeg_paints_over_is_refused_by_a_strict_one() -> None:
    painted = of(KINDS["JPEG, an end marker in the scan"].content)
    assert decode(painted).shape == (90, 120, 3)
    with pytest.raises(Undecodable, match=r"^Corrupt JPEG data: premature end of data segment$"):
        decode(painted, strict=True)


def test_a_damaged_cmyk_jpeg_is_refused_by_a_strict_one() -> None:
    """Pillow decodes these, and says nothing."""
    flat = encode(Image.fromarray(photograph()).convert("CMYK"))
    painted = of(flat[: len(flat) // 2] + b"\xff\xd9" + flat[len(flat) // 2 + 2 :])
    assert decode(painted).shape == (90, 120, 3)
    with pytest.raises(Undecodable, match="Corrupt JPEG data"):
        decode(painted, strict=True)
    assert np.array_equal(decode(of(flat), strict=True), decode(of(flat)))


def test_a_strict_one_takes_what_is_only_odd() -> None:
    """A JFIF version of the future: libjpeg warns, and nothing is damaged."""
    odd = bytearray(encode(Image.fromarray(photograph())))
    assert odd[6:11] == b"JFIF\0"
    odd[11] = 9
    assert np.array_equal(decode(of(bytes(odd)), strict=True), decode(of(KINDS["JPEG"].content)))


def test_pixels_that_nobody_wrote_are_no_pixels() -> None:
    """Of an error that follows a warning, simplejpeg returns an image of which it wrote a part."""
    random = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        content = mutate(random, [encode(Image.fromarray(photograph()), quality=90)], "jpg")
        once = decode_or_say(of(content))
        if isinstance(once, str):
            continue
        # the next to ask for as much memory gets this
        np.full(once.shape, 0xA5, np.uint8)
        assert np.array_equal(decode(of(content)), once)
        found += 1
    assert found > 20


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP", "eXIf", "tEXt"])
def test_a_png_of_long_texts_and_profiles(kind: str) -> None:
    """3 MB of it, well packed: nothing of that is decoded, so nobody's limits for it matter."""
    flat = encode(Image.fromarray(photograph()), "PNG")
    packed = zlib.compress(b" " * 3_000_000)
    text = {
        "zTXt": b"Comment\0\0" + packed,
        "iTXt": b"Comment\0\1\0\0\0" + packed,
        "iCCP": b"profile\0\0" + packed,
        "eXIf": b"II*\0" + bytes(3_000_000),
        "tEXt": b"Comment\0" + b" " * 3_000_000,
    }[kind]
    name = kind.encode()
    chunk = struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(of(flat[:33] + chunk + flat[33:])), photograph())


def test_sixteen_bits_of_grey_are_scaled() -> None:
    """Pillow would clip them."""
    deep = np.arange(0, 65_536, 16).astype(np.uint16).reshape(64, 64)
    rows = b"".join(b"\0" + row.tobytes() for row in deep.astype(">u2"))
    assert np.array_equal(decode(of(png(64, 64, 16, 0, rows)))[..., 0], to_8_bits(deep))


@pytest.mark.parametrize(("width", "height"), [(178_956_970, 1), (1, 178_956_970), (70_000, 10)])
def test_sides_that_decoders_choke_on(width: int, height: int) -> None:
    """Pillow calls the first too large for its memory, which would end a run; the others take minutes."""
    with pytest.raises(Undecodable, match="over the limit of 65,535 a side"):
        decode(of(png(width, height, 8, 2, bytes(100))))
    canvas = bytearray(KINDS["animated WebP"].content)
    if width < 65_536:
        return
    canvas[24:27], canvas[27:30] = (width - 1 & 0xFFFFFF).to_bytes(3, "little"), bytes(3)
    with pytest.raises(Undecodable, match="over the limit of 65,535 a side"):
        decode(of(bytes(canvas)))


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_whatever_comes(form: Format) -> None:
    """Pixels or a reason, the same in every thread; more of it: `benchmarks/faults/fuzz_decoders.py`."""
    random = np.random.default_rng(1)
    pool = seeds(form)
    assert find_undecodable([of(content) for content in pool]) == {}
    images = [of(mutate(random, pool, form)) for _ in range(400)]
    alone = [decode_or_say(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(decode_or_say, images))
    for one, other in zip(alone, together, strict=True):
        assert one == other if isinstance(one, str) else np.array_equal(one, other)
    assert 20 < sum(isinstance(one, str) for one in alone) < 395


def test_the_pixels_are_pillows() -> None:
    """Bit for bit, JPEGs of every sampling, progressive and CMYK ones included."""
    for content in [*seeds("jpg"), *seeds("webp")]:
        with Image.open(io.BytesIO(content)) as image:
            assert np.array_equal(decode(of(content)), np.asarray(image.convert("RGB")))
