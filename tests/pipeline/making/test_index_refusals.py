"""Foreign tars that are not indexed: unclear, damaged, hostile, indexed before; one line says why."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.making.test_index_tars import BOTH, JPG, LISTINGS, Files, read_all, sums
from tests.pipeline.tars.tar_bytes import END, member, write_tar

from turbomim.pipeline.making.index_tars import IndexSettings, index_tars
from turbomim.pipeline.system.errors import UserError

CHOICES: dict[str, tuple[Files, dict[str, Any], str]] = {
    "two images": (
        [("a.jpg", JPG), ("a.seg.png", JPG)],
        {},
        "sample 'a' has two images, jpg and seg.png.*--image",
    ),
    "two fields": (
        [("a.jpg", JPG), ("b.seg.png", JPG)],
        {},
        "images of some samples are jpg and seg.png.*--image EXT",
    ),
    "no image in one": (
        [*BOTH, ("\x1b.txt", b"")],
        {},
        r"1 samples have no image .*first is '\\x1b' in 'a.tar' with txt",
    ),
    "starved by the extension": (
        [("a.JPEG", JPG), ("b.JPEG", JPG)],
        {"image": ("jpg",)},
        "looked for jpg, found 2 jpeg",
    ),
    "no images": ([("a.txt", b""), ("a.mp4", b"")], {}, "no sample has an image: .*found 1 txt, 1 mp4"),
    "nothing with an extension": ([("a", b"")], {}, "found no files with an extension"),
    "some labels": ([*BOTH, ("b.jpg", JPG)], {}, r"1 of 2 samples .* have a label \(cls\).*--label none"),
    "no such label": (BOTH, {"label": "json"}, r"0 of 1 samples .* have a label \(json\)"),
    "label is text": (
        [("a.jpg", JPG), ("a.cls", b"n01440764")],
        {},
        "at byte .* label of 'a' is b'n01440764'",
    ),
    "label is empty": ([("a.jpg", JPG), ("a.cls", b"")], {}, r"label of 'a' is b'' \(0 bytes\)"),
    "label is endless": ([("a.jpg", JPG), ("a.cls", b"1" * 19)], {}, r"\(19 bytes\), not a decimal number"),
    "one name twice": (
        [("a.jpg", JPG), ("a.JPG", JPG)],
        {},
        r"members of the sample 'a' are named twice \(jpg, jpg\)",
    ),
    "members apart": (
        [("a.jpg", JPG), ("b.jpg", JPG), ("a.cls", b"1"), ("b.cls", b"1")],
        {},
        "of the sample 'a' stand apart",
    ),
}


@pytest.mark.parametrize(("files", "options", "words"), CHOICES.values(), ids=CHOICES)
def test_unclear_samples_are_refused(
    files: Files, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=words) as raised:
        index_tars(tmp_path, IndexSettings(**options))
    assert str(raised.value).isprintable()
    assert not LISTINGS & {path.name for path in tmp_path.iterdir()}


def test_a_damaged_tar_stops_with_its_name_and_the_others_are_counted(tmp_path: Path) -> None:
    for number in range(4):
        write_tar(tmp_path / f"{number}.tar", BOTH)
    os.truncate(tmp_path / "1.tar", 900)
    (tmp_path / "2.tar").write_bytes(member(b"a.jpg", kind=b"2") + END)
    (tmp_path / "3.tar").unlink()
    (tmp_path / "3.tar").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"1\.tar' at byte 0: 'a.jpg' goes on .*; 3 of 4 tars have problems"):
        index_tars(tmp_path)


def test_folders_without_tars(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no files in .*: give a folder of tar files$"):
        index_tars(tmp_path)
    (tmp_path / "a.tar.gz").touch()
    with pytest.raises(UserError, match=r"no \.tar files in .*, but 1 tar\.gz"):
        index_tars(tmp_path)
    for path in (
        "pipe:touch PWNED; cat x.tar",
        "file:/etc",
        str(tmp_path / "a.tar.gz"),
        str(tmp_path / "none"),
    ):
        with pytest.raises(UserError, match=r"cannot list .*; give a folder"):
            index_tars(path)
    assert not Path("PWNED").exists()


@pytest.mark.parametrize(
    "name", ["pipe:touch PWNED; cat x.tar", "file:x.tar", "a\nb.tar", "\x1b[2J.tar", "\udcff.tar"]
)
def test_hostile_file_names(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / name, BOTH)
    with pytest.raises(UserError, match="not printable text, or looks like a URL") as raised:
        index_tars(tmp_path)
    assert str(raised.value).isprintable()


def test_links_to_tars_are_read_and_never_written_through(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "set"
    blobs.mkdir()
    folder.mkdir()
    write_tar(blobs / "1234", BOTH)
    (blobs / "precious").write_bytes(b"precious")
    (folder / "a.tar").symlink_to(blobs / "1234")
    (folder / "a.idx").symlink_to(blobs / "precious")
    with pytest.raises(UserError, match=r"a\.idx' is there and differs"):
        index_tars(folder)
    (folder / ".manifest.json.tmp").symlink_to(blobs / "precious")
    with pytest.raises(UserError, match=r"the link '\.manifest\.json\.tmp', which leads elsewhere"):
        index_tars(folder, IndexSettings(force=True))
    (folder / ".manifest.json.tmp").unlink()
    before = sums(blobs)
    index_tars(folder, IndexSettings(force=True))
    assert sums(blobs) == before and not (folder / "a.idx").is_symlink()
    assert read_all(folder) == [(1, JPG)]


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", BOTH)
    (tmp_path / "_info.json").write_text("theirs")
    with pytest.raises(UserError, match=r"would be replaced \(_info\.json\): index a new folder of links"):
        index_tars(tmp_path)
    (tmp_path / "_info.json").unlink()
    (tmp_path / "manifest.json").write_text("theirs")
    with pytest.raises(UserError, match=r"would be replaced \(manifest\.json\)"):
        index_tars(tmp_path)
    index_tars(tmp_path, IndexSettings(force=True))
    with pytest.raises(UserError, match=r"is indexed already: .*verify.*--force"):
        index_tars(tmp_path)
    # an index that fits is kept: a killed run goes on
    for path in tmp_path.glob("*.json*"):
        path.unlink()
    (tmp_path / "SHA256SUMS").unlink()
    index_tars(tmp_path)
    assert read_all(tmp_path) == [(1, JPG)]


def test_a_split_of_ours_is_not_indexed(tiny_split: Any) -> None:
    with pytest.raises(UserError, match="was made by `turbomim shard make`"):
        index_tars(tiny_split.folder, IndexSettings(force=True))


def test_two_splits_in_one_folder(tmp_path: Path) -> None:
    for name in ("in1k-train-0.tar", "in1k-validation-0.tar", "latest-0.tar"):
        write_tar(tmp_path / name, BOTH)
    with pytest.raises(UserError, match=r"several splits .*\(train, validation\): make a folder of links"):
        index_tars(tmp_path)
    assert index_tars(tmp_path, IndexSettings(split="all")).manifest.split == "all"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"name": "a b"}, "--name is 'a b'"),
        ({"split": ""}, "--split is ''"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", BOTH)
    with pytest.raises(UserError, match=words):
        index_tars(tmp_path, IndexSettings(**options))


def test_a_full_disk_or_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "a.tar", BOTH)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("turbomim.pipeline.places.folder.whole_file", refuse)
    with pytest.raises(UserError, match=r"^cannot write '\S+/a.idx': No space left on device; free some"):
        index_tars(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
