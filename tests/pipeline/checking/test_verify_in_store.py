"""`verify` of a split in a store: each byte comes once, in large requests, and nothing of it stays here.

Planted, each seen to fail: a request for each header, an index read twice, tars kept in named files, a full
disk taken for a damaged tar, a store that is down taken for one.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.pipeline.tars.counted_place import CountedPlace
from tests.pipeline.tars.tar_bytes import write_tar

from turbomim.pipeline.checking import verify
from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.making.index_tars import index_tars
from turbomim.pipeline.places import download
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Status
from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.pipeline.tars.manifest import load_manifest
from turbomim.train.commands.shard.verify import shard_verify_command

TAR, IDX = "trees-train-000001.tar", "trees-train-000001.idx"
PART = 4096


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def far(own_trees: Path, monkeypatch: pytest.MonkeyPatch) -> CountedPlace:
    """`own_trees` as a store."""
    place = CountedPlace(own_trees)
    monkeypatch.setattr(verify, "open_place", lambda where: place)
    return place


def put(folder: Path, where: str) -> None:
    for path in folder.iterdir():
        open_place(where).put(path.name, path)


def test_each_byte_is_asked_for_once(trees: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(trees, s3)
    monkeypatch.setattr(download, "PART", PART)
    requests, read = TRAFFIC.requests, TRAFFIC.bytes
    report = verify_split(s3, workers=2)
    requests, read = TRAFFIC.requests - requests, TRAFFIC.bytes - read
    assert report.problems == () and report.unhashed == 0
    sizes = {path.name: path.stat().st_size for path in trees.iterdir()}
    # the manifest is parsed, and hashed
    assert read == sum(sizes.values()) + sizes["manifest.json"]
    tars = [size for name, size in sizes.items() if name.endswith(".tar")]
    assert requests == sum(-(-size // PART) for size in tars) + len(sizes) - len(tars) + 1


def test_nothing_of_a_tar_has_a_name_here(temporary: Path, far: CountedPlace) -> None:
    seen: list[list[str]] = []
    read_into = far.read_into

    def looking(*args: object, **options: object) -> int:
        seen.append(os.listdir(temporary))
        return read_into(*args, **options)  # type: ignore[arg-type]

    far.read_into = looking  # type: ignore[method-assign]
    assert verify_split("far://split").problems == ()
    assert seen and not any(seen) and os.listdir(temporary) == []


def flip(folder: Path) -> None:
    content = bytearray((folder / TAR).read_bytes())
    content[3000] ^= 255
    (folder / TAR).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / TAR).unlink(), [f"{TAR} is missing"]),
        (lambda f: os.truncate(f / TAR, 0), [f"{TAR} is shorter", "at byte 0: the file is empty"]),
        (
            lambda f: os.truncate(f / TAR, 9000),
            [f"{TAR} is shorter than written: 9,000", "is damaged, at byte"],
        ),
        (flip, [f"{TAR} has changed: its sha256"]),
        (lambda f: (f / IDX).unlink(), [f"{IDX} is missing"]),
        (
            lambda f: (f / IDX).write_bytes(b"v1.2 0\n"),
            [f"{IDX} does not fit its tar", f"{IDX} is not the file"],
        ),
        (lambda f: shutil.copy(f / TAR, f / "stray.tar"), ["stray.tar is not in manifest.json"]),
    ],
)
def test_damage_is_named_as_in_a_folder(
    damage: Callable[[Path], object], expected: list[str], far: CountedPlace, own_trees: Path
) -> None:
    damage(own_trees)
    found = [str(problem) for problem in verify_split("far://split", workers=2).problems]
    assert len(found) == len(expected)
    for words in expected:
        assert any(words in line for line in found), (words, found)


def test_images_are_decoded_by_processes(trees: Path, s3: str) -> None:
    put(trees, s3)
    report = verify_split(s3, images=True, workers=2)
    assert (report.images, report.problems) == (33, ())


def test_a_full_disk_is_one_line(far: CountedPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    said = r"cannot write '/.*': No space left on device: [0-9,]{6,} bytes needed.*another disk \(TMPDIR\)$"
    with pytest.raises(UserError, match=said) as raised:
        verify_split("far://split")
    assert "\n" not in str(raised.value)


def test_one_tar_that_does_not_come_is_a_problem(far: CountedPlace) -> None:
    far.fault = PlaceError("the store answered 500", "see how the store is", passing=True)
    found = [str(problem) for problem in verify_split("far://split").problems]
    assert len(found) == 4 and found[0].endswith(
        "cannot be read: the store answered 500; see how the store is"
    )


def test_a_store_that_is_down_ends_it(far: CountedPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    far.fault = PlaceError("nobody answers there", "check the network", passing=True)

    def down(name: str) -> Status:
        raise PlaceError("nobody answers there", "check the network", passing=True)

    monkeypatch.setattr(far, "status", down)
    statuses = [Status(bytes=shard.bytes) for shard in load_manifest(far).shards]
    monkeypatch.setattr(far, "statuses", lambda names: statuses)
    with pytest.raises(
        UserError, match=r"^cannot read 'far://split': nobody answers there; check the network$"
    ):
        verify_split("far://split")


def test_what_nobody_hashed_is_said(s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(image := io.BytesIO(), "PNG")
    write_tar(tmp_path / "a.tar", [("a.png", image.getvalue())])
    open_place(s3).put("a.tar", tmp_path / "a.tar")
    index_tars(s3)
    shard_verify_command([s3])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("whole: 1 shard, 1 sample")
    assert said[1] == (
        "nobody has hashed 1 shard, indexed in a store: sizes, headers, labels and index files were checked, "
        "what images hold was compared with nothing; `--images` decodes every image"
    )
    shard_verify_command([s3, "--images", "--workers", "1"])
    assert "compared with nothing; every image was decoded" in capsys.readouterr().out
    index_tars(tmp_path)
    assert load_manifest(Folder(tmp_path)).shards[0].sha256
    shard_verify_command([str(tmp_path)])
    assert "nobody" not in capsys.readouterr().out
