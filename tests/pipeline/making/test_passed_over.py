"""What systems leave beside photographs is no image and no class, and is counted.

Planted: class folders listed without the rule, and hidden names alone passed over, each of which
`test_litter_changes_nothing` fails.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.pipeline.making.test_pack import contents, save_image
from tests.pipeline.tars.tar_bytes import write_tar
from tests.pipeline.tars.test_keys import pairs

from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.image_source import open_source, source_classes, source_keys
from turbomim.pipeline.making.index_tars import index_tars
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.photographs import find_photographs
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.commands.shard.make import shard_make_command

# images and other files that no one wants, below the root
LITTER = (
    "@eaDir/x.jpg", "a/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", "a/@eaDir/0.jpg/SYNOPHOTO_THUMB_S.jpg",
    "__MACOSX/a/x.jpg", "lost+found/x.jpg", "b/.ipynb_checkpoints/0-checkpoint.jpg", "a/Thumbs.db",
    "b/THUMBS.DB", ".DS_Store", "a/._0.jpg", ".git/x.jpg", "b/.x.jpg", "#recycle/b/x.jpg",
)  # fmt: skip
SAID = (
    "passed over: 1 .DS_Store file, 1 ._* file, 1 file in 1 .ipynb_checkpoints folder, 1 file in 1 hidden "
    "folder, 1 hidden file, 3 files in 2 @eaDir folders, 1 file in 1 #recycle folder, 1 file in 1 __MACOSX "
    "folder, 1 file in 1 lost+found folder, 2 Thumbs.db files"
)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Two class folders of three images, and a text."""
    for number in range(6):
        save_image(tmp_path / "clean" / "src" / "ab"[number % 2] / f"{number}.jpg", seed=number)
    (tmp_path / "clean" / "src" / "a" / "notes.txt").write_text("words")
    return tmp_path / "clean" / "src"


@pytest.fixture
def littered(clean: Path, tmp_path: Path) -> Path:
    """The same, with litter, all of it images by the content."""
    folder = Path(shutil.copytree(clean, tmp_path / "littered" / "src"))
    save_image(tmp_path / "litter.jpg", seed=100)
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "litter.jpg", folder / name)
    return folder


def test_litter_changes_nothing(clean: Path, littered: Path, tmp_path: Path) -> None:
    report = make_shards(littered, tmp_path / "2")
    assert make_shards(clean, tmp_path / "1").notes == () and report.notes == (SAID,)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert report.manifest.classes == ("a", "b") and report.other_files == {".txt": 1}


def test_it_is_said(littered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard_make_command([str(littered), str(tmp_path / "out"), "--workers", "1"])
    assert capsys.readouterr().out.splitlines()[1] == SAID


def test_a_flat_folder_stays_one(littered: Path) -> None:
    """Thumbnails of each image, in a folder beside them, are no class."""
    source = open_source(littered / "a")
    assert (source_keys(source), source_classes(source)) == (["0.jpg", "2.jpg", "4.jpg"], ())


def test_patterns_are_added(littered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image(littered / "a" / "0_mask.JPG", seed=7)
    save_image(littered / "thumbs" / "x.jpg", seed=8)
    words = [str(littered), str(tmp_path / "out"), "--workers", "1"]
    shard_make_command([*words, "--skip", "*_MASK.jpg, thumbs"])
    out = capsys.readouterr().out
    assert out.startswith("6 images of 2 classes")
    assert f"{SAID}, 1 *_MASK.jpg file, 1 file in 1 thumbs folder\n" in out
    with pytest.raises(UserError, match="with another source images"):
        shard_make_command(words)
    assert source_keys(open_source(littered, skip="[0-2]*,thumbs")) == ["a/4.jpg", "b/3.jpg", "b/5.jpg"]


def test_nothing_but_litter(tmp_path: Path) -> None:
    save_image(tmp_path / "@eaDir" / "x.jpg", seed=0)
    with pytest.raises(UserError, match=r"found no files; passed over: 1 file in 1 @eaDir folder$"):
        find_photographs(tmp_path)


def test_patterns_belong_to_a_folder(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("clean/src/a/0.jpg\n")
    with pytest.raises(UsageError, match="--skip belongs to a folder"):
        open_source(tmp_path / "l.csv", skip="x")
    make_shards(clean, tmp_path / "out")
    with pytest.raises(UsageError, match="--skip to a folder of images"):
        open_source(tmp_path / "out", skip="x")


def test_half_of_a_mac_s_tar_is_no_stray(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", pairs("x", "y"))
    (tmp_path / "._a.tar").write_bytes(b"mac")
    index_tars(tmp_path)
    assert verify_split(tmp_path).problems == ()
