"""Images that lie in a store give the shards that they give in a folder.

Planted: names passed over as files alone, the order of a listing, a version that is not asked for, the bucket
as the source's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.pipeline.making.test_pack import save_image

from turbomim.benchmarks.faults.kill_shard_make import digest
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.photographs import find_photographs
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.places import bucket
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UsageError, UserError

MEMORY = "s3://memory/trees"
SETTINGS = ShardSettings(shard_size=3)


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """Images of three classes, one of them without images, and what is passed over."""
    for number in range(8):
        save_image(tmp_path / "trees" / "ab"[number % 2] / f"{number}.jpg", seed=number)
    save_image(tmp_path / "trees" / "a" / "@eaDir" / "x" / "thumb.jpg")
    for name in (
        "c/notes.txt",
        ".hidden/x.jpg",
        "a/Thumbs.db",
        "a/broken.jpg",
        "b.txt",
        "B.é.txt",
        "tmp/x.jpg",
    ):
        path = tmp_path / "trees" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    return tmp_path / "trees"


def put_all(folder: Path, place: Place) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            place.put(path.relative_to(folder).as_posix(), path)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Place:
    stores: dict[str, Any] = {}
    monkeypatch.setattr(bucket, "make_store", lambda where, _: stores.setdefault(where, MemoryStore()))
    return open_place(MEMORY)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_as_from_a_folder(workers: int, trees: Path, s3: str, tmp_path: Path) -> None:
    place = open_place(f"{s3}/trees")
    put_all(trees, place)
    # some programs put an empty object for a folder
    place.put("c", b"")
    settings = ShardSettings(shard_size=3, skip="tmp")
    make_shards(trees, tmp_path / "local", settings)
    report = make_shards(f"{s3}/trees/", tmp_path / "stored", settings, workers=workers)
    assert digest(tmp_path / "stored") == digest(tmp_path / "local")
    assert report.manifest.classes == ("a", "b", "c")
    assert report.notes == find_photographs(trees, "tmp").notes
    make_shards(f"{s3}/trees", f"{s3}/out", settings, workers=workers)
    stored = open_place(f"{s3}/out")
    assert {name: stored.read(name) for name in stored.files()} == {
        path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()
    }


def test_a_source_that_changes_stops_the_run(trees: Path, memory: Place, tmp_path: Path) -> None:
    put_all(trees, memory)

    def change(done: int, total: int) -> None:
        if done == 3:
            for name in memory.files("a"):
                # of the size that it had
                memory.put(name, memory.read(name)[::-1])

    with pytest.raises(
        UserError, match=r"'s3://memory/trees/a/.*' is not the file that was listed.*written again"
    ):
        make_shards(MEMORY, tmp_path / "out", SETTINGS, progress=change)
    with pytest.raises(UserError, match="holds an unfinished run with another source times"):
        make_shards(MEMORY, tmp_path / "out", SETTINGS)


def test_an_image_that_goes_stops_the_run(trees: Path, memory: Place, tmp_path: Path) -> None:
    put_all(trees, memory)

    def remove(done: int, total: int) -> None:
        for name in memory.files("a") if done == 3 else ():
            memory.delete(name)

    with pytest.raises(UserError, match=r"is not the file that was listed at the start: it is gone"):
        make_shards(MEMORY, tmp_path / "out", SETTINGS, progress=remove)


def test_one_line_each(memory: Place, tmp_path: Path, s3: str) -> None:
    with pytest.raises(
        UserError, match=f"^no images below '{MEMORY}': looked for .jpg .jpeg .png .webp, found no"
    ):
        make_shards(MEMORY, tmp_path / "out")
    memory.put("a.jpg", b"")
    with pytest.raises(
        UserError, match=f"'{MEMORY}/b' lies in the source '{MEMORY}': choose a place outside"
    ):
        make_shards(MEMORY, f"{MEMORY}/b")
    with pytest.raises(UserError, match=r"list.csv': a list and its images must be files of this machine"):
        make_shards(f"{MEMORY}/list.csv", tmp_path / "out")
    with pytest.raises(UsageError, match="--root belongs to a"):
        make_shards(MEMORY, tmp_path / "out", ShardSettings(root=tmp_path))


def test_no_such_bucket(s3: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^cannot list 's3://no-such-bucket/a': there is no such bucket; check"
    ):
        make_shards("s3://no-such-bucket/a", tmp_path / "out")
