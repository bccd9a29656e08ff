"""The DALI graph: offsets, pixels against two references, images of every form, draws, no copies."""

import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.pipeline.decoding.crop_reference import by_definition, by_torchvision, encode, run_graph

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import Inputs, draw_crops, window_starts
from turbomim.pipeline.decoding.dali import CropGraph
from turbomim.pipeline.stream.philox import CROP, FLIP, draw_u32
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.tars.store import Interpolation

SIZE = 48
SEED = 2**40 + 5
FIRST, LAST = 0, 2**32 - 1


def test_offsets_cover_the_padded_range_evenly() -> None:
    sides = np.array([[SIZE, SIZE + 3]])
    ends = np.array([[FIRST, FIRST], [LAST, LAST]])
    assert window_starts(ends, sides, SIZE).tolist() == [[-4, -4], [4, 7]]
    words = np.linspace(0, LAST, 9 * 12 * 100).astype(np.int64)
    offsets = window_starts(np.stack([words, words], 1), sides, SIZE)
    assert np.bincount(offsets[:, 0] + 4).tolist() == pytest.approx([1200] * 9, abs=1)
    assert np.bincount(offsets[:, 1] + 4).tolist() == pytest.approx([900] * 12, abs=1)


def test_offsets_are_exact_for_long_sides() -> None:
    side, word = 14_000_000, 4_000_000_007
    offset = window_starts(np.array([[word, word]]), np.array([[side, side]]), SIZE)[0, 0]
    assert offset == word * (side - SIZE + 9) // 2**32 - 4


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("extension", ["PNG", "JPEG"])
def test_pixels(extension: str, interpolation: Interpolation) -> None:
    random = np.random.default_rng(2)
    shapes = random.integers(20, 250, (40, 2)).tolist()
    images = [encode(Image.fromarray(texture(i, *shape)), extension) for i, shape in enumerate(shapes)]
    words = random.integers(0, 2**32, (40, 2))
    words[:4] = [[FIRST, FIRST], [FIRST, LAST], [LAST, FIRST], [LAST, LAST]]
    flips = random.integers(0, 2, 40).astype(np.int32)
    inputs: Inputs = {"words": words, "flips": flips}
    pixels = run_graph(images, inputs, SIZE, "src", interpolation).astype(np.float32)
    samples = list(zip(images, words, flips.tolist(), strict=True))
    # half a grey level of rounding, and a third for DALI's table of filter weights; no more for JPEG, as it
    # decodes to Pillow's pixels
    definition = np.stack([by_definition(*sample, SIZE, interpolation) for sample in samples])
    assert np.abs(pixels - definition).max() < 0.85
    # PIL rounds twice, clips in between, and cuts its filter at the edge
    expected = np.stack([by_torchvision(*sample, SIZE, interpolation) for sample in samples])
    difference = np.abs(pixels - expected)
    assert difference.mean() < 0.25
    assert difference.max() <= 8
    assert (difference > 1).mean() < 0.01


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_inside_differ_from_torchvision_by_rounding_only(interpolation: Interpolation) -> None:
    """Far from the photograph's edge and from black and white, PIL's extra rounding is all that is left."""
    image = encode(Image.fromarray(texture(3, 300, 400) // 2 + 64), "PNG")
    words = np.array([[2**31, 2**31]])
    inputs: Inputs = {"words": words, "flips": np.zeros(1, np.int32)}
    pixels = run_graph([image], inputs, 128, "src", interpolation)[0].astype(np.float32)
    inside = np.s_[8:-8, 8:-8]
    difference = np.abs(pixels - by_torchvision(image, words[0], 0, 128, interpolation))[inside]
    assert difference.max() <= 1
    assert difference.mean() < 0.25


def odd_images() -> dict[str, NDArray[np.uint8]]:
    rgb = Image.fromarray(texture(1, 60, 90))
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    rotated = Image.Exif()
    rotated[0x112] = 6
    return {
        "1x1": encode(Image.fromarray(texture(0, 1, 1)), "JPEG"),
        "1x1 grey": encode(Image.fromarray(texture(0, 1, 1)).convert("L"), "PNG"),
        "5 high": encode(Image.fromarray(texture(2, 5, 700)), "JPEG"),
        "5 wide": encode(Image.fromarray(texture(3, 700, 5)), "PNG"),
        "1 high": encode(Image.fromarray(texture(4, 1, 600)), "PNG"),
        "exact": encode(Image.fromarray(texture(5, SIZE, SIZE)), "PNG"),
        "portrait": encode(Image.fromarray(texture(6, 300, 100)), "JPEG"),
        "grey": encode(rgb.convert("L"), "JPEG"),
        "cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "progressive": encode(rgb, "JPEG", progressive=True),
        "4:2:0 odd": encode(Image.fromarray(texture(7, 61, 91)), "JPEG", subsampling=2),
        "4:4:4": encode(rgb, "JPEG", subsampling=0),
        "rotated": encode(rgb, "JPEG", exif=rotated),
        "alpha": encode(rgba, "PNG"),
        "grey alpha": encode(rgb.convert("LA"), "PNG"),
        "palette": encode(rgb.quantize(16), "PNG", transparency=3),
        "bilevel": encode(rgb.convert("1"), "PNG"),
        "webp": encode(rgb, "WEBP"),
        "webp alpha": encode(rgba, "WEBP", lossless=True),
        # some of their chunks are of odd size
        **{
            f"webp exif {i}": encode(Image.fromarray(texture(i, 60, 90)), "WEBP", lossless=True, exif=rotated)
            for i in range(4)
        },
    }


@pytest.mark.parametrize("name", odd_images())
def test_odd_images(name: str) -> None:
    image = odd_images()[name]
    words = np.random.default_rng(5).integers(0, 2**32, (4, 2))
    flips = np.array([0, 1, 0, 1], np.int32)
    pixels = run_graph([image] * 4, {"words": words, "flips": flips}, SIZE)
    for i in range(4):
        assert np.abs(pixels[i] - by_definition(image, words[i], int(flips[i]), SIZE)).max() < 0.85


def test_a_panorama_takes_no_memory_beyond_its_window() -> None:
    """The whole resize of 1 x 65500 to a short side of 224 would take 9.8 GB."""
    image = encode(Image.fromarray(texture(0, 1, 65500)), "JPEG")
    inputs = {"words": np.array([[0, 2**31]]), "flips": np.zeros(1, np.int32)}
    pixels = run_graph([image], inputs, size=224)
    assert pixels.shape == (1, 224, 224, 3)


def test_draws_written_out() -> None:
    """Crop: words 0 and 1, for y and x.  Flip: the lowest bit of word 0."""
    turn = Turn(position=0, epochs_B=np.arange(50), ids_B=np.arange(50) * 7)
    inputs = draw_crops(Crop(size=SIZE), SEED, turn)
    assert sorted(inputs) == ["flips", "words"]
    assert inputs["words"].tolist() == draw_u32(SEED, turn.epochs_B, turn.ids_B, CROP, 2).tolist()
    assert inputs["flips"].tolist() == [
        word & 1 for word in draw_u32(SEED, turn.epochs_B, turn.ids_B, FLIP, 1)[:, 0].tolist()
    ]


def test_flips_are_fair_and_differ_between_epochs() -> None:
    ids = np.arange(10_000)
    flips = [
        draw_crops(Crop(size=SIZE), 1, Turn(position=0, epochs_B=np.full(10_000, epoch), ids_B=ids))["flips"]
        for epoch in range(2)
    ]
    assert np.mean(flips, axis=1) == pytest.approx([0.5, 0.5], abs=0.02)
    assert (flips[0] == flips[1]).mean() == pytest.approx(0.5, abs=0.02)


def test_nothing_is_copied_on_the_way_in_or_out(monkeypatch: pytest.MonkeyPatch) -> None:
    image = texture(0, 50, 60)
    graph = CropGraph(Crop(size=SIZE), batch=1, device="cpu", threads=1, prefetch=2)
    inputs: Inputs = {"words": np.zeros((1, 2), np.int64), "flips": np.zeros(1, np.int32)}
    references = sys.getrefcount(image)
    graph.feed([image], inputs)
    # DALI keeps the array itself, until the run has used it
    assert sys.getrefcount(image) == references + 1
    # both runs start
    graph.feed([image], inputs)
    untyped: Any = graph._pipeline
    for _ in range(2):
        (output,) = untyped.outputs()
    assert sys.getrefcount(image) == references
    monkeypatch.setattr(untyped, "outputs", lambda stream: (output,))
    assert graph.take().data_ptr() == output.as_tensor().data_ptr() == output[0].data_ptr()
