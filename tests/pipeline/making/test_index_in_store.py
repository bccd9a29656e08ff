"""Foreign tars in a store: indexed by ranges alone, checked, and read.

Planted: a request for each header, the hash of a whole tar, an index that is put whatever is there, the
manifest's place of the tars left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.tars.tar_bytes import write_tar

from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.making.index_tars import IndexSettings, index_tars
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.manifest import load_manifest
from turbomim.pipeline.tars.split import open_split
from turbomim.train.commands.shard.cat import shard_cat_command
from turbomim.train.commands.shard.index import shard_index_command
from turbomim.train.commands.shard.inspect import shard_inspect_command
from turbomim.train.commands.shard.verify import shard_verify_command

SAMPLES, IMAGE = 12, 60_000


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars of twelve samples, images of 60 kB behind their labels."""
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
    assert read <= 3 * (SAMPLES * 2048 + 10240) < sum(path.stat().st_size for path in tars.iterdir()) / 15
    said = capsys.readouterr().out
    assert f"headers and labels read: {requests} requests, {read / 1e6:.1f} MB of 0.0 GB" in said
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
    with pytest.raises(UserError, match=f"^no .tar files in '{s3}', but nothing: give a folder"):
        index_tars(s3)
    with pytest.raises(UserError, match=r"^'hf://datasets/a/b' can only be read: give .* --into FOLDER"):
        index_tars("hf://datasets/a/b")
    with pytest.raises(UserError, match=r"^--into takes a folder of this machine, for tars in a store"):
        index_tars(tars, IndexSettings(into=str(tmp_path)))
    place = put(tars, s3)
    place.put("set-2.tar", (tars / "set-2.tar").read_bytes()[:70_000])
    with pytest.raises(UserError, match=rf"^'{s3}/set-2.tar' at byte .*cut off\?$"):
        index_tars(s3)
