"""`turbomim analyze coverage` against textbook clipping, torchvision's windows and the loader's own pixels.

Planted, each seen to fail the test named: whole edges instead of their parts left of a line, edges right of
it (`test_areas_of_cells_are_those_of_textbook_clipping`); the mirrored border counted, height and width
exchanged, a window's place for its shape (`test_mean_area_is_the_one_measured_for_the_published_crops`); the
words of y and x exchanged, a flip forgotten, every epoch the first, masked for visible, a mask transposed
(`test_an_objects_share_is_that_of_its_white_pixels_in_the_loaders_crops`).
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.calls import call
from tests.pipeline.decoding.crop_reference import encode, rrc_window_by_torchvision, run_graph, run_windows
from tests.train.analyze.test_annotations import coco

from turbomim.kernels.masking import random_masking
from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.decoding.crop_draws import draw_crops
from turbomim.pipeline.decoding.crop_windows import crop_windows, stored_sides
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.stream.philox import CROP, draw_u32
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.tars.split import open_split
from turbomim.pipeline.tars.store import Kind
from turbomim.train.analyze.coverage import shares_of
from turbomim.train.analyze.objects import Objects, area, cell_areas
from turbomim.train.analyze.options import Coverage

Points = list[tuple[float, float]]


def clipped(points: Points, axis: int, limit: float, keep_below: bool) -> Points:
    """Sutherland and Hodgman's clipping by one line."""

    def inside(point: tuple[float, float]) -> bool:
        return point[axis] <= limit if keep_below else point[axis] >= limit

    out: Points = []
    for one, other in zip(points, [*points[1:], points[0]], strict=True):
        if inside(one):
            out.append(one)
        if inside(one) != inside(other):
            t = (limit - one[axis]) / (other[axis] - one[axis])
            out.append((one[0] + t * (other[0] - one[0]), one[1] + t * (other[1] - one[1])))
    return out


def shoelace(points: Points) -> float:
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairs)) / 2


def star(seed: int) -> NDArray[np.float64]:
    """An outline of 4 to 12 corners around the middle of [0, 1], mostly not convex, some corners on lines."""
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(4, 13)))
    radii = random.uniform(0.05, 0.7, len(angles))
    points: NDArray[np.float64] = 0.5 + radii[:, None] * np.stack([np.sin(angles), np.cos(angles)], 1)
    return points.round(1) if seed % 3 == 0 else points


@pytest.mark.parametrize("seed", range(12))
def test_areas_of_cells_are_those_of_textbook_clipping(seed: int) -> None:
    outline = star(seed)
    # a grid that the outline reaches beyond
    rows, columns = np.linspace(0.1, 0.8, 5), np.linspace(0.0, 0.9, 4)
    ours = cell_areas(outline, rows, columns)
    for r, c in itertools.product(range(4), range(3)):
        points: Points = [(float(y), float(x)) for y, x in outline]
        for axis, low, high in ((0, rows[r], rows[r + 1]), (1, columns[c], columns[c + 1])):
            for limit, below in ((low, False), (high, True)):
                points = clipped(points, axis, float(limit), below) if points else points
        assert abs(ours[r, c] - (shoelace(points) if points else 0)) < 1e-12
    # the same backwards, and all of it within a grid that holds it
    np.testing.assert_allclose(cell_areas(outline[::-1], rows, columns), ours, atol=1e-14)
    whole = cell_areas(outline, np.linspace(-1, 2, 8), np.linspace(-1, 2, 8))
    assert abs(whole.sum() - area(outline)) < 1e-12


def turn_of(ids: NDArray[np.int64], epoch: int = 0) -> Turn:
    return Turn(position=0, epochs_B=np.full_like(ids, epoch), ids_B=ids)


@pytest.mark.parametrize(
    ("kind", "sides", "expected"),
    [("rrc", (375, 500), 0.496), ("rrc", (400, 400), 0.540),
     ("src", (375, 500), 0.741), ("src", (400, 400), 0.980)],
)  # fmt: skip
def test_mean_area_is_the_one_measured_for_the_published_crops(
    kind: CropKind, sides: tuple[int, int], expected: float
) -> None:
    crop = Crop(kind=kind, size=224)
    ids = np.arange(20_000)
    all_sides = np.tile(sides, (20_000, 1))
    found = shares_of(crop, ids, all_sides, {}, 14, Coverage(data="", epochs=1))
    assert abs(found["image"].mean() - expected) < 0.003
    _, flips = crop_windows(crop, 0, turn_of(ids), all_sides)
    assert abs(flips.mean() - 0.5) < 0.02


def test_windows_of_rrc_are_torchvisions() -> None:
    ids, random = np.arange(200), np.random.default_rng(0)
    sides = random.integers(20, 400, (200, 2))
    windows, _ = crop_windows(Crop(kind="rrc", size=32, scale=0.08), 5, turn_of(ids, 3), sides)
    words = draw_u32(5, np.full(200, 3), ids, CROP, 22)
    for window, word, (height, width) in zip(windows, words, sides.tolist(), strict=True):
        top, left, rows, columns = rrc_window_by_torchvision(word.tolist(), height, width, 0.08)
        expected = np.array([[top, left], [top + rows, left + columns]]) / (height, width)
        np.testing.assert_allclose(window, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["src", "rrc"])
def test_an_objects_share_is_that_of_its_white_pixels_in_the_loaders_crops(kind: CropKind) -> None:
    """White boxes on black through the loader's crop and flip, and the mask of the same samples."""
    size, count, units, unit = 64, 24, 4, 16
    random = np.random.default_rng(1)
    sides = random.integers(150, 300, (count, 2))
    images, objects = [], {}
    for sample, (height, width) in enumerate(sides.tolist()):
        (top, bottom), (left, right) = (np.sort(random.integers(0, side, 2)) for side in (height, width))
        top, left = min(top, bottom - 40), min(left, right - 40)
        top, left = max(top, 0), max(left, 0)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[top : bottom + 1, left : right + 1] = 255
        images.append(encode(Image.fromarray(pixels), "PNG"))
        corners = np.array([[top, left], [top, right + 1], [bottom + 1, right + 1], [bottom + 1, left]])
        objects[sample] = Objects(outlines=[[corners / (height, width)]], sides=(height, width))
    ids = np.arange(count)
    crop = Crop(kind=kind, size=size)
    inputs = draw_crops(crop, 9, turn_of(ids, 1))
    crops = run_windows(images, inputs, size) if kind == "src" else run_graph(images, inputs, size, "rrc")
    options = Coverage(data="", size=size, mask_unit=unit, mask_ratio=0.5, epochs=2, seed=9)
    found = shares_of(crop, ids, sides, objects, units, options)
    windows, _ = crop_windows(crop, 9, turn_of(ids, 1), sides)
    keep, _ = random_masking(9, torch.ones(count, dtype=torch.long), torch.arange(count), units**2, 8)
    for sample in range(count):
        white = crops[sample, ..., 0].astype(float) / 255
        if kind == "src":
            # what the border mirrors is not the object's
            (top, left), (bottom, right) = windows[sample]
            rows, columns = (
                (np.linspace(low, high, size + 1)[:-1] >= -1e-9)
                & (np.linspace(low, high, size + 1)[1:] <= 1 + 1e-9)
                for low, high in ((top, bottom), (left, right))
            )
            flipped = bool(inputs["flips"][sample])
            white = white * rows[:, None] * (columns[::-1] if flipped else columns)[None, :]
        kept = np.zeros(units**2)
        kept[keep[sample].numpy()] = 1
        seen = kept.reshape(units, units).repeat(unit, 0).repeat(unit, 1)
        whole = area(objects[sample].outlines[0][0])
        pixel = np.diff(windows[sample], axis=0).prod() / size**2
        # the second epoch's shares follow those of the first
        assert abs(found["object"][count + sample] - white.sum() * pixel / whole) < 0.03
        assert abs(found["visible"][count + sample] - (white * seen).sum() * pixel / whole) < 0.03
    assert len(found["image"]) == 2 * count and found["object"].std() > 0.01


@pytest.mark.parametrize("kind", ["original", "raw"])
def test_sides_are_those_of_the_stored_images(photo_folder: Path, tmp_path: Path, kind: Kind) -> None:
    settings = ShardSettings(shard_size=9, store=kind, short_side=40 if kind == "raw" else None)
    make_shards(photo_folder, tmp_path / "s", settings)
    split = open_split(tmp_path / "s")
    sides = stored_sides(split, np.arange(33))
    for sample in range(33):
        (number,) = re.findall(r"tree_(\d+)", split.locate(sample))
        (path,) = photo_folder.glob(f"*/tree_{number}.*")
        width, height = Image.open(path).size
        if kind == "raw":
            short = min(height, width)
            height, width = height * 40 // short, width * 40 // short
        assert sides[sample].tolist() == [height, width]


def test_the_command_shows_images_and_objects(
    trees: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(coco(photo_folder)))
    words = ["--data", str(trees), "--size", "64", "--mask-unit", "16", "--crops", "rrc:0.2,src"]
    assert call(monkeypatch, "analyze", "coverage", *words, "--out", str(tmp_path / "i")) == 0
    plain = json.loads((tmp_path / "i" / "coverage.json").read_text())["results"]
    assert list(plain["src"]) == ["image"] and sum(plain["src"]["image"]["histogram"]) == 33 * 4
    words += ["--boxes", str(tmp_path / "a.json"), "--out", str(tmp_path / "o")]
    assert call(monkeypatch, "analyze", "coverage", *words) == 0
    record = json.loads((tmp_path / "o" / "coverage.json").read_text())
    assert (tmp_path / "o" / "coverage.png").read_bytes()[:4] == b"\x89PNG"
    assert record["settings"]["annotated"] == 2 and record["settings"]["objects"] == 3
    for crop in ("rrc:0.2", "src"):
        found = record["results"][crop]
        assert found["image"] == plain[crop]["image"]
        assert sum(found["object"]["histogram"]) == 3 * 4
        assert found["visible"]["mean"] < found["object"]["mean"] <= 1 and 0 <= found["hidden"]["share"] <= 1
    assert plain["src"]["image"]["mean"] > plain["rrc:0.2"]["image"]["mean"]
    assert "objects hidden" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crops", "rrc:2"], "--crops 'rrc:2': must be src, or rrc:SCALE"),
        (["--crops", "src:0.2"], "--crops 'src:0.2'"),
        (["--mask-unit", "15"], "--mask-unit 15: must be a divisor of the crop's 224 pixels"),
        (["--mask-ratio", "1"], "--mask-ratio 1.0: must keep 1 to 195 of 196 units"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--boxes", "/nowhere"], "--boxes /nowhere cannot be read: No such file"),
        (["--boxes", "BAD"], "is no COCO file of instances, with images"),
        (["--boxes", "ODD"], "annotation 77: cannot reshape array of size 5"),
        (["--boxes", "LACKS"], "'annotations' is missing"),
        (["--boxes", "TURNED"], "pixels, and the file says"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_one_line(
    words: list[str],
    message: str,
    trees: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = coco(photo_folder)
    (tmp_path / "BAD").write_text("{")
    (tmp_path / "LACKS").write_text(json.dumps({"images": tree["images"]}))
    odd = {"id": 77, "image_id": 0, "segmentation": [[1, 2, 3, 4, 5]]}
    (tmp_path / "ODD").write_text(json.dumps(tree | {"annotations": [odd]}))
    for image in tree["images"]:
        image["height"], image["width"] = image["width"], image["height"]
    (tmp_path / "TURNED").write_text(json.dumps(tree))
    words = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words]
    code = call(
        monkeypatch, "analyze", "coverage", "--data", str(trees), *words, "--out", str(tmp_path / "o")
    )
    err = capsys.readouterr().err
    assert code in (1, 2) and message in err and len(err.splitlines()) == 1
