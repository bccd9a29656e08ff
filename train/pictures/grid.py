"""Pictures of one size in a grid, a heading over each column, as a PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from turbomim.pipeline.checking.sheet import (
    Look,
    Tile,
    column_headings_strip,
    paragraph_strip,
    stack,
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
    height, width = _check_rows(rows, headers)
    factor = max(1, round(SIDE / max(height, width)))
    look = Look(
        columns=len(headers),
        tile_width=width * factor,
        tile_height=height * factor,
        gap=10,
        margin=28,
        heading_size=17,
        text_size=13,
        line_height=19,
    )
    strips = [column_headings_strip(look, headers)]
    for row in rows:
        strips.append(tiles_strip(look, [Tile(picture=_enlarge(p, factor)) for p in row.pictures]))
        strips += [paragraph_strip(look, row.caption)] if row.caption else []
    strips += [paragraph_strip(look, caption)] if caption else []
    write_sheet(stack(look, strips), path)


def _enlarge(picture_HWC: NDArray[Any], factor: int) -> Image.Image:
    image = Image.fromarray(to_uint8(picture_HWC))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _check_rows(rows: Sequence[Row], headers: Sequence[str]) -> tuple[int, int]:
    """(H, W) that all pictures share."""
    if not rows:
        raise ValueError("no rows: a grid needs at least one")
    for number, row in enumerate(rows):
        if len(row.pictures) != len(headers):
            raise ValueError(f"row {number} has {len(row.pictures)} pictures, the headers are {len(headers)}")
    sizes = {(picture.shape[0], picture.shape[1]) for row in rows for picture in row.pictures}
    if len(sizes) != 1:
        raise ValueError(f"pictures of {sorted(sizes)} pixels: a grid needs one size")
    return sizes.pop()
