"""Pictures of one size in a grid, a heading over each column, as a PNG file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from turbomim.pipeline.checking.sheet import (
    Layout,
    Tile,
    headings_strip,
    paragraph_strip,
    tiles_strip,
    write_sheet,
)
from turbomim.train.pictures.pixels import to_uint8

# pixels of a picture's longer side that are aimed at
SIDE = 224


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a grid: pictures (H, W, 3), uint8 or float 0..1, one a column; a caption under them."""

    pictures: tuple[NDArray[Any], ...]
    caption: str = ""


def write_grid(rows: Sequence[Row], path: Path, *, headers: Sequence[str], caption: str = "") -> None:
    """Write rows of pictures under column headers, on white; `caption` below says how the pixels were made.

    Pictures have one size and are enlarged by the whole factor that brings them nearest to 224 pixels.
    Raises ValueError if a row has not one picture a header, or if pictures differ in size, and UserError if
    the file cannot be written.
    """
    for number, row in enumerate(rows):
        if len(row.pictures) != len(headers):
            raise ValueError(f"row {number} has {len(row.pictures)} pictures, the headers are {len(headers)}")
    sizes = {(picture.shape[0], picture.shape[1]) for row in rows for picture in row.pictures}
    if len(sizes) != 1:
        raise ValueError(f"pictures of {sorted(sizes)} pixels: a grid needs one size")
    ((height, width),) = sizes
    factor = max(1, round(SIDE / max(height, width)))
    layout = Layout(columns=len(headers), tile_width=width * factor, tile_height=height * factor)
    strips = [headings_strip(layout, headers)]
    for row in rows:
        tiles = [Tile(picture=_enlarge(picture, factor)) for picture in row.pictures]
        strips.append(tiles_strip(layout, tiles))
        strips += [paragraph_strip(layout, row.caption)] if row.caption else []
    strips += [paragraph_strip(layout, caption)] if caption else []
    write_sheet(strips, path)


def _enlarge(picture_HWC: NDArray[Any], factor: int) -> Image.Image:
    image = Image.fromarray(to_uint8(picture_HWC))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
