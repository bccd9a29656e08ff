"""Keys: safe and unique whatever files are called; a folder that cannot be read is said."""

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipeline.making.test_pack import members, save_image

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.photographs import assign_keys, find_photographs
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split

ODD_NAMES = [
    "plain.jpg",
    "with space.jpg",
    "dots.v1.jpg",
    "dots.v2.jpg",
    "line\nbreak.jpg",
    "Käfer 图片.jpg",
    "\x1b[31mred.jpg",
    "UPPER.JPEG",
    "plain.png",
    "long" * 40 + ".jpg",
    os.fsdecode(b"not-utf8-\xff.jpg"),
]


def test_odd_file_names_become_safe_unique_keys(tmp_path: Path) -> None:
    for number, name in enumerate(ODD_NAMES):
        save_image(tmp_path / "src" / "a" / name, seed=number)
    save_image(tmp_path / "src" / "a_b.jpg" / "c.jpg", seed=50)
    save_image(tmp_path / "src" / "a" / "b" / "c.jpg", seed=51)
    report = make_shards(tmp_path / "src", tmp_path / "out")
    split = open_split(tmp_path / "out")
    assert report.manifest.samples == len(split.index) == len(ODD_NAMES) + 2
    names = list(members(tmp_path / "out"))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}\.(cls|jpg|png)", name) for name in names)
    assert "a_UPPER.jpg" in names and "a_plain.jpg" not in names
    packed = {content for name, content in members(tmp_path / "out").items() if not name.endswith(".cls")}
    assert packed == {path.read_bytes() for path in (tmp_path / "src").rglob("*.*") if path.is_file()}


@given(st.lists(st.text("a/.é _-\n", min_size=1, max_size=200), unique=True, max_size=40))
def test_keys_are_unique_and_safe(paths: list[str]) -> None:
    paths = [path.strip("/") + "x.jpg" for path in paths]
    paths = list(dict.fromkeys(paths))
    keys = assign_keys(paths)
    assert len(set(keys)) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) for key in keys)


def test_a_plain_path_keeps_its_name() -> None:
    assert assign_keys(["n01440764/n01440764_10026.JPEG"]) == ["n01440764_n01440764_10026"]


def test_paths_that_share_a_key_all_end_in_a_hash() -> None:
    paths = ["a.jpg", "a.png", "b/c.jpg", "b_c.jpg", "d.jpg"]
    digits = [hashlib.sha256(path.encode()).hexdigest()[:8] for path in paths]
    assert assign_keys(paths) == [
        f"a-{digits[0]}",
        f"a-{digits[1]}",
        f"b_c-{digits[2]}",
        f"b_c-{digits[3]}",
        "d",
    ]


def test_keys_stay_unique_where_eight_digits_collide() -> None:
    digits = hashlib.sha256("é.jpg".encode()).hexdigest()[:8]
    # the second path is, unchanged, the key that the first one gets
    keys = assign_keys(["é.jpg", f"--{digits}.jpg"])
    assert len(set(keys)) == 2 and all(len(key) <= 80 for key in keys)


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "src" / "a" / "x.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read the folder '.*/src/a': Permission denied"):
        find_photographs(tmp_path / "src")
