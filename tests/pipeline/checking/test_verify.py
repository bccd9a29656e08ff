"""`verify` names every problem of a damaged split, does not stop at the first, and says nothing of a whole
one."""

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pipeline.tars.tar_bytes import member, write_tar

from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.making.index_tars import IndexSettings, index_tars
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.manifest import fingerprint_of, load_manifest
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.pipeline.tars.stored_image import read_named_image

TAR, IDX = "trees-train-000001.tar", "trees-train-000001.idx"
OTHER = "trees-train-000002"


def problems(folder: Path, *, images: bool = False) -> list[str]:
    # images on one worker: in this process, without the imports of others
    workers = 1 if images else 2
    return [str(problem) for problem in verify_split(folder, images=images, workers=workers).problems]


def flip(path: Path, at: int, bits: int = 0xFF) -> None:
    """Change a byte and keep the times: opening the split trusts them."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= bits
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def swap(folder: Path) -> None:
    (folder / TAR).rename(folder / "kept")
    (folder / f"{OTHER}.tar").rename(folder / TAR)
    (folder / "kept").rename(folder / f"{OTHER}.tar")


def miscount(folder: Path) -> None:
    """Give shard 1 eight samples, with a fingerprint that fits."""
    manifest = load_manifest(Folder(folder))
    shards = list(manifest.shards)
    shards[1] = replace(shards[1], samples=8)
    wrong = replace(manifest, shards=tuple(shards), fingerprint=fingerprint_of(shards))
    (folder / "manifest.json").write_text(wrong.to_json())


def folder_instead(folder: Path) -> None:
    (folder / TAR).unlink()
    (folder / TAR).mkdir()


def fifo_instead(folder: Path) -> None:
    (folder / TAR).unlink()
    os.mkfifo(folder / TAR)


Damage = Callable[[Path], object]
# what is done to the folder, and parts of what must be said
DAMAGE: dict[str, tuple[Damage, list[str]]] = {
    "missing": (lambda f: (f / TAR).unlink(), [f"{TAR} is missing"]),
    "empty": (lambda f: os.truncate(f / TAR, 0), [f"{TAR} is shorter", "at byte 0: the file is empty"]),
    "cut": (
        lambda f: os.truncate(f / TAR, 9000),
        [f"{TAR} is shorter than written: 9,000", "is damaged, at byte"],
    ),
    "longer": (
        lambda f: (f / TAR).open("ab").write(b"x" * 512),
        [f"{TAR} is longer", "data behind the tar's end"],
    ),
    "a byte of a header": (
        lambda f: flip(f / TAR, 3),
        [f"{TAR} has changed", f"{TAR} is damaged, at byte 0: no"],
    ),
    "a byte of a photograph": (lambda f: flip(f / TAR, 3000), [f"{TAR} has changed: its sha256"]),
    "a label": (lambda f: flip(f / TAR, 512, 0x40), [f"{TAR} has changed", "the label of"]),
    "swapped": (swap, [f"{TAR} ", f"{IDX} does not fit", f"{OTHER}.tar ", f"{OTHER}.idx does not fit"]),
    "index missing": (lambda f: (f / IDX).unlink(), [f"{IDX} is missing"]),
    "index of another": (
        lambda f: shutil.copy(f / f"{OTHER}.idx", f / IDX),
        [f"{IDX} does not fit its tar", f"{IDX} is not the file that SHA256SUMS"],
    ),
    "index name edited": (
        lambda f: edit(f / IDX, ".cls", ".clx"),
        [f"{IDX} does not fit its tar: line 2 is not what", f"{IDX} is not the file"],
    ),
    "index cut": (
        lambda f: os.truncate(f / IDX, 30),
        [f"{IDX} does not fit its tar: it is not 9 lines", f"{IDX} is not the file"],
    ),
    "wrong count": (
        miscount,
        [
            f"{TAR} holds 9 samples, the manifest says 8",
            f"{IDX} does not fit its tar: it lists 9",
            "manifest.json is",
        ],
    ),
    "listing edited": (
        lambda f: edit(f / "classes.json", "ash", "oak"),
        ["classes.json is not the file that"],
    ),
    "listing missing": (lambda f: (f / "sizes.json").unlink(), ["sizes.json is missing"]),
    "sums missing": (lambda f: (f / "SHA256SUMS").unlink(), ["SHA256SUMS is missing"]),
    "sums edited": (
        lambda f: edit(f / "SHA256SUMS", TAR, "x.tar"),
        [f"{TAR} is not in SHA256SUMS", "x.tar is missing"],
    ),
    "sums with zeros": (
        lambda f: (f / "SHA256SUMS").open("ab").write(b"00  a\0b\n"),
        ["SHA256SUMS is damaged: it lists a name with a zero byte"],
    ),
    "stray shard": (lambda f: shutil.copy(f / TAR, f / "stray.tar"), ["stray.tar is not in manifest.json"]),
    "a folder instead": (folder_instead, ["at byte 0: it is not a regular file"]),
    "a fifo instead": (fifo_instead, ["at byte 0: it is not a regular file"]),
}


@pytest.mark.parametrize(("damage", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(own_trees: Path, damage: Damage, expected: list[str]) -> None:
    assert problems(own_trees) == []
    damage(own_trees)
    found = problems(own_trees)
    for words in expected:
        assert any(words in line for line in found), (words, found)
    assert all(line.isprintable() for line in found)


def test_every_problem_is_listed_not_only_the_first(own_trees: Path) -> None:
    (own_trees / "trees-train-000000.tar").unlink()
    flip(own_trees / TAR, 3000)
    (own_trees / f"{OTHER}.idx").unlink()
    (own_trees / "stray.tar").touch()
    assert problems(own_trees) == [
        "stray.tar is not in manifest.json: a stray file, or the manifest of other shards",
        "trees-train-000000.tar is missing",
        f"{TAR} has changed: its sha256 is not the manifest's",
        f"{OTHER}.idx is missing",
    ]


def test_a_change_that_opening_trusts_is_found(own_trees: Path) -> None:
    """Equal size and an older time: only the sha256 tells."""
    flip(own_trees / TAR, 3000)
    assert len(open_split(own_trees).index) == 33
    assert problems(own_trees) == [f"{TAR} has changed: its sha256 is not the manifest's"]


def test_bad_images_are_named_by_shard_key_and_offset(own_trees: Path) -> None:
    split = open_split(own_trees)
    first = 12
    at, size = int(split.index.image_offset_N[first]), int(split.index.image_bytes_N[first])
    flip(own_trees / TAR, at)
    flip(own_trees / TAR, int(split.index.image_offset_N[14]) + int(split.index.image_bytes_N[14]) - 1)
    report = verify_split(own_trees, images=True, workers=2)
    assert report.images == 33
    (bad,) = [problem for problem in report.problems if problem.offset is not None and problem.offset == at]
    assert str(bad).startswith(f"{split.locate(first)} is not whole: ") and size > 100
    assert split.locate(first) == f"{bad.file}:{bad.member}:{bad.offset}"


def test_images_behind_a_damaged_header_are_still_decoded(own_trees: Path) -> None:
    split = open_split(own_trees)
    flip(own_trees / TAR, int(split.index.offset_N[11]) - 512)
    flip(own_trees / TAR, int(split.index.image_offset_N[15]))
    report = verify_split(own_trees, images=True)
    assert report.images == 33
    assert [problem.offset for problem in report.problems if problem.offset] == [
        split.index.image_offset_N[15]
    ]


@pytest.mark.parametrize(("old", "new"), [(b"_", b"\x85"), (b" jpg ", b" jpg\0 ")])
def test_a_damaged_index_line_hides_no_other_shard(old: bytes, new: bytes, own_trees: Path) -> None:
    """The damage is in what no reader of the index looks at: to it the offsets still fit."""
    path = own_trees / "trees-train-000000.idx"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    flip(own_trees / f"{OTHER}.tar", 3000)
    report = verify_split(own_trees, images=True)
    assert report.images == 33
    found = [str(problem) for problem in report.problems]
    for words in ("000000.idx does not fit its tar: line ", f"{OTHER}.tar has changed"):
        assert any(words in line for line in found), (words, found)


def encoded(form: str = "JPEG", side: int = 64) -> bytes:
    # seeded: one noise in nine still decodes without a warning after the damage of `noise` below
    noise = np.random.default_rng(0).normal(128, 60, (side, side)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert("RGB").save(file, form)
    return file.getvalue()


def test_foreign_splits(tmp_path: Path) -> None:
    good = encoded()
    middle = len(good) // 2
    broken = {
        "cut": good[:middle],
        "tail": good[:-2],
        # neither decoder refuses this: libjpeg only warns
        "noise": good[:middle] + bytes(range(1, 41)) + good[middle + 40 :],
        "empty": b"",
        "html": b"<!DOCTYPE html>",
        "png": encoded("PNG")[:-40],
        "gif": encoded("GIF"),
        # DALI decodes it, the loader does not let it pass
        "bmp": encoded("BMP"),
    }
    files = [("good.jpg", good), ("Bäume/x.jpg", encoded("WEBP"))]
    files += [(f"{name}.jpg", content) for name, content in broken.items()]
    write_tar(tmp_path / "a.tar", files)
    write_tar(tmp_path / "b c.tar", [("\x1b[2J.jpg", b"?")])
    index_tars(tmp_path)
    assert problems(tmp_path) == []
    stderr = os.fstat(2)
    report = verify_split(tmp_path, images=True)
    assert os.path.samestat(os.fstat(2), stderr), "what others print goes where it went"
    members = [problem.member for problem in report.problems]
    assert members == [*(f"{name}.jpg" for name in broken), "_[2J.jpg"]
    assert all(str(problem).isprintable() for problem in report.problems)
    assert "is not whole: Corrupt JPEG data" in str(report.problems[2])
    assert read_named_image(tmp_path, str(report.problems[0]).split(" ")[0]) == broken["cut"]


def test_samples_left_out_of_a_foreign_split_are_no_problem(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", encoded()), ("b.txt", b"")])
    index_tars(tmp_path, IndexSettings(allow_missing=True))
    assert problems(tmp_path, images=True) == []


def test_raw_images_are_checked_by_header_and_size(tmp_path: Path) -> None:
    ppm = b"P6\n4 5\n255\n" + bytes(60)
    write_tar(tmp_path / "a.tar", [("a.ppm", ppm), ("b.ppm", ppm[:-1]), ("c.ppm", b"P5" + ppm[2:])])
    index_tars(tmp_path)
    # a raw split of ours has another manifest, but the same members
    manifest = tmp_path / "manifest.json"
    edit(manifest, '"kind": "original"', '"kind": "raw", "short_side": 4, "resampling": "bicubic"')
    found = [line for line in problems(tmp_path, images=True) if "not whole" in line]
    assert [line.split(":")[1] for line in found] == ["b.ppm", "c.ppm"]
    assert "59 bytes of pixels, not 5 x 4 x 3" in found[0] and "no header of an 8-bit PPM" in found[1]


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        verify_split(tmp_path)


@pytest.mark.parametrize("images", [False, True])
def test_progress_adds_up(own_trees: Path, images: bool) -> None:
    heard: list[tuple[int, int, int]] = []
    verify_split(own_trees, images=images, progress=lambda *step: heard.append(step))
    total = load_manifest(Folder(own_trees)).bytes
    assert [sum(column) for column in zip(*heard, strict=True)] == [total, 33, 4 * total]


def test_cat_reads_a_named_image(tiny_split: Split) -> None:
    shard, name, offset = tiny_split.locate(20).split(":")
    tar = (tiny_split.folder / shard).read_bytes()
    expected = tar[int(offset) :][: int(tiny_split.index.image_bytes_N[20])]
    key = name.split(".")[0]
    for place in (f"{shard}:{name}:{offset}", f"{shard}:cut:{offset}", f"{shard}:{name}", f"{shard}:{key}"):
        assert read_named_image(tiny_split.folder, place) == expected
    for place, words in (
        (
            f"{shard}:nobody",
            rf"no sample 'nobody' in the index of '{shard}', \d+ samples, the first '\S+jpg'",
        ),
        (f"{shard}:{name}:7", "no sample"),
        ("../x.tar:a", r"^no shard '\.\./x\.tar' in .*trees', 4 shards: give SHARD\.tar:KEY"),
        ("nonsense", "^'nonsense' names no image: give SHARD"),
    ):
        with pytest.raises(UserError, match=words):
            read_named_image(tiny_split.folder, place)


def test_hostile_sums_do_not_lead_out_of_the_folder(own_trees: Path) -> None:
    with open(own_trees / "SHA256SUMS", "a") as sums:
        sums.write("00  ../outside\n00  /etc/passwd\n")
    assert problems(own_trees) == []


def test_a_tar_that_is_whole_but_another_is_found(own_trees: Path) -> None:
    """Same size, right headers, other samples: not even the headers tell."""
    content = (own_trees / TAR).read_bytes()
    at = open_split(own_trees).index.image_offset_N[9]
    renamed = member(b"birch_tree_99.jpg", b"")[:512]
    (own_trees / TAR).write_bytes(content[: at - 512] + renamed[:124] + content[at - 512 + 124 :])
    assert any("sha256" in line for line in problems(own_trees))
