"""What `inspect` says and draws, of splits of ours and foreign ones, damage and hostile names included."""

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pipeline.tars.counted_place import CountedPlace
from tests.pipeline.tars.tar_bytes import write_tar

from turbomim.benchmarks.faults.image_kinds import png
from turbomim.pipeline.checking.contact_sheet import GREY, ROWS, THUMB_HEIGHT, write_contact_sheet
from turbomim.pipeline.checking.inspect import BYTE_EDGES, format_summary, summarise
from turbomim.pipeline.decoding.centre_crops import CentreCrop, split_crops
from turbomim.pipeline.making.index_tars import IndexSettings, index_tars
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split

# pixels above the first photograph: margin, title and gap
TOP = 28 + 18 + 12


def encoded(colour: tuple[int, int, int], size: tuple[int, int] = (60, 40), form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def test_sizes_are_counted_over_all_images(tiny_split: Split) -> None:
    summary = summarise(open_split(tiny_split.folder), sample=1)
    sizes = tiny_split.index.image_bytes_N
    assert summary.sampled == 1
    assert summary.byte_histogram[0] == (sizes < BYTE_EDGES[0]).sum()
    assert sum(summary.byte_histogram) == 33
    assert summary.manifest.made["store"]["kind"] == "original"


@pytest.mark.parametrize("sample", [0, -5])
def test_a_sample_of_nothing_is_refused(sample: int, tiny_split: Split) -> None:
    with pytest.raises(UserError, match=f"--sample is {sample}: it must be at least 1"):
        summarise(open_split(tiny_split.folder), sample=sample)


def test_one_shard_is_not_called_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", encoded((1, 2, 3)))])
    index_tars(tmp_path, IndexSettings(name="one"))
    text = format_summary(summarise(open_split(tmp_path)))
    assert "samples      1 in 1 shard, " in text
    assert "store        original\n" in text and "classes      no labels\n" in text


def test_foreign_labels_have_no_names(tmp_path: Path) -> None:
    files = [("a.jpg", encoded((1, 2, 3))), ("a.id", b"4"), ("b.jpg", b"no image"), ("b.id", b"5")]
    write_tar(tmp_path / "a.tar", files)
    index_tars(tmp_path, IndexSettings(label="id"))
    text = format_summary(summarise(open_split(tmp_path)))
    assert "classes      not named, labels from .id\n" in text
    assert "headers      2 read, evenly spaced; 1 unreadable" in text and "formats      JPEG 1" in text


def test_a_foreign_bad_jsonl_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", encoded((1, 2, 3)))])
    index_tars(tmp_path)
    (tmp_path / "bad.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match=r"bad\.jsonl' has a line without"):
        summarise(open_split(tmp_path))


def test_the_sheet_shows_every_image_in_order(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    files = [(f"{n}.png", encoded(colour, form="PNG")) for n, colour in enumerate(colours)]
    files.insert(2, ("broken\x1b[2J.png", files[0][1][:60]))
    write_tar(tmp_path / "a.tar", files)
    index_tars(tmp_path, IndexSettings(name="set"))
    assert write_contact_sheet(open_split(tmp_path), tmp_path / "sheet.png") == 4
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    left, step = 28 + 88, 176 + 12
    middles = [tuple(pixels[TOP + THUMB_HEIGHT // 2, left + step * n].tolist()) for n in (0, 1, 3)]
    assert middles == colours
    grey = tuple(int(GREY[n : n + 2], 16) for n in (1, 3, 5))
    tile = pixels[TOP : TOP + THUMB_HEIGHT, 28 + 2 * step : 28 + 2 * step + 176]
    assert tuple(tile[2, 2]) == grey and 0.02 < (tile != grey).any(-1).mean() < 0.5, "grey, with words on it"
    below = pixels[TOP + THUMB_HEIGHT + 3 :, :]
    assert all((below[:, 28 + step * n : 28 + step * n + 100] < 128).any() for n in range(4)), "text beneath"


def test_the_sheet_of_a_large_split_is_evenly_spaced(tmp_path: Path) -> None:
    files = [(f"{n}.png", encoded((n, n, n), (8, 8), "PNG")) for n in range(200)]
    write_tar(tmp_path / "a.tar", files)
    index_tars(tmp_path)
    assert write_contact_sheet(open_split(tmp_path), tmp_path / "sheet.png") == 48
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > ROWS * THUMB_HEIGHT
        assert sheet.getpixel((28 + 7 * 188 + 88, TOP + 5 * 180 + 66)) == (199, 199, 199)


def test_the_sheet_of_a_split_of_ours_and_of_raw_pixels(tiny_split: Split, tmp_path: Path) -> None:
    assert write_contact_sheet(tiny_split, tmp_path / "sheet.png") == 33
    ppm = b"P6\n4 5\n255\n" + bytes(60)
    folder = tmp_path / "raw"
    folder.mkdir()
    write_tar(folder / "a.tar", [("a.ppm", ppm)])
    index_tars(folder)
    manifest = (folder / "manifest.json").read_text()
    raw = '"kind": "raw", "short_side": 4, "resampling": "bicubic"'
    (folder / "manifest.json").write_text(manifest.replace('"kind": "original"', raw))
    assert write_contact_sheet(open_split(folder), tmp_path / "raw.png") == 1
    with Image.open(tmp_path / "raw.png") as sheet:
        assert sheet.getpixel((28 + 88, TOP + 66)) == (0, 0, 0)


def test_the_sheet_shows_what_training_gets(tmp_path: Path) -> None:
    """Greys of 16 bits by their high bits, which Pillow's RGB shows white; colours beneath alpha; CMYK.

    Planted, and seen to fail: `convert("RGB")` in place of the loader's decoder.
    """
    greys = (0, 1000, 32_768, 60_000)
    files = [
        (f"{n}.png", png(8, 8, 16, 0, 8 * (b"\0" + 8 * value.to_bytes(2, "big"))))
        for n, value in enumerate(greys)
    ]
    for name, image in {
        "a": Image.new("RGBA", (8, 8), (9, 80, 200, 0)),
        "b": Image.new("LA", (8, 8), (70, 3)),
    }.items():
        file = io.BytesIO()
        image.save(file, "PNG")
        files.append((f"{name}.png", file.getvalue()))
    write_tar(tmp_path / "a.tar", files)
    index_tars(tmp_path)
    split = open_split(tmp_path)
    assert write_contact_sheet(split, tmp_path / "sheet.png") == 6
    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = [sheet.getpixel((28 + 88 + 188 * n, TOP + 66)) for n in range(6)]
    # 1000 / 257 is 3.9
    assert shown == [(0, 0, 0), (4, 4, 4), (128, 128, 128), (233, 233, 233), (9, 80, 200), (70, 70, 70)]
    crop = CentreCrop(size=8)
    (trained,) = (crops.images_BHWC for crops in split_crops(split, np.arange(6), crop, batch=6, threads=1))
    assert [tuple(image[4, 4].tolist()) for image in trained] == shown


def test_a_sheet_that_cannot_be_written(tiny_split: Split, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*sheet\.png"):
        write_contact_sheet(tiny_split, tmp_path / "none" / "sheet.png")


class Meeting(CountedPlace):
    """A store whose first reads, of images and of names, are answered when four are on their way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.barrier = threading.Barrier(4)
        self.places = {True: iter(range(4)), False: iter(range(4))}

    def read_into(self, name: str, buffer: memoryview, *args: Any, **options: Any) -> int:
        if next(self.places[len(buffer) == 100], None) is not None:
            self.barrier.wait(20)
        return super().read_into(name, buffer, *args, **options)


@pytest.mark.parametrize("look", [summarise, lambda split: write_contact_sheet(split, Path("sheet.png"))])
@pytest.mark.usefixtures("here")
def test_a_store_is_asked_for_many_at_a_time(look: Callable[[Split], object], tiny_split: Split) -> None:
    """Planted, and seen to fail: an image after the other."""
    look(replace(tiny_split, tars=Meeting(tiny_split.folder)))
