"""Foreign tars in a store: indexed by ranges alone, checked, and read.

Planted: a request for each header, the hash of a whole tar, an index that is put whatever is there, the
manifest's place of the tars left out; small members by headers alone, large ones read through.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.tars.tar_bytes import write_tar

from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.making import index_tars as index_tars_file
from turbomim.pipeline.making.index_tars import IndexSettings, index_tars
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import sized
from turbomim.pipeline.tars.manifest import load_manifest
from turbomim.pipeline.tars.split import open_split
from turbomim.train.commands.shard.cat import shard_cat_command
from turbomim.train.commands.shard.index import shard_index_command
from turbomim.train.commands.shard.inspect import shard_inspect_command
from turbomim.train.commands.shard.verify import shard_verify_command

SAMPLES, IMAGE = 12, 100_000


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars of twelve samples, images of 100 kB behind their labels."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for tar in range(3):
        members = []
        for number in range(SAMPLES):
            image = b"\xff\xd8\xff" + bytes([tar, number]) * (IMAGE // 2)
            members += [(f"{tar}-{number}.cls", b"%d" % number), (f"{tar}-{number}.jpg", image)]
        write_tar(folder / f"set-{tar}.tar", members)
    return folder


def put(folder: Path, where: str) -> Place:
    place = open_place(where)
    for path in folder.iterdir():
        place.put(path.name, path)
    return place


def first_images(where: str) -> list[tuple[int, bytes]]:
    split = open_split(where)
    with ShardFiles(split) as files:
        read = read_samples(split, files, np.arange(SAMPLES))
        return [(int(label), bytes(image)) for label, image in zip(read.labels_B, read.images, strict=True)]


def test_headers_alone_are_read(tars: Path, s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = put(tars, s3)
    requests, read = TRAFFIC.requests, TRAFFIC.bytes
    shard_index_command([s3, "--keys", "first-dot"])
    requests, read = TRAFFIC.requests - requests, TRAFFIC.bytes - read
    # of each tar a request a sample, of 2 KiB, and its end; beside them what is there
    assert 3 * SAMPLES <= requests <= 3 * (SAMPLES + 3)
    size = sum(path.stat().st_size for path in tars.glob("*.tar"))
    assert read <= 3 * (SAMPLES * 2048 + 10240) < size / 15
    said = capsys.readouterr().out
    assert f"headers and labels read: {requests} requests, {sized(read)} of {sized(size)}" in said
    index_tars(tars)
    for name in ("set-0.idx", "set-1.idx", "set-2.idx", "sizes.json", "_info.json"):
        assert place.read(name) == (tars / name).read_bytes()
    manifest = load_manifest(place)
    assert [(shard.sha256, len(shard.index_sha256)) for shard in manifest.shards] == 3 * [("", 64)]
    assert manifest.tars is None and manifest.fingerprint != load_manifest(open_place(tars)).fingerprint
    assert first_images(s3) == first_images(str(tars))
    with pytest.raises(UserError, match="is indexed already: check it with"):
        index_tars(s3)
    assert index_tars(s3, IndexSettings(force=True)).manifest.fingerprint == manifest.fingerprint


def test_small_members_are_read_through(s3: str, tmp_path: Path) -> None:
    """In PAX, four members a sample, and now and then a large one."""
    place = open_place(s3)
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(300):
            size = 200_000 if number % 100 == 50 else 500 + 10 * number
            for kind, content in (
                ("cls", b"%d" % number),
                ("jpg", b"\xff\xd8\xff" + bytes(size)),
                ("json", b"{}"),
                ("txt", b"a"),
            ):
                member = tarfile.TarInfo(f"{number:04d}.{kind}")
                member.size, member.pax_headers = len(content), {"mtime": "1700000000.25"}
                tar.addfile(member, io.BytesIO(content))
    place.put("set.tar", tmp_path / "set.tar")
    size = (tmp_path / "set.tar").stat().st_size
    report = index_tars(s3, IndexSettings(keys="first-dot"))
    assert report.manifest.samples == 300
    assert report.requests < 75 and size - 3 * 200_000 < report.read <= size
    again = index_tars(s3, IndexSettings(force=True))
    # the names that tell where keys end are those of the beginning
    assert again.manifest.fingerprint == report.manifest.fingerprint and again.read <= 2 * size
    index_tars(tmp_path)
    assert place.read("set.idx") == (tmp_path / "set.idx").read_bytes()


@pytest.mark.parametrize("few", [10, 11, 12, 1000])
def test_the_first_names_tell_where_keys_end(
    few: int, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sample that is cut by the number of names nothing is known."""
    monkeypatch.setattr(index_tars_file, "FEW_NAMES", few)
    kinds = (("cls", b"1"), ("txt", b"a"), ("jpg", b"\xff\xd8\xff" + bytes(70_000)))
    members = [(f"v1.{number:03d}.{kind}", content) for number in range(20) for kind, content in kinds]
    write_tar(tmp_path / "set.tar", members)
    open_place(s3).put("set.tar", tmp_path / "set.tar")
    report = index_tars(s3)
    assert report.manifest.made["indexed"]["keys"] == "last-dot" and report.manifest.samples == 20
    # two a sample, and the end
    assert report.requests <= 2 * 20 + 2 + 2 * (min(few, 60) // 3 + 1)


def test_into_a_folder(tars: Path, s3: str, tmp_path: Path) -> None:
    place = put(tars, s3)
    report = index_tars(s3, IndexSettings(into=str(tmp_path / "index")))
    assert sorted(place.files()) == ["set-0.tar", "set-1.tar", "set-2.tar"]
    assert str(report.place) == str(tmp_path / "index") and report.manifest.tars == s3
    assert first_images(str(tmp_path / "index")) == first_images_of(tars)
    assert verify_split(tmp_path / "index").problems == ()


def first_images_of(tars: Path) -> list[tuple[int, bytes]]:
    index_tars(tars)
    return first_images(str(tars))


def test_another_index_stays_without_force(tars: Path, s3: str) -> None:
    place = put(tars, s3)
    place.put("set-1.idx", b"v1.2 0\n")
    with pytest.raises(UserError, match=r"set-1.idx' is there and differs from its tar: replace it"):
        index_tars(s3)
    assert place.read("set-1.idx") == b"v1.2 0\n" and "manifest.json" not in place.files()
    index_tars(s3, IndexSettings(force=True))
    assert verify_split(s3).problems == ()


def test_verify_inspect_and_cat(tars: Path, s3: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    place = put(tars, s3)
    index_tars(tars)
    put(tars, s3)
    shard_verify_command([s3, "--workers", "2"])
    assert b"whole: 3 shards, 36 samples" in capfdbinary.readouterr().out
    shard_inspect_command([s3])
    assert b"samples      36 in 3 shards" in capfdbinary.readouterr().out
    shard_cat_command([s3, "set-1.tar:1-3"])
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"\xff\xd8\xff" + bytes([1, 3]) * (IMAGE // 2)
    # one byte of an image
    content = bytearray(place.read("set-1.tar"))
    content[5000] ^= 1
    place.put("set-1.tar", bytes(content))
    place.put("other.tar", b"")
    place.delete("set-2.idx")
    problems = [str(problem) for problem in verify_split(s3, workers=2).problems]
    assert problems == [
        "other.tar is not in manifest.json: a stray file, or the manifest of other shards",
        "set-1.tar has changed: its sha256 is not the manifest's",
        "set-2.idx is missing",
    ]


def test_one_line_each(tars: Path, s3: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot list 's3://no-such-bucket/a': there is no such bucket"):
        index_tars("s3://no-such-bucket/a")
    with pytest.raises(UserError, match=f"^no files in '{s3}': give a folder of tar files$"):
        index_tars(s3)
    with pytest.raises(UserError, match=r"^'hf://datasets/a/b' can only be read: give .* --into FOLDER"):
        index_tars("hf://datasets/a/b")
    with pytest.raises(UserError, match=r"^--into is for tars in a store: leave it out"):
        index_tars(tars, IndexSettings(into=str(tmp_path)))
    place = put(tars, s3)
    place.put("set-2.tar", (tars / "set-2.tar").read_bytes()[:70_000])
    with pytest.raises(UserError, match=rf"^'{s3}/set-2.tar' at byte .*cut off\?$"):
        index_tars(s3)
