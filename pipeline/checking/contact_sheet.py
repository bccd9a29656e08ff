"""A contact sheet: photographs of a split, evenly spaced, each with its key, label and size beneath.

What the loader could not decode is a grey tile that says why.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.decoding.ppm import ppm_pixels
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Store

COLUMNS: Final = 8
ROWS: Final = 6
# pixels
THUMB_WIDTH: Final = 176
THUMB_HEIGHT: Final = 132
TEXT: Final = 12
LINE: Final = 16
GAP: Final = 12
PAPER, INK, SOFT, GREY, FRAME = "white", "#1c1c1c", "#6b6b6b", "#c8c8c8", "#f2f2f2"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One picture of the sheet. thumb: None if it cannot be decoded, for `reason`; lines: beneath it."""

    thumb: Image.Image | None
    reason: str
    lines: tuple[str, str]


def write_contact_sheet(split: Split, path: Path) -> int:
    """Draw up to 6 x 8 photographs of a split into a PNG file.  Returns how many.

    Raises UserError if the file cannot be written or a shard cannot be read.
    """
    count = min(COLUMNS * ROWS, len(split.index))
    ids_B = np.linspace(0, len(split.index) - 1, count).astype(np.int64)
    files = ShardFiles(split)
    try:
        tiles = [_make_tile(split, files, int(sample)) for sample in ids_B]
    finally:
        files.close()
    manifest = split.manifest
    title = f"{manifest.name}-{manifest.split}: {count:,} of {manifest.samples:,} photographs, evenly spaced"
    png = io.BytesIO()
    _draw(tiles, title).save(png, "PNG")
    write_durably(path, png.getvalue())
    return count


def _make_tile(split: Split, files: ShardFiles, sample: int) -> Tile:
    """Read and decode one sample."""
    read = read_samples(split, files, np.array([sample]))
    content_N, label = read.images[0], int(read.labels_B[0])
    classes = split.manifest.classes
    what = (
        "no label" if label < 0 else f"{label} {classes[label]}" if label < len(classes) else f"label {label}"
    )
    _, member, offset = split.locate(sample).rsplit(":", 2)
    size = f"{len(content_N) / 1000:,.0f} kB"
    shown = ascii(what)[1:-1]
    try:
        thumb, width, height = _thumbnail(content_N, Store.of(split.manifest.made))
    # a parser given damaged bytes may raise anything, and one image must not spoil the sheet
    except Exception as error:
        shard = split.manifest.shards[int(split.index.shard_N[sample])].name
        reason = ascii(f"cannot be decoded: {error} ({shard} at byte {offset})")[1:-1]
        return Tile(thumb=None, reason=reason, lines=(member, f"{shown}, {size}"))
    return Tile(thumb=thumb, reason="", lines=(member, f"{shown}, {width} x {height}, {size}"))


def _thumbnail(content_N: NDArray[np.uint8], store: Store) -> tuple[Image.Image, int, int]:
    """Decode an image into the box of a thumbnail.  Returns it with the width and height it had."""
    if store.kind == "raw":
        image = Image.fromarray(ppm_pixels(content_N))
    else:
        check_header(content_N)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content_N.tobytes()))
    width, height = image.size
    # a JPEG is decoded at the half, quarter or eighth that suffices
    image.draft("RGB", (2 * THUMB_WIDTH, 2 * THUMB_HEIGHT))
    thumb = image.convert("RGB")
    thumb.thumbnail((THUMB_WIDTH, THUMB_HEIGHT), reducing_gap=3.0)
    return thumb, width, height


def _draw(tiles: list[Tile], title: str) -> Image.Image:
    """Lay the tiles out in rows under the title."""
    columns = min(COLUMNS, max(1, len(tiles)))
    step_x, step_y = THUMB_WIDTH + GAP, THUMB_HEIGHT + 2 * LINE + GAP
    top = 2 * GAP + LINE
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (max(columns, 3) * step_x + GAP, top + rows * step_y), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    draw.text((GAP, GAP), ascii(title)[1:-1], INK, ImageFont.load_default(TEXT + 2))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        left, upper = GAP + column * step_x, top + row * step_y
        box = (left, upper, left + THUMB_WIDTH - 1, upper + THUMB_HEIGHT - 1)
        draw.rectangle(box, GREY if tile.thumb is None else FRAME)
        if tile.thumb is None:
            wrapped = _wrap(tile.reason, THUMB_WIDTH - 2 * GAP, draw, font)[: THUMB_HEIGHT // LINE - 1]
            draw.multiline_text((left + GAP, upper + GAP), "\n".join(wrapped), INK, font)
        else:
            width, height = tile.thumb.size
            sheet.paste(tile.thumb, (left + (THUMB_WIDTH - width) // 2, upper + (THUMB_HEIGHT - height) // 2))
        for number, (line, ink) in enumerate(zip(tile.lines, (INK, SOFT), strict=True)):
            fitting = _shorten(line, THUMB_WIDTH, draw, font)
            draw.text((left, upper + THUMB_HEIGHT + 2 + number * LINE), fitting, ink, font)
    return sheet


def _shorten(text: str, width: int, draw: ImageDraw.ImageDraw, font: Font) -> str:
    """Cut out the middle of a text until it fits: a key's end tells photographs apart."""
    if draw.textlength(text, font) <= width:
        return text
    keep = len(text)
    while keep > 2 and draw.textlength(_cut_middle(text, keep), font) > width:
        keep -= 1
    return _cut_middle(text, keep)


def _cut_middle(text: str, keep: int) -> str:
    return f"{text[: keep // 2]}...{text[len(text) - (keep - keep // 2) :]}"


def _wrap(text: str, width: int, draw: ImageDraw.ImageDraw, font: Font) -> list[str]:
    """Break a text into lines that fit, anywhere: a reason may hold words longer than a line."""
    lines = [""]
    for letter in text:
        if draw.textlength(lines[-1] + letter, font) > width:
            lines.append("")
        lines[-1] += letter
    return lines
