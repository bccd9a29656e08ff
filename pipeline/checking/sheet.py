"""Sheets: pictures in rows on white paper, with headings above them and texts beneath.

A sheet is made of strips, each as wide as the sheet and with a gap at its foot, which `write_sheet`
lays under each other: headings, rows of tiles, paragraphs.
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
# pixels: between tiles and strips, around the sheet, and from a tile's border to a text in it
GAP: Final = 12
MARGIN: Final = 28
INSET: Final = 8
# pixels: of letters, and from one line of text to the next
HEADING_SIZE: Final = 16
TEXT_SIZE: Final = 13
LINE_HEIGHT: Final = 18

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How many tiles a row of the sheet has, and the place of a picture in pixels."""

    columns: int
    tile_width: int
    tile_height: int

    @property
    def width(self) -> int:
        """Of the whole sheet."""
        return 2 * MARGIN + self.left_of(self.columns) - GAP

    def left_of(self, column: int) -> int:
        """Where a column begins, from the first one's left."""
        return column * (self.tile_width + GAP)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What is at one place of a row.

    picture: no larger than the place, in its middle, before `ground`.  text: broken into lines, as many as
    there is room for.  labels: lines beneath, the first one darker.  columns: how many the place takes.
    """

    picture: Image.Image | None = None
    ground: str = PAPER
    text: str = ""
    labels: tuple[str, ...] = ()
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


def headings_strip(layout: Layout, headings: Sequence[str]) -> Image.Image:
    """A heading at the left of each column."""
    strip = _blank(layout, HEADING_SIZE + 2)
    pen, font = ImageDraw.Draw(strip), load_font(HEADING_SIZE)
    for column, heading in enumerate(headings):
        pen.text((MARGIN + layout.left_of(column), 0), heading, INK, font)
    return strip


def tiles_strip(layout: Layout, tiles: Sequence[Tile]) -> Image.Image:
    """A row of tiles, as high as the one with the most labels asks for."""
    labels = max(len(tile.labels) for tile in tiles)
    strip = _blank(layout, layout.tile_height + labels * LINE_HEIGHT)
    left = MARGIN
    for tile in tiles:
        _draw_tile(strip, layout, tile, left)
        left += layout.left_of(tile.columns)
    return strip


def paragraph_strip(layout: Layout, text: str) -> Image.Image:
    """A text in lines of the sheet's width; `text` is not empty."""
    font = load_font(TEXT_SIZE)
    lines = wrap(text, layout.width - 2 * MARGIN, font)
    strip = _blank(layout, len(lines) * LINE_HEIGHT)
    for number, line in enumerate(lines):
        ImageDraw.Draw(strip).text((MARGIN, number * LINE_HEIGHT), line, SOFT, font)
    return strip


def write_sheet(strips: Sequence[Image.Image], path: Path) -> None:
    """Write strips under each other as a PNG file that is whole or absent.  Raises UserError if it cannot."""
    height = 2 * MARGIN + sum(strip.height for strip in strips) - GAP
    sheet = Image.new("RGB", (strips[0].width, height), PAPER)
    top = MARGIN
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    write_durably(path, png.getvalue())


def load_font(size: int) -> Font:
    """The font of all sheets, which Pillow brings along."""
    return ImageFont.load_default(size=size)


def _blank(layout: Layout, height: int) -> Image.Image:
    """A strip to draw on; letters reach below a line of their size, into the gap."""
    return Image.new("RGB", (layout.width, height + GAP), PAPER)


def _draw_tile(strip: Image.Image, layout: Layout, tile: Tile, left: int) -> None:
    """Draw one tile into its row, from `left` on."""
    pen, font = ImageDraw.Draw(strip), load_font(TEXT_SIZE)
    width, height = layout.left_of(tile.columns) - GAP, layout.tile_height
    pen.rectangle((left, 0, left + width - 1, height - 1), tile.ground)
    if tile.picture is not None:
        across, down = tile.picture.size
        strip.paste(tile.picture, (left + (width - across) // 2, (height - down) // 2))
    top = INSET
    for paragraph in tile.text.splitlines():
        for line in wrap(paragraph, width - 2 * INSET, font):
            if top + LINE_HEIGHT <= height:
                pen.text((left + INSET, top), line, INK, font)
            top += LINE_HEIGHT
        top += LINE_HEIGHT // 2
    for number, label in enumerate(tile.labels):
        top = height + 2 + number * LINE_HEIGHT
        pen.text((left, top), label, SOFT if number else INK, font)
