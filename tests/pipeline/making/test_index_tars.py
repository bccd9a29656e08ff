"""Foreign tars: indexed, opened and read back byte for byte."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from tests.pipeline.tars.tar_bytes import END, member, pax, write_tar

from turbomim.pipeline.making.index_tars import IndexSettings, index_tars
from turbomim.pipeline.making.tar_folder import natural
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.tars.keys import split_name
from turbomim.pipeline.tars.split import open_split

LISTINGS = {
    "manifest.json",
    "SHA256SUMS",
    "_info.json",
    "bad.jsonl",
    "classes.json",
    "sizes.json",
    "wids.json",
}


def picture(number: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40 + number, 50), (number, 100, 200)).save(file, form)
    return file.getvalue()


def read_all(folder: Path) -> list[tuple[int, bytes]]:
    """Label and image of every sample, as the loader reads them."""
    split = open_split(folder)
    files = ShardFiles(split)
    read = read_samples(split, files, np.arange(len(split.index)))
    images = [bytes(image) for image in read.images]
    files.close()
    return list(zip(read.labels_B.tolist(), images, strict=True))


def sums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


Files = list[tuple[str, bytes]]
JPG = picture(1)
LAYOUTS: dict[str, tuple[Files, list[tuple[int, bytes]], dict[str, Any]]] = {
    "label first": (
        [("a.cls", b"3"), ("a.jpg", JPG), ("b.cls", b"12"), ("b.jpg", picture(2))],
        [(3, JPG), (12, picture(2))],
        {"image": ["jpg"], "label": "cls", "keys": "first-dot"},
    ),
    "image first, more members": (
        [
            ("a.jpg", JPG),
            ("a.json", b"{}" * 3000),
            ("a.cls", b"3\n"),
            ("b.jpg", JPG),
            ("b.json", b""),
            ("b.cls", b"4"),
        ],
        [(3, JPG), (4, JPG)],
        {"image": ["jpg"], "label": "cls", "keys": "first-dot"},
    ),
    "no labels, two formats": (
        [("x/a.PNG", picture(3, "PNG")), ("x/a.txt", b"words"), ("y.z/a.JPEG", JPG)],
        [(-1, picture(3, "PNG")), (-1, JPG)],
        {"image": ["jpeg", "png"], "label": None, "keys": "first-dot"},
    ),
    "a dotted field": (
        [("a.input.jpg", JPG), ("a.cls", b"0"), ("b.input.jpg", picture(2)), ("b.cls", b"1")],
        [(0, JPG), (1, picture(2))],
        {"image": ["input.jpg"], "label": "cls", "keys": "first-dot"},
    ),
    "hidden and nameless files": (
        [
            ("._a.jpg", b"mac"),
            ("a.jpg", JPG),
            ("._a.cls", b"mac"),
            ("a.cls", b"7"),
            ("README", b""),
            ("__x__/b.jpg", b""),
        ],
        [(7, JPG)],
        {"image": ["jpg"], "label": "cls", "keys": "first-dot"},
    ),
    "hostile names": (
        [
            ("../../up.jpg", JPG),
            ("../../up.cls", b"1"),
            ("/etc/x.jpg", JPG),
            ("/etc/x.cls", b"2"),
            ("a\n\x1b[31m b.jpg", JPG),
            ("a\n\x1b[31m b.cls", b"3"),
            ("c.j\x1b .jpg", JPG),
            ("c.cls", b"4"),
        ],
        [(1, JPG), (2, JPG), (3, JPG), (4, JPG)],
        {"image": ["j__.jpg", "jpg"], "label": "cls", "keys": "first-dot"},
    ),
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize(("files", "samples", "record"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_are_read_back(
    files: Files, samples: list[tuple[int, bytes]], record: dict[str, Any], form: int, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_tar(folder / "a.tar", files, form)
    image = tuple(record["image"]) if "j__.jpg" in record["image"] else ()
    manifest = index_tars(folder, IndexSettings(image=image)).manifest
    assert manifest.made["indexed"] == record and manifest.made["store"] == {"kind": "original"}
    assert read_all(folder) == samples
    index = (folder / "a.idx").read_text()
    assert all(32 < ord(letter) < 127 for letter in index.replace("\n", "").replace(" ", ""))
    assert {path.name for path in folder.iterdir()} == LISTINGS | {"a.tar", "a.idx"}
    assert list(tmp_path.iterdir()) == [folder], "nothing is written outside"


def test_what_webdataset_writes_is_read_back(tmp_path: Path) -> None:
    samples = [(n % 3, picture(n)) for n in range(30)]
    with webdataset.ShardWriter(str(tmp_path / "x-val-%d.tar"), maxcount=8, verbose=0) as writer:
        for number, (label, image) in enumerate(samples):
            key = ("Bäume/" + "long" * 40 + "/{}").format(number)
            writer.write({"__key__": key, "jpg": image, "cls": label, "json": {"n": number}})
    report = index_tars(tmp_path, IndexSettings(name="trees", workers=3))
    assert (report.manifest.name, report.manifest.split) == ("trees", "val")
    assert [shard.samples for shard in report.manifest.shards] == [8, 8, 8, 6]
    assert read_all(tmp_path) == samples
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path, capture_output=True)
    assert checked.returncode == 0, checked.stdout


def test_webdataset_sees_the_same_samples(tmp_path: Path) -> None:
    """Grouping is theirs: any order of members, hidden files, upper case, dotted extensions."""
    for number, (files, _, _) in enumerate(list(LAYOUTS.values())[:5]):
        write_tar(tmp_path / f"{number}.tar", files)
    index_tars(tmp_path, IndexSettings(image=("jpg", "jpeg", "png", "input.jpg"), label="none"))
    theirs = [
        (sample["__key__"], sorted(field for field in sample if not field.startswith("__")))
        for sample in webdataset.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False)
    ]
    ours = []
    for path in sorted(tmp_path.glob("*.idx")):
        for line in path.read_text().splitlines()[1:]:
            words = line.split(" ")
            parts = split_name(words[3].encode(), "first-dot")
            assert parts is not None
            ours.append((parts[0], sorted(words[::4])))
    assert ours == theirs


def test_wds2idx_writes_the_same_index(tmp_path: Path) -> None:
    files = [("a.jpg", JPG), ("a.cls", b"3"), ("b.jpg", JPG), ("b.cls", b"4")]
    write_tar(tmp_path / "a.tar", files, tarfile.PAX_FORMAT)
    index_tars(tmp_path)
    tool = [str(Path(sys.executable).with_name("wds2idx")), "a.tar", "theirs"]
    subprocess.run(tool, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "a.idx").read_bytes()


def test_shards_are_in_natural_order_for_any_number_of_workers(tmp_path: Path) -> None:
    for number in (10, 9, 1, 2, 100):
        write_tar(
            tmp_path / f"s{number}.tar",
            [(f"{number}.jpg", picture(number)), (f"{number}.cls", b"%d" % number)],
        )
    index_tars(tmp_path, IndexSettings(workers=1))
    once = sums(tmp_path)
    assert [label for label, _ in read_all(tmp_path)] == [1, 2, 9, 10, 100]
    index_tars(tmp_path, IndexSettings(workers=4, force=True))
    assert sums(tmp_path) == once
    assert sorted(["a2b", "a10b", "a", "2", "a02b"], key=natural) == ["2", "a", "a02b", "a2b", "a10b"]


BOTH = [("a.jpg", JPG), ("a.cls", b"1")]


def test_choices_settle_what_is_unclear(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", JPG), ("a.seg.png", b"?"), ("a.cls", b"cat"), ("a.id", b"5")])
    index_tars(tmp_path, IndexSettings(image=(".JPG",), label="id"))
    assert read_all(tmp_path) == [(5, JPG)]
    index_tars(tmp_path, IndexSettings(image=("jpg",), label="none", force=True))
    assert read_all(tmp_path) == [(-1, JPG)]


def test_samples_without_an_image_are_left_out_if_wanted_and_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("m\n.json", b"{}"), *BOTH, ("b.cls", b"2")])
    report = index_tars(tmp_path, IndexSettings(allow_missing=True))
    assert report.left_out == 2 and read_all(tmp_path) == [(1, JPG)]
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [entry["path"] for entry in bad] == ["a.tar:m\n", "a.tar:b"]
    assert "no image among its members: cls" in bad[1]["reason"]


def test_a_pax_path_wins_over_the_header(tmp_path: Path) -> None:
    content = (
        member(b"x", pax(path=b"real.jpg"), b"x") + member(b"other.txt", JPG) + member(b"real.cls", b"6")
    )
    (tmp_path / "a.tar").write_bytes(content + END)
    index_tars(tmp_path)
    assert read_all(tmp_path) == [(6, JPG)]
