"""Which images are packed and as what; every one left out has its reason."""

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pipeline.making.test_pack import bad_entries, contents, members, save_image

from turbomim.benchmarks.faults.image_kinds import png
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.checking.inspect import format_summary, summarise
from turbomim.pipeline.making.index_tars import index_tars
from turbomim.pipeline.making.pack import describe_make, make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split


def test_the_extension_is_that_of_the_content(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "really_png.jpg", form="PNG")
    save_image(tmp_path / "src" / "really_jpeg.webp", form="JPEG")
    first, second = (Image.fromarray(texture(seed, 40, 40)) for seed in (1, 2))
    first.save(tmp_path / "src" / "two_in_one.jpg", format="MPO", save_all=True, append_images=[second])
    make_shards(tmp_path / "src", tmp_path / "out")
    assert {name for name in members(tmp_path / "out") if not name.endswith(".cls")} == {
        "really_png.png",
        "really_jpeg.jpg",
        "two_in_one.jpg",
    }


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    save_image(tmp_path / "My holiday" / "a.jpg")
    save_image(tmp_path / "My holiday" / "b.jpg", seed=1)
    (tmp_path / "My holiday" / "empty").mkdir()
    report = make_shards(tmp_path / "My holiday", tmp_path / "out")
    assert report.manifest.classes == () and not report.manifest.labelled
    assert report.manifest.name == "My-holiday"
    assert members(tmp_path / "out")["a.cls"] == b"-1"
    split = open_split(tmp_path / "out")
    files = ShardFiles(split)
    assert read_samples(split, files, np.arange(2)).labels_B.tolist() == [-1, -1]
    files.close()
    assert "classes      no labels" in format_summary(summarise(open_split(tmp_path / "out")))


def test_nested_and_empty_class_folders(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "c" / "deep" / "er" / "x.jpg")
    (tmp_path / "src" / "b").mkdir()
    (tmp_path / "src" / "c" / "notes.txt").touch()
    save_image(tmp_path / "src" / ".thumbnails" / "x.jpg")
    (tmp_path / "src" / "c" / "loop").symlink_to(tmp_path / "src" / "c")
    report = make_shards(tmp_path / "src", tmp_path / "out")
    assert (report.manifest.classes, report.empty_classes) == (("b", "c"), ["b"])
    assert members(tmp_path / "out")["c_deep_er_x.cls"] == b"1"
    assert report.other_files == {".txt": 1}
    assert report.manifest.made["class_samples"] == [0, 1]


BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file"),
    "page.jpg": (b"<!doctype html><p>not found", "not a JPEG, PNG or WebP file"),
    "zeros.png": (bytes(1000), "not a JPEG, PNG or WebP file"),
    "cut.jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG segment at byte 4 says that it has 16 bytes"),
    "stray.jpg": (b"\xff\xd8\xff\xe0\0\2" + bytes(7), "byte 6 of its JPEG header, 0x00, is no marker"),
    "cut.webp": (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "cut: its WebP says that it has 24 bytes"),
    "bomb.png": (png(20000, 20000, 8, 2, b""), "20000 x 20000 pixels, over the limit of 178,956,970"),
    "thin.png": (png(5000, 31, 8, 2, b""), "5000 x 31 pixels, short side under 32"),
}


def test_bad_images_are_listed_with_a_reason_and_leave_no_holes(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for number in range(6):
        save_image(source / f"good_{number}.jpg", seed=number, side=32)
    for name, (content, _) in BAD_IMAGES.items():
        (source / name).write_bytes(content)
    (source / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (source / "itself.jpg").symlink_to(source / "itself.jpg")
    os.mkfifo(source / "pipe.jpg")
    reasons = {name: reason for name, (_, reason) in BAD_IMAGES.items()}
    reasons |= {"gone.jpg": "unreadable: No such file or directory", "pipe.jpg": "not a regular file"}
    reasons["itself.jpg"] = "unreadable: Too many levels of symbolic links"
    for workers in (1, 2):
        out = tmp_path / f"{workers}"
        report = make_shards(source, out, ShardSettings(name="mixed", shard_size=1), workers=workers)
        assert bad_entries(out) == reasons == {image.path: image.reason for image in report.bad}
        numbers = [f"mixed-train-{number:06d}" for number in range(6)]
        assert sorted(path.stem for path in out.glob("*.tar")) == numbers
        assert sorted(path.stem for path in out.glob("*.idx")) == numbers
        assert len(open_split(out).index) == 6
        assert report.manifest.made["images_bad"] == 11
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    summary = summarise(open_split(tmp_path / "1"))
    assert len(summary.bad) == 11
    assert "'bomb.png': 20000 x 20000 pixels, over the limit" in format_summary(summary)


def test_min_side(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "small.jpg", side=63)
    save_image(tmp_path / "src" / "fit.jpg", side=64)
    make_shards(tmp_path / "src", tmp_path / "out", ShardSettings(min_side=64))
    assert bad_entries(tmp_path / "out") == {"small.jpg": "63 x 63 pixels, short side under 64"}


def test_on_bad_fail_names_the_image(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "a.jpg")
    (tmp_path / "src" / "b\x1b[31m\n.jpg").write_bytes(b"GIF89a")
    with pytest.raises(
        UserError, match=r"^'b\\x1b\[31m\\n.jpg': not a JPEG, PNG or WebP file; mend .*"
    ) as raised:
        make_shards(tmp_path / "src", tmp_path / "out", ShardSettings(on_bad="fail"))
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_on_bad_fail_is_not_content_with_a_finished_split_that_left_images_out(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "a.jpg")
    (tmp_path / "src" / "b.jpg").write_bytes(b"GIF89a")
    make_shards(tmp_path / "src", tmp_path / "out")
    with pytest.raises(UserError, match=r"^'b.jpg': not a JPEG, PNG or WebP file; mend"):
        make_shards(tmp_path / "src", tmp_path / "out", ShardSettings(on_bad="fail"))


def test_what_the_loader_refuses_is_refused(tmp_path: Path) -> None:
    """Pillow reads a PNG whose first chunk is not IHDR."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    png, text = file.getvalue(), b"tEXta\0b"
    chunk = struct.pack(">I", 3) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "b.png").write_bytes(png[:8] + chunk + png[8:])
    save_image(tmp_path / "src" / "a.jpg")
    report = make_shards(tmp_path / "src", tmp_path / "out")
    assert [image.path for image in report.bad] == ["b.png"]


def test_sixteen_bits_of_which_little_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """12-bit pictures in files of 16 bits: taken, counted and said."""
    random = np.random.default_rng(0)
    for name, most in (("dark", 4096), ("full", 65_536)):
        rows = random.integers(0, most, (40, 40)).astype(">u2")
        content = png(40, 40, 16, 0, b"".join(b"\0" + row.tobytes() for row in rows))
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / f"{name}.png").write_bytes(content)
    for name, settings in {"a": ShardSettings(), "b": ShardSettings(store="raw", short_side=32)}.items():
        report = make_shards(tmp_path / "src", tmp_path / name, settings)
        assert report.manifest.samples == 2
        assert report.manifest.made["few_levels"] == {"images": 1, "first": ["dark.png", "17 of 256 levels"]}
        said = describe_make(report, 1.0)
        assert (
            "1 image of 16 bits with hardly any contrast in 8 (first: 'dark.png', 17 of 256 levels)" in said
        )
    again = make_shards(tmp_path / "src", tmp_path / "a")
    assert again.found_whole and "17 of 256 levels" in describe_make(again, 1.0)


def test_alpha_four_inks_and_frames_are_counted(tmp_path: Path) -> None:
    """What training does not see of a file, told when shards are made and whenever they are looked at.

    Planted, and seen to fail: the images of one shard alone, kinds lost by a store that encodes anew.
    """
    save_image(tmp_path / "src" / "plain.jpg")
    rgba = Image.fromarray(np.dstack([texture(0, 40, 40), texture(1, 40, 40)[..., :1]]))
    for name in ("b.png", "a.png", "c.webp"):
        rgba.save(tmp_path / "src" / name)
    rgba.convert("RGB").convert("CMYK").save(tmp_path / "src" / "inks.jpg")
    rgba.save(tmp_path / "src" / "moves.png", save_all=True, append_images=[rgba.rotate(180)])
    lines = [
        "4 images with alpha, which is dropped: what is transparent shows the colour stored beneath it",
        "1 image of four inks (CMYK), turned into RGB without a colour profile",
        "1 image with more than one frame, of which the first is taken",
    ]
    firsts = ["a.png", "inks.jpg", "moves.png"]
    for name, settings in {
        "original": ShardSettings(shard_size=2),
        "raw": ShardSettings(store="raw", short_side=32),
    }.items():
        report = make_shards(tmp_path / "src", tmp_path / name, settings)
        counted = report.manifest.made["altered"]
        assert [(what, some["images"], some["first"]) for what, some in counted.items()] == [
            (what, count, first)
            for what, count, first in zip(("alpha", "cmyk", "frames"), (4, 1, 1), firsts, strict=True)
        ]
        said, seen = describe_make(report, 1.0), format_summary(summarise(open_split(tmp_path / name)))
        for line, first in zip(lines, firsts, strict=True):
            assert f"{line} (first: {first!r})" in said and f"in training  {line} (first: {first!r})" in seen
    # tars that were only indexed, or made before: told of the headers that are read
    (tmp_path / "tars").mkdir()
    for tar in (tmp_path / "original").glob("*.tar"):
        shutil.copy(tar, tmp_path / "tars")
    index_tars(tmp_path / "tars")
    seen = format_summary(summarise(open_split(tmp_path / "tars")))
    assert [f"in training  {line} (of 6 read)" in seen for line in lines] == [True] * 3
    plain = tmp_path / "plain"
    save_image(plain / "a.jpg")
    report = make_shards(plain, tmp_path / "out")
    assert "altered" not in report.manifest.made
    assert "in training" not in format_summary(summarise(open_split(tmp_path / "out")))


def test_a_16_bit_image_that_does_not_decode_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "src" / "good.jpg")
    (tmp_path / "src" / "bad.png").write_bytes(png(40, 40, 16, 0, bytes(100)))
    report = make_shards(tmp_path / "src", tmp_path / "out")
    assert [(image.path, image.reason[:17]) for image in report.bad] == [("bad.png", "does not decode: ")]
