"""A contact sheet: photographs of a split, evenly spaced, each with its key, label and size beneath.

What the loader could not decode is a grey tile that says why.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from turbomim.pipeline.checking.sheet import (
    TEXT_SIZE,
    Layout,
    Tile,
    headings_strip,
    load_font,
    tiles_strip,
    write_sheet,
)
from turbomim.pipeline.decoding.decode import decode_stored
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.executors import on_threads
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Store

COLUMNS: Final = 8
ROWS: Final = 6
# pixels
THUMB_WIDTH: Final = 176
THUMB_HEIGHT: Final = 132
# behind what could not be decoded, and behind pictures
GREY, FRAME = "#c8c8c8", "#f2f2f2"


def write_contact_sheet(split: Split, path: Path) -> int:
    """Draw up to 6 x 8 photographs of a split into a PNG file.  Returns how many.

    Raises UserError if the file cannot be written, a shard cannot be read, or memory ran out.
    """
    count = min(COLUMNS * ROWS, len(split.index))
    ids_B = np.linspace(0, len(split.index) - 1, count).astype(np.int64)
    with ShardFiles(split) as files:
        read = read_samples(split, files, ids_B)
    names = on_threads(split.locate, ids_B.tolist())
    columns = zip(names, read.images, read.labels_B.tolist(), strict=True)
    tiles = [_make_tile(split, *column) for column in columns]
    manifest = split.manifest
    title = f"{manifest.name}-{manifest.split}: {count:,} of {manifest.samples:,} photographs, evenly spaced"
    # room for a title of some words
    layout = Layout(columns=max(min(COLUMNS, count), 3), tile_width=THUMB_WIDTH, tile_height=THUMB_HEIGHT)
    rows = [tiles[first : first + COLUMNS] for first in range(0, count, COLUMNS)]
    strips = [headings_strip(layout, [ascii(title)[1:-1]]), *(tiles_strip(layout, row) for row in rows)]
    write_sheet(strips, path)
    return count


def _make_tile(split: Split, name: str, content_N: NDArray[np.uint8], label: int) -> Tile:
    """Decode one sample. name: as `Split.locate` gives it."""
    classes = split.manifest.classes
    what = (
        "no label" if label < 0 else f"{label} {classes[label]}" if label < len(classes) else f"label {label}"
    )
    shard, member, offset = name.rsplit(":", 2)
    # the font of sheets has Latin letters alone
    member = member.encode("ascii", "backslashreplace").decode()
    size = f"{len(content_N) / 1000:,.0f} kB"
    shown = ascii(what)[1:-1]
    # what training gets: another decoder would show 16 bits, CMYK or damage otherwise
    pixels_HWC = decode_stored(content_N, Store.of(split.manifest.made).kind)
    if isinstance(pixels_HWC, str):
        reason = ascii(f"cannot be decoded: {pixels_HWC} ({shard} at byte {offset})")[1:-1]
        return Tile(text=reason, ground=GREY, labels=(_shorten(member), _shorten(f"{shown}, {size}")))
    height, width, _ = pixels_HWC.shape
    thumb = Image.fromarray(pixels_HWC)
    thumb.thumbnail((THUMB_WIDTH, THUMB_HEIGHT), reducing_gap=3.0)
    labels = _shorten(member), _shorten(f"{shown}, {width} x {height}, {size}")
    return Tile(picture=thumb, ground=FRAME, labels=labels)


def _shorten(text: str) -> str:
    """Cut out the middle of a text until it fits beneath a tile: a key's end tells photographs apart."""
    font = load_font(TEXT_SIZE)
    if font.getlength(text) <= THUMB_WIDTH:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(_cut_middle(text, keep)) > THUMB_WIDTH:
        keep -= 1
    return _cut_middle(text, keep)


def _cut_middle(text: str, keep: int) -> str:
    return f"{text[: keep // 2]}...{text[len(text) - (keep - keep // 2) :]}"
