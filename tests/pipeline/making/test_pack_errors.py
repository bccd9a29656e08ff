"""What packing cannot do is one clear line, and leaves nothing behind."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.making.test_pack import save_image

from turbomim.pipeline.making import plan
from turbomim.pipeline.making.pack import PackReport, make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError


def no_source(tmp: Path, photos: Path) -> PackReport:
    return make_shards(tmp / "nowhere", tmp / "out")


def source_is_a_file(tmp: Path, photos: Path) -> PackReport:
    return make_shards(save_image(tmp / "x" / "a.jpg"), tmp / "out")


def no_images(tmp: Path, photos: Path) -> PackReport:
    for name in ("a.heic", "b.heic", "c.txt", "d/README", "e.\n"):
        (tmp / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp / "src" / name).touch()
    return make_shards(tmp / "src", tmp / "out")


def empty_source(tmp: Path, photos: Path) -> PackReport:
    (tmp / "src").mkdir()
    return make_shards(tmp / "src", tmp / "out")


def images_in_two_places(tmp: Path, photos: Path) -> PackReport:
    save_image(tmp / "src" / "a.jpg")
    save_image(tmp / "src" / "class" / "b.jpg")
    return make_shards(tmp / "src", tmp / "out")


def target_not_empty(tmp: Path, photos: Path) -> PackReport:
    save_image(tmp / "full" / "a.jpg")
    return make_shards(photos, tmp / "full")


def target_is_a_file(tmp: Path, photos: Path) -> PackReport:
    return make_shards(photos, save_image(tmp / "full" / "a.jpg"))


def target_in_source(tmp: Path, photos: Path) -> PackReport:
    return make_shards(photos, photos / "out")


def all_bad(tmp: Path, photos: Path) -> PackReport:
    for number in range(3):
        save_image(tmp / "src" / f"{number}.jpg", side=8)
    return make_shards(tmp / "src", tmp / "out", ShardSettings(shard_size=1))


def both_sizes(tmp: Path, photos: Path) -> PackReport:
    return make_shards(photos, tmp / "out", ShardSettings(shard_size=3, shard_count=3))


def root_of_a_folder(tmp: Path, photos: Path) -> PackReport:
    return make_shards(photos, tmp / "out", ShardSettings(root=tmp))


def no_workers(tmp: Path, photos: Path) -> PackReport:
    return make_shards(photos, tmp / "out", workers=0)


def with_settings(**settings: Any) -> Callable[[Path, Path], PackReport]:
    return lambda tmp, photos: make_shards(photos, tmp / "out", ShardSettings(**settings))


USER_ERRORS: dict[str, tuple[Callable[[Path, Path], PackReport], str]] = {
    "no source": (no_source, "nowhere' does not exist: give a folder of images"),
    "source is a file": (
        source_is_a_file,
        "a.jpg' is a file: give a folder of images.*or a .csv, .tsv or .txt list",
    ),
    "no images": (
        no_images,
        r"no images below .*: looked for \.jpg \.jpeg \.png \.webp, "
        r"found 2 \.heic, 1 without extension, 1 \.\\n, 1 \.txt",
    ),
    "empty source": (empty_source, "found no files"),
    "images in two places": (
        images_in_two_places,
        r"outside \(1, as 'a.jpg'\) and inside .*\(1, as 'class/b.jpg'\)",
    ),
    "target not empty": (target_not_empty, "full' exists and is not empty"),
    "target is a file": (target_is_a_file, "a.jpg': Not a directory; choose another folder"),
    "target in source": (target_in_source, "out' lies in the source"),
    "all bad": (all_bad, "all 3 images in .* are unusable; the first is '0.jpg': 8 x 8 pixels"),
    "bad name": (with_settings(name="my set"), "--name is 'my set'"),
    "path as name": (with_settings(name="../x"), "--name is '../x'"),
    "bad split": (with_settings(split="a.b"), r"--split is 'a\.b'"),
    "no samples a shard": (with_settings(shard_size=0), "--shard-size is 0"),
    "no workers": (no_workers, "--workers is 0"),
    "no shard": (with_settings(shard_count=0), "--shard-count is 0"),
    "more shards than images": (with_settings(shard_count=34), "--shard-count is 34, over the 33 images"),
    "both sizes": (both_sizes, "--shard-size and --shard-count exclude each other"),
    "root of a folder": (root_of_a_folder, "--root belongs to a .csv, .tsv or .txt list"),
    "another check": (with_settings(check="no"), "--check is 'no': give header or full"),
    "another policy": (with_settings(on_bad="skip"), "--on-bad is 'skip': give quarantine or fail"),
    "quality": (with_settings(store="resized", quality=101), "--quality is 101"),
    "another store": (with_settings(store="box"), "--store is 'box': give original or resized or raw"),
    "more than a store has": (
        with_settings(store="raw", quality=90),
        "a store of kind 'raw' has short_side, resampling, not short_side, resampling, quality$",
    ),
    "a store without settings": (
        with_settings(short_side=32),
        "a store of kind 'original' has no settings, not short_side$",
    ),
    "short side": (with_settings(store="raw", short_side=0), "--short-side is 0"),
    "resampling": (with_settings(store="raw", resampling="box"), "--resampling is 'box'"),
    "negative seed": (with_settings(seed=-1), "--seed = -1: must be 0 to"),
}


@pytest.mark.parametrize(("cause", "words"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_user_errors(
    cause: Callable[[Path, Path], PackReport], words: str, tmp_path: Path, photo_folder: Path
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        cause(tmp_path, photo_folder)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_more_shards_than_their_names_can_number(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MAX_SHARDS", 6)
    with pytest.raises(UserError, match=r"^7 shards, at most 6 are possible; raise --shard-size$"):
        make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=5))


def test_too_little_space_is_said_before_anything_is_written(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"not enough space for .*: \d{3},\d{3} bytes needed, 1,000 free"):
        make_shards(photo_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up(photo_folder: Path, tmp_path: Path, workers: int) -> None:
    # a limit on the file size stops real writes, in workers too; an empty target folder must stay empty
    program = f"""
import resource, sys
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    try:
        settings = ShardSettings(shard_size=9)
        make_shards({str(photo_folder)!r}, {str(tmp_path / "out")!r}, settings, workers={workers})
    except UserError as error:
        sys.exit(str(error))
"""
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "out").mkdir()
    run = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    words = r"cannot write '.*-00000\d.tar': File too large: \d+,\d{3} bytes needed, [\d,]+ free on .*\n"
    assert re.fullmatch(words, run.stderr)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_space_when_syncing(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device: [\d,]+ bytes needed"):
        make_shards(photo_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
