"""What the PNG file of a grid of pictures holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from turbomim.train.pictures.grid import Row, write_grid

HEADERS = ("photograph", "masked input", "reconstruction", "target")


def flat(side: int, value: float, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    return np.full((side, side, 3), value, dtype=dtype)


@pytest.mark.parametrize(("side", "tile"), [(48, 240), (96, 192), (112, 224), (224, 224), (300, 300)])
def test_grid_has_the_pictures_where_they_belong(tmp_path: Path, side: int, tile: int) -> None:
    marked = flat(side, 0.5)
    marked[0, 0] = (1.0, 0.0, 0.0)
    rows = [Row(pictures=(marked, flat(side, 51, np.uint8), flat(side, 2.0), flat(side, -1.0)))] * 2
    write_grid(rows, tmp_path / "grid.png", headers=HEADERS)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    height, width, _ = sheet.shape
    assert width == 4 * tile + 3 * 12 + 2 * 28
    assert height > 2 * tile
    # corners of the four pictures of the last row: the margin is 28 pixels, the gap 12
    bottom = height - 28 - 1
    centres = [28 + tile // 2 + column * (tile + 12) for column in range(4)]
    assert [sheet[bottom, x, 0] for x in centres] == [128, 51, 255, 0]
    top = bottom - tile + 1
    red = (sheet == (255, 0, 0)).all(2)
    assert red.sum() == 2 * (tile // side) ** 2
    assert red[top, 28] and not red[top - 1, 28]
    assert (sheet[:28] == 255).all() and (sheet[:, :28] == 255).all() and (sheet[:, -28:] == 255).all()


def test_captions_make_room_for_themselves(tmp_path: Path) -> None:
    def height(caption: str, row_caption: str) -> int:
        row = Row(pictures=(flat(224, 1.0),) * 4, caption=row_caption)
        write_grid([row], tmp_path / "grid.png", caption=caption, headers=HEADERS)
        return Image.open(tmp_path / "grid.png").height

    bare = height("", "")
    assert bare < height("", "photograph 7") < height("mean of the true patch", "photograph 7")
    assert height("one two three " * 40, "") > height("one two three", "")


def test_grid_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    with pytest.raises(ValueError, match="row 0 has 1 pictures, the headers are 4"):
        write_grid([Row(pictures=(flat(8, 0),))], path, headers=HEADERS)
    with pytest.raises(ValueError, match="a grid needs one size"):
        write_grid([Row(pictures=(flat(8, 0), flat(9, 0)))], path, headers=("a", "b"))
    with pytest.raises(ValueError, match=r"pictures of \[\] pixels"):
        write_grid([], path, headers=HEADERS)
