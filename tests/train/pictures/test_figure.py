"""Patches back to pixels, and what the PNG files hold."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from turbomim.pipeline.system.errors import UserError
from turbomim.train.pictures.figure import (
    Row,
    denormalise,
    loss_png,
    reconstruction_png,
    series,
    smooth,
    to_uint8,
    unpatchify,
    wrap,
)

HEADERS = ("photograph", "masked input", "reconstruction", "target")


def patchify_by_hand(picture: np.ndarray[Any, Any], patch: int) -> np.ndarray[Any, Any]:
    side = picture.shape[0] // patch
    rows = []
    for r in range(side):
        for c in range(side):
            block = picture[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            rows.append([block[y, x, k] for y in range(patch) for x in range(patch) for k in range(3)])
    return np.array(rows, dtype=picture.dtype)


@pytest.mark.parametrize(("side", "patch"), [(1, 4), (3, 4), (7, 2), (2, 16)])
def test_unpatchify_undoes_patchify(side: int, patch: int) -> None:
    picture = np.random.default_rng(0).random((side * patch, side * patch, 3))
    back = unpatchify(patchify_by_hand(picture, patch), patch)
    np.testing.assert_array_equal(back, picture)


@pytest.mark.parametrize("shape", [(6, 48), (4, 47)])
def test_unpatchify_refuses_other_shapes(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be \(n·n, 48\)"):
        unpatchify(np.zeros(shape), 4)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_denormalise_undoes_patch_normalisation(eps: float) -> None:
    patches = np.random.default_rng(1).random((9, 48))
    mean, var = patches.mean(1, keepdims=True), patches.var(1, ddof=1, keepdims=True)
    normal = (patches - mean) / np.sqrt(var + eps)
    np.testing.assert_allclose(denormalise(normal, mean, var, eps=eps), patches, atol=1e-12)


def flat(side: int, value: float, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    return np.full((side, side, 3), value, dtype=dtype)


@pytest.mark.parametrize(("side", "tile"), [(48, 240), (96, 192), (112, 224), (224, 224), (300, 300)])
def test_grid_has_the_pictures_where_they_belong(tmp_path: Path, side: int, tile: int) -> None:
    marked = flat(side, 0.5)
    marked[0, 0] = (1.0, 0.0, 0.0)
    rows = [Row(pictures=(marked, flat(side, 51, np.uint8), flat(side, 2.0), flat(side, -1.0)))] * 2
    reconstruction_png(rows, tmp_path / "grid.png", headers=HEADERS)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    height, width, _ = sheet.shape
    assert width == 4 * tile + 3 * 10 + 2 * 28
    assert height > 2 * tile
    # corners of the four pictures of the last row: the margin is 28 pixels, the gap 10
    bottom = height - 28 - 1
    centres = [28 + tile // 2 + column * (tile + 10) for column in range(4)]
    assert [sheet[bottom, x, 0] for x in centres] == [128, 51, 255, 0]
    top = bottom - tile + 1
    red = (sheet == (255, 0, 0)).all(2)
    assert red.sum() == 2 * (tile // side) ** 2
    assert red[top, 28] and not red[top - 1, 28]
    assert (sheet[:28] == 255).all() and (sheet[:, :28] == 255).all() and (sheet[:, -28:] == 255).all()


def test_captions_make_room_for_themselves(tmp_path: Path) -> None:
    def height(caption: str, row_caption: str) -> int:
        row = Row(pictures=(flat(224, 1.0),) * 4, caption=row_caption)
        reconstruction_png([row], tmp_path / "grid.png", caption=caption, headers=HEADERS)
        return Image.open(tmp_path / "grid.png").height

    bare = height("", "")
    assert bare < height("", "photograph 7") < height("mean of the true patch", "photograph 7")
    assert height("one two three " * 40, "") > height("one two three", "")


def test_grid_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    with pytest.raises(ValueError, match="row 0 has 1 pictures, the headers are 4"):
        reconstruction_png([Row(pictures=(flat(8, 0),))], path, headers=HEADERS)
    with pytest.raises(ValueError, match="a grid needs one size"):
        reconstruction_png([Row(pictures=(flat(8, 0), flat(9, 0)))], path, headers=("a", "b"))
    with pytest.raises(ValueError, match="no rows"):
        reconstruction_png([], path, headers=HEADERS)
    with pytest.raises(ValueError, match="int64"):
        to_uint8(np.zeros((2, 2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\)"):
        to_uint8(np.zeros((2, 2)))


def test_wrap_keeps_every_word_and_the_width() -> None:
    font = ImageFont.load_default(size=13)
    text = "statistics of the true low-passed patches were used, " * 6
    lines = wrap(text, 300, font)
    assert " ".join(lines).split() == text.split()
    assert len(lines) > 1 and all(font.getlength(line) <= 300 for line in lines)
    assert wrap("", 300, font) == []
    assert wrap("a " + "w" * 200, 50, font) == ["a", "w" * 200]


def records(count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"step": 10 * i, "loss": 1.2 - i / count, "lr": 1e-4 * i, "img_per_s": 200.0, "heldout_loss": None}
        for i in range(1, count + 1)
    ]
    rows[-1]["heldout_loss"] = 0.5
    return rows


def test_curves_show_both_losses_and_the_line_at_one(tmp_path: Path) -> None:
    loss_png(records(40), tmp_path / "loss.png", "a run")
    sheet = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB")).astype(int)
    assert sheet.shape == (900, 1200, 3)

    def seen(red: int, green: int, blue: int) -> int:
        return int((abs(sheet - (red, green, blue)).sum(2) < 12).sum())

    # training, held-out, images per second
    assert seen(0x1F, 0x5F, 0xA8) > 500 and seen(0xD9, 0x66, 0x0A) > 50 and seen(0x2C, 0x7A, 0x3F) > 500
    # the dashed line is the one row of its colour that goes on and off across the panel
    grey = (abs(sheet - 0x6B).sum(2) < 40).sum(1)
    assert grey.max() > 500


@pytest.mark.parametrize("count", [1, 2, 3])
def test_curves_of_a_run_that_has_just_begun(tmp_path: Path, count: int) -> None:
    loss_png(records(count), tmp_path / "loss.png", "a run")
    assert Image.open(tmp_path / "loss.png").size == (1200, 900)


def test_curves_without_a_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of 1 log records has a loss"):
        loss_png([{"step": 1, "loss": None}], tmp_path / "loss.png", "a run")


def test_curves_without_matplotlib_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'pip install "turbomim\[plots\]"'):
        loss_png(records(3), tmp_path / "loss.png", "a run")


def test_series_leaves_out_what_is_not_a_number() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": None},
        {"step": 3},
        {"step": 4, "loss": float("nan")},
    ]
    steps, values = series(rows, "loss")
    assert steps.tolist() == [1.0] and values.tolist() == [1.0]
    assert [len(part) for part in series([], "loss")] == [0, 0]


def test_smoothing_keeps_lines_and_calms_noise() -> None:
    line = np.linspace(3, 1, 50)
    np.testing.assert_allclose(smooth(line, 9), line)
    noise = np.random.default_rng(0).standard_normal(500)
    assert smooth(noise, 25)[20:-20].std() < 0.4 * noise.std()
