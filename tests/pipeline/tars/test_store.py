"""Crops out of resized and raw stores: the window of the original photograph, without a resize."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.pipeline.decoding.crop_reference import encode, run_graph
from tests.pipeline.test_loader import SEED, by_position, load

from turbomim.benchmarks.write_split import texture, write_split
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import draw_crops, resized_sides, window_starts
from turbomim.pipeline.decoding.decode import decode
from turbomim.pipeline.decoding.ppm import ppm_bytes
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Store

SIZE = 96
N = 12
Pixels = NDArray[np.uint8]


def originals() -> list[Pixels]:
    """Landscape, portrait, square, and a panorama, larger and smaller than the crop."""
    sides = np.random.default_rng(4).integers(60, 400, (N - 3, 2)).tolist()
    return [texture(i, *shape) for i, shape in enumerate([*sides, [96, 96], [30, 700], [300, 299]])]


def resized(pixels: Pixels) -> Pixels:
    """Resize as a store does: to the sides of the simple crop, antialiased, in uint8."""
    sides = np.array(pixels.shape[:2])
    size = resized_sides(sides, sides.min(), SIZE).tolist()
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    out = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True)
    return out[0].permute(1, 2, 0).contiguous().numpy()


def jpeg(pixels: Pixels) -> bytes:
    return encode(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0).tobytes()


def png(pixels: Pixels) -> bytes:
    return encode(Image.fromarray(pixels), "PNG").tobytes()


FORMS: dict[str, tuple[str, Callable[[Pixels], bytes]]] = {
    "resized": ("jpg", jpeg),
    "raw": ("ppm", ppm_bytes),
}


def stored(folder: Path, kind: str, short_side: int = SIZE) -> Split:
    extension, form = FORMS[kind]
    options: dict[str, Any] = {"short_side": short_side, "resampling": "bicubic"}
    if kind == "resized":
        options |= {"quality": 95, "subsampling": "4:4:4"}
    store = Store(kind=kind, **options).to_json()  # type: ignore[arg-type]
    return write_split(folder / kind, [form(resized(pixels)) for pixels in originals()], extension, store)


def crops(split: Split, **changes: Any) -> dict[int, tuple[Any, ...]]:
    settings: dict[str, Any] = {"size": SIZE, "global_batch": N, "micro_batch": N}
    return by_position(load(split, 3, **(settings | changes)))


def image(sample: tuple[Any, ...]) -> Pixels:
    return np.frombuffer(sample[0], np.uint8).reshape(SIZE, SIZE, 3)


@pytest.mark.parametrize("kind", FORMS)
def test_the_window_is_cut_out_of_the_stored_pixels(kind: str, tmp_path: Path) -> None:
    """Bit for bit: reflection, window and flip, and nothing else."""
    inside = [resized(pixels) for pixels in originals()]
    if kind == "resized":
        inside = [decode(np.frombuffer(jpeg(pixels), np.uint8)) for pixels in inside]
    for sample in crops(stored(tmp_path, kind)).values():
        _, label, identity, epoch = sample
        turn = Turn(position=0, epochs_B=np.array([epoch]), ids_B=np.array([identity]))
        inputs = draw_crops(Crop(size=SIZE), SEED, turn)
        pixels = inside[identity]
        y, x = window_starts(inputs["words"], np.array([pixels.shape[:2]]), SIZE)[0] + 4
        padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        window = padded[y : y + SIZE, x : x + SIZE]
        assert np.array_equal(image(sample), window[:, ::-1] if inputs["flips"][0] else window)
        assert label == identity


@pytest.mark.parametrize(("kind", "least_db", "most"), [("raw", 50, 8), ("resized", 34, 40)])
def test_crops_are_those_of_the_original_photographs(
    kind: str, least_db: float, most: int, tmp_path: Path
) -> None:
    """The same window: raw differs by the rounding of its resize, resized by the loss of its JPEG too."""
    original = crops(write_split(tmp_path / "original", [png(pixels) for pixels in originals()]))
    for position, sample in crops(stored(tmp_path, kind)).items():
        difference = image(sample).astype(float) - image(original[position])
        assert (difference**2).mean() < 255**2 / 10 ** (least_db / 10)
        assert np.abs(difference).max() <= most
        assert sample[1:] == original[position][1:]


@pytest.mark.parametrize("kind", FORMS)
def test_random_crops_are_resized_as_ever(kind: str, tmp_path: Path) -> None:
    """A store is just a split of smaller photographs; any size up to its short side."""
    files = [FORMS[kind][1](resized(pixels)) for pixels in originals()]
    if kind == "raw":
        files = [png(np.asarray(Image.open(io.BytesIO(file)))) for file in files]
    (batch,) = load(stored(tmp_path, kind), 1, size=40, crop="rrc", global_batch=N, micro_batch=N)
    turn = Turn(position=0, epochs_B=batch.epochs_B.numpy(), ids_B=batch.ids_B.numpy())
    images = [np.frombuffer(files[sample], np.uint8) for sample in batch.ids_B.tolist()]
    assert np.array_equal(
        batch.images_BHWC.numpy(),
        run_graph(images, draw_crops(Crop(kind="rrc", size=40), SEED, turn), 40, "rrc"),
    )


@pytest.mark.parametrize("kind", FORMS)
def test_nothing_but_the_position_matters(kind: str, tmp_path: Path) -> None:
    split = stored(tmp_path, kind)
    assert crops(split, threads=1, prefetch=1, readers=1) == crops(split, threads=3, prefetch=3)


def test_raw_pixels_that_are_not_whole_are_replaced(tmp_path: Path) -> None:
    """Without a decoder the header is all that can be wrong."""
    files = [ppm_bytes(resized(pixels)) for pixels in originals()]
    files[3] = files[3][:-1]
    files[7] = b"P5" + files[7][2:]
    store = Store(kind="raw", short_side=SIZE, resampling="bicubic").to_json()
    lines: list[str] = []
    found = crops(write_split(tmp_path / "cut", files, "ppm", store), max_bad_share=1.0, notify=lines.append)
    assert sorted(line.partition(" cannot be decoded (")[2][:9] for line in lines)[1] == "no header"
    assert len(lines) == 2
    assert {sample[2]: sample[1] for sample in found.values()} == {i: i for i in range(N)} | {3: 4, 7: 8}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 64}, "crop 'src' of 64 pixels, bicubic, .* short side 96, bicubic: .*`--short-side 64`"),
        ({"interpolation": "bilinear"}, "crop 'src' of 96 pixels, bilinear, cannot come out of a store"),
        (
            {"crop": "rrc", "size": 97},
            "image size 97 is above the store's short side of 96: .*side 97`",
        ),
    ],
)
def test_a_store_that_does_not_fit_the_crop(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        crops(stored(tmp_path, "raw"), **changes)
    assert "\n" not in str(caught.value)
