"""Sheets: pictures in rows on white paper, with headings above them and texts beneath.

A sheet is made of strips, each as wide as the sheet and with a gap at its foot, which `stack` lays under
each other: headings, rows of tiles, paragraphs.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from turbomim.pipeline.system.durable import write_durably

PAPER: Final = "white"
INK: Final = "#1c1c1c"
SOFT: Final = "#6b6b6b"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Measures of a sheet, in pixels but for `columns`.

    tile_width, tile_height: the place of a picture; inset: from its border to a text in it.
    line_height: from one line of text to the next; labels_centred: beneath a tile, or else at its left.
    """

    columns: int
    tile_width: int
    tile_height: int
    gap: int
    margin: int
    heading_size: int
    text_size: int
    line_height: int
    inset: int = 0
    labels_centred: bool = True

    @property
    def width(self) -> int:
        """Of the whole sheet."""
        return 2 * self.margin + self.left_of(self.columns) - self.gap

    def left_of(self, column: int) -> int:
        """Where a column begins, from the first one's left."""
        return column * (self.tile_width + self.gap)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What is at one place of a row.

    picture: no larger than the place, in its middle, before `ground`.  text: broken into lines, as many as
    there is room for.  labels: lines beneath, each with its colour.  columns: how many the place takes.
    """

    picture: Image.Image | None = None
    ground: str = PAPER
    text: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    columns: int = 1


def wrap(text: str, width: int, font: Font) -> list[str]:
    """Lines of `text` no wider than `width` pixels, broken at blanks; a word that is wider, anywhere."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def heading_strip(look: Look, text: str) -> Image.Image:
    """A heading at the sheet's left."""
    strip = _blank(look, look.heading_size + 2)
    ImageDraw.Draw(strip).text((look.margin, 0), text, INK, load_font(look.heading_size))
    return strip


def column_headings_strip(look: Look, headings: Sequence[str]) -> Image.Image:
    """A heading over the middle of each column."""
    strip = _blank(look, look.heading_size + 2)
    pen, font = ImageDraw.Draw(strip), load_font(look.heading_size)
    for column, heading in enumerate(headings):
        middle = look.margin + look.left_of(column) + look.tile_width / 2
        pen.text((middle, 0), heading, INK, font, anchor="ma")
    return strip


def tiles_strip(look: Look, tiles: Sequence[Tile]) -> Image.Image:
    """A row of tiles, as high as the one with the most labels asks for."""
    labels = max(len(tile.labels) for tile in tiles)
    strip = _blank(look, look.tile_height + labels * look.line_height)
    left = look.margin
    for tile in tiles:
        _draw_tile(strip, look, tile, left)
        left += look.left_of(tile.columns)
    return strip


def paragraph_strip(look: Look, text: str) -> Image.Image:
    """A text in lines of the sheet's width; `text` is not empty."""
    font = load_font(look.text_size)
    lines = wrap(text, look.width - 2 * look.margin, font)
    strip = _blank(look, len(lines) * look.line_height)
    for number, line in enumerate(lines):
        ImageDraw.Draw(strip).text((look.margin, number * look.line_height), line, SOFT, font)
    return strip


def space_strip(look: Look) -> Image.Image:
    """A gap more."""
    return _blank(look, 0)


def stack(look: Look, strips: Sequence[Image.Image]) -> Image.Image:
    """The sheet: strips under each other, a margin around all."""
    height = 2 * look.margin + sum(strip.height for strip in strips) - look.gap
    sheet = Image.new("RGB", (look.width, height), PAPER)
    top = look.margin
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as a PNG file that is whole or absent.  Raises UserError if that is not possible."""
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    write_durably(path, png.getvalue())


def load_font(size: int) -> Font:
    """The font of all sheets, which Pillow brings along."""
    return ImageFont.load_default(size=size)


def _blank(look: Look, height: int) -> Image.Image:
    """A strip to draw on; letters reach below a line of their size, into the gap."""
    return Image.new("RGB", (look.width, height + look.gap), PAPER)


def _draw_tile(strip: Image.Image, look: Look, tile: Tile, left: int) -> None:
    """Draw one tile into its row, from `left` on."""
    pen, font = ImageDraw.Draw(strip), load_font(look.text_size)
    width, height = look.left_of(tile.columns) - look.gap, look.tile_height
    pen.rectangle((left, 0, left + width - 1, height - 1), tile.ground)
    if tile.picture is not None:
        across, down = tile.picture.size
        strip.paste(tile.picture, (left + (width - across) // 2, (height - down) // 2))
    top = look.inset
    for paragraph in tile.text.splitlines():
        for line in wrap(paragraph, width - 2 * look.inset, font):
            if top + look.line_height <= height:
                pen.text((left + look.inset, top), line, INK, font)
            top += look.line_height
        top += look.line_height // 2
    at, anchor = (left + width / 2, "ma") if look.labels_centred else (float(left), "la")
    for number, (label, ink) in enumerate(tile.labels):
        pen.text((at, height + 2 + number * look.line_height), label, ink, font, anchor=anchor)
