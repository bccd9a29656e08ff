"""Names with several dots: which dot ends a key is note by the names, said, recorded, and the same for all.

Planted: `split_key` always at the first dot, and always at the last, which several tests here fail; keys that
are not recorded, which `test_everything_that_reads_keys_cuts_them_alike` fails; images beside the one that is
read not counted, which `test_images_that_a_choice_leaves_unread_are_counted` fails.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.making.test_index_tars import JPG, Files, read_all
from tests.pipeline.tars.tar_bytes import write_tar

from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.image_source import source_keys
from turbomim.pipeline.making.index_tars import IndexSettings, index_tars
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.keys import IMAGE_EXTENSIONS, split_key
from turbomim.pipeline.tars.split import open_split
from turbomim.pipeline.tars.stored_image import read_named_image
from turbomim.train.commands.shard.index import shard_index_command


def pairs(*stems: str) -> Files:
    """An image and its label for each stem, numbered in order."""
    return [
        entry
        for number, stem in enumerate(stems)
        for entry in ((f"{stem}.jpg", JPG + b"%d" % number), (f"{stem}.cls", b"%d" % number))
    ]


# files, the rule, the keys, and what is said
CLEAR: dict[str, tuple[Files, str, list[str], str]] = {
    "no dots": (pairs("x.y/a", "x.y/b"), "first-dot", ["x.y/a", "x.y/b"], ""),
    "frames": (
        pairs("img_v1.000", "img_v1.001", "img_v1.002"),
        "last-dot",
        ["img_v1.000", "img_v1.001", "img_v1.002"],
        "end at the last dot of a name, as 'img_v1.000.jpg': at the first, 'img_v1' would be a sample with 3",
    ),
    "frames of several cameras": (
        pairs("a.0", "a.1", "b.0", "b.1"),
        "last-dot",
        ["a.0", "a.1", "b.0", "b.1"],
        "last dot of a name, as 'a.0.jpg'",
    ),
    "two in many": (
        pairs("a", "b", "c.d", "e"),
        "last-dot",
        ["a", "b", "c.d", "e"],
        "'c.d.jpg': at the first, images would be of 2 kinds; --keys first-dot if it is so",
    ),
    "a word in all": (
        pairs("a.small", "b.small"),
        "last-dot",
        ["a.small", "b.small"],
        "at the first, no sample would have a label",
    ),
    "a field of WebDataset": (
        [("a.input.jpg", JPG + b"0"), ("a.cls", b"0"), ("b.input.jpg", JPG + b"1"), ("b.cls", b"1")],
        "first-dot",
        ["a", "b"],
        "keys end at the first dot of a name, as 'a.input.jpg': --keys last-dot if they do not",
    ),
}


@pytest.mark.parametrize(("files", "keys", "names", "said"), CLEAR.values(), ids=CLEAR)
def test_names_tell_the_rule(files: Files, keys: str, names: list[str], said: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", files)
    report = index_tars(tmp_path)
    assert report.manifest.made["indexed"]["keys"] == keys
    assert (said in report.note) if said else report.note == ""
    assert source_keys(open_split(tmp_path)) == names
    assert [label for label, _ in read_all(tmp_path)] == list(range(len(names)))
    assert (report.left_out, report.others, report.unread.total()) == (0, 0, 0)


def test_everything_that_reads_keys_cuts_them_alike(tmp_path: Path) -> None:
    files = pairs("x/img.v1.000", "x/img.v1.001")
    write_tar(tmp_path / "a.tar", files)
    index_tars(tmp_path)
    assert verify_split(tmp_path).problems == ()
    assert read_named_image(tmp_path, "a.tar:x/img.v1.001") == files[2][1]
    with pytest.raises(UserError, match="no sample 'x/img' in the index"):
        read_named_image(tmp_path, "a.tar:x/img")
    # a manifest of an older version: the first dot
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["made"]["indexed"]["keys"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert source_keys(open_split(tmp_path)) == ["x/img", "x/img"]
    assert read_named_image(tmp_path, "a.tar:x/img") == files[0][1]


# files meant in one of two ways, what is said, and the words that settle it, with images read and not read
UNCLEAR: dict[str, tuple[Files, str, dict[str, tuple[int, int]]]] = {
    "two images of a sample": (
        [("a.input.jpg", JPG), ("a.target.jpg", JPG), ("b.input.jpg", JPG), ("b.target.jpg", JPG)],
        "the sample 'a' has two images, input.jpg and target.jpg: choose with --image EXT, or, if they are "
        "two samples, --keys last-dot",
        {"--image input.jpg": (2, 2), "--image target.jpg": (2, 2), "--keys last-dot": (4, 0)},
    ),
    "an image and its mask": (
        [("a.jpg", JPG), ("a.seg.png", JPG)],
        "--image EXT, or, if they are two samples, --keys last-dot",
        {"--image jpg": (1, 1), "--image seg.png": (1, 1), "--keys last-dot": (2, 0)},
    ),
    "a mask without its image": (
        [("a.jpg", JPG), ("b.seg.png", JPG)],
        "--image EXT, or take all with --image jpg seg.png, or, if names may hold dots, --keys last-dot",
        {
            "--image jpg --allow-missing": (1, 0),
            "--image jpg seg.png": (2, 0),
            "--keys last-dot": (2, 0),
        },
    ),
    "no image": (
        [*pairs("a"), ("b.txt", b"")],
        "choose with --image EXT, or leave them out with --allow-missing",
        {"--allow-missing": (1, 0)},
    ),
}


@pytest.mark.parametrize(("files", "said", "remedies"), UNCLEAR.values(), ids=UNCLEAR)
def test_remedies_work(
    files: Files,
    said: str,
    remedies: dict[str, tuple[int, int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UserError) as raised:
        shard_index_command([str(tmp_path)])
    assert said in str(raised.value)
    for words, (read, unread) in remedies.items():
        shard_index_command([str(tmp_path), "--force", *words.split()])
        out = capsys.readouterr().out
        assert out.startswith(f"{read} sample") and len(read_all(tmp_path)) == read
        assert (f"in the samples, not read: {unread} image" in out) == bool(unread)
        assert verify_split(tmp_path).problems == ()


def test_images_that_a_choice_leaves_unread_are_counted(tmp_path: Path, capsys: Any) -> None:
    write_tar(tmp_path / "a.tar", pairs(*(f"img.{number:03d}" for number in range(12))))
    shard_index_command([str(tmp_path), "--image", "000.jpg"])
    out = capsys.readouterr().out
    assert out.startswith("1 sample in 1 shard") and "no labels" in out
    assert "in the samples, not read: 23 images or labels: 1 000.cls, 1 001.jpg, " in out
    assert " and 15 others\n" in out
    assert "keys end at the first dot of a name, as 'img.000.jpg': --keys last-dot if they do not" in out


def test_a_rule_that_is_given_is_taken(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", pairs("img.000", "img.001"))
    with pytest.raises(
        UserError, match=r"two images, 000\.jpg and 001\.jpg: choose with --image EXT, or, if"
    ):
        index_tars(tmp_path, IndexSettings(keys="first-dot"))
    assert index_tars(tmp_path, IndexSettings(keys="last-dot")).note == ""
    write_tar(tmp_path / "a.tar", [("a.jpg", JPG), ("a.png", JPG)])
    with pytest.raises(UserError, match=r"two images, jpg and png: choose with --image EXT$"):
        index_tars(tmp_path, IndexSettings(keys="last-dot", force=True))


def test_the_rule_is_one_for_all_tars(tmp_path: Path) -> None:
    for number, stems in enumerate((("a", "b"), ("c.0", "c.1"), ("d.2",))):
        write_tar(tmp_path / f"{number}.tar", pairs(*stems))
    index_tars(tmp_path, IndexSettings(workers=2))
    assert source_keys(open_split(tmp_path)) == ["a", "b", "c.0", "c.1", "d.2"]


STEMS = st.lists(st.text("ab.01", min_size=1, max_size=6), min_size=1, max_size=5, unique=True)
ENDINGS = st.lists(st.sampled_from(["jpg", "cls", "seg.png", "txt"]), min_size=1, max_size=3, unique=True)


@given(stems=STEMS, endings=ENDINGS, allow=st.booleans())
@settings(max_examples=150)
def test_no_image_is_left_out_without_a_word(stems: list[str], endings: list[str], allow: bool) -> None:
    """Each image is read, counted as not read, or the reason of an error; so is each file."""
    files = [(f"k{stem}.{ending}", b"1") for stem in stems for ending in endings]
    with tempfile.TemporaryDirectory() as folder:
        write_tar(Path(folder, "a.tar"), files)
        try:
            report = index_tars(folder, IndexSettings(allow_missing=allow))
        except UserError as error:
            assert str(error).isprintable()
            return
        images = sum(name.rpartition(".")[2] in IMAGE_EXTENSIONS for name, _ in files)
        unread = sum(n for ext, n in report.unread.items() if ext.rpartition(".")[2] in IMAGE_EXTENSIONS)
        assert report.manifest.samples + unread == images
        labels = sum(name.endswith(".cls") for name, _ in files)
        if labels and not report.left_out:
            assert report.manifest.made["indexed"]["label"] or report.unread


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("a.b.jpg", ("a", "b.jpg"), ("a.b", "jpg")),
        ("x.y/a.b.jpg", ("x.y/a", "b.jpg"), ("x.y/a.b", "jpg")),
        ("x.y/a", ("x.y/a", ""), ("x.y/a", "")),
        ("a.", ("a", ""), ("a", "")),
    ],
)
def test_split_key(name: str, first: tuple[str, str], last: tuple[str, str]) -> None:
    assert (split_key(name, "first-dot"), split_key(name, "last-dot")) == (first, last)
