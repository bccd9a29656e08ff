"""Indexed reads: the right bytes, a changed shard is named, reading ahead keeps order and cleans up."""

import hashlib
import io
import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from turbomim.pipeline.reading.memory import Memory
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.index import index_text
from turbomim.pipeline.tars.manifest import Manifest, Shard, fingerprint_of
from turbomim.pipeline.tars.split import Split, open_split


def turn_of(*ids: int) -> Turn:
    return Turn(position=0, epochs_B=np.zeros(len(ids), np.int64), ids_B=np.array(ids, np.int64))


def open_tars() -> int:
    """Tar files that this process holds open."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(os.readlink(link).endswith(".tar") for link in links if os.path.lexists(link))


def reader_threads() -> int:
    return sum(thread.name.startswith("turbomim-read") for thread in threading.enumerate())


def test_bytes_and_labels_are_those_of_the_tar(tiny_split: Split) -> None:
    expected: list[tuple[bytes, int]] = []
    for shard in range(len(tiny_split.manifest.shards)):
        with tarfile.open(tiny_split.shard_path(shard)) as tar:
            contents = [file.read() for member in tar if (file := tar.extractfile(member))]
            expected += zip(contents[1::2], map(int, contents[::2]), strict=True)
    ids = np.random.default_rng(0).permutation(len(expected))
    files = ShardFiles(tiny_split)
    samples = read_samples(tiny_split, files, ids)
    files.close()
    assert samples.labels_B.dtype == np.int64
    read = zip((image.tobytes() for image in samples.images), samples.labels_B.tolist(), strict=True)
    assert list(read) == [expected[i] for i in ids]


def test_images_are_views_of_what_was_read(tiny_split: Split) -> None:
    files = ShardFiles(tiny_split)
    for image in read_samples(tiny_split, files, np.arange(5)).images:
        assert image.dtype == np.uint8
        assert not image.flags.owndata
        assert not image.flags.writeable
    files.close()


def cut(path: Path, image_offset: int, image_bytes: int) -> None:
    os.truncate(path, image_offset + image_bytes - 1)


def empty(path: Path, image_offset: int, image_bytes: int) -> None:
    os.truncate(path, 0)


def other_size(path: Path, image_offset: int, image_bytes: int) -> None:
    with open(path, "r+b") as tar:
        tar.seek(image_offset - 512 + 124)
        tar.write(b"%011o" % (image_bytes + 1))


def other_content(path: Path, image_offset: int, image_bytes: int) -> None:
    path.write_bytes(b"\7" * path.stat().st_size)


def other_label(path: Path, image_offset: int, image_bytes: int) -> None:
    with open(path, "r+b") as tar:
        tar.seek(image_offset - 1024)
        tar.write(b"x")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut, "the file ends after"),
        (empty, "the file ends after 0 of"),
        (other_size, "tar header says"),
        (other_content, "no tar header"),
        (other_label, "the label is b'x'"),
    ],
)
def test_a_shard_that_changed_is_named(
    own_split: Split, damage: Callable[[Path, int, int], None], problem: str
) -> None:
    sample = 13
    index = own_split.index
    path = own_split.shard_path(int(index.shard_N[sample]))
    files = ShardFiles(own_split)
    read_samples(own_split, files, np.array([sample]))
    damage(path, int(index.image_offset_N[sample]), int(index.image_bytes_N[sample]))
    with pytest.raises(UserError, match=problem) as caught:
        read_samples(own_split, files, np.array([0, sample]))
    files.close()
    message = str(caught.value)
    assert f"{path}' at byte {index.offset_N[sample]}:" in message
    assert "run `turbomim shard verify` on the split" in message
    assert "\n" not in message


def test_a_shard_that_vanished_is_named(own_split: Split) -> None:
    own_split.shard_path(1).unlink()
    files = ShardFiles(own_split)
    with pytest.raises(UserError, match=rf"{own_split.shard_path(1)}.*No such file"):
        read_samples(own_split, files, np.array([0, 13]))
    files.close()


@pytest.mark.parametrize("readers", [1, 2, 3, 7])
@pytest.mark.parametrize("prefetch", [1, 2, 8])
def test_read_ahead_keeps_the_order(tiny_split: Split, readers: int, prefetch: int) -> None:
    random = np.random.default_rng(1)
    turns = [turn_of(*random.integers(0, 33, 5).tolist()) for _ in range(6)]
    files = ShardFiles(tiny_split)
    with ReadAhead(tiny_split, turns, readers=readers, prefetch=prefetch) as ahead:
        results = list(ahead)
    assert [turn for turn, _ in results] == turns
    for turn, samples in results:
        expected = read_samples(tiny_split, files, turn.ids_B)
        assert samples.labels_B.tolist() == expected.labels_B.tolist()
        assert [image.tobytes() for image in samples.images] == [image.tobytes() for image in expected.images]
    files.close()


def test_prefetch_turns_are_in_flight(tiny_split: Split) -> None:
    drawn: list[Turn] = []

    def turns() -> Iterator[Turn]:
        for sample in range(20):
            drawn.append(turn_of(sample))
            yield drawn[-1]

    with ReadAhead(tiny_split, turns(), readers=1, prefetch=3) as ahead:
        assert not drawn
        next(ahead)
        assert len(drawn) == 4
        next(ahead)
        assert len(drawn) == 5


def test_an_error_surfaces_at_its_turn(own_split: Split) -> None:
    os.truncate(own_split.shard_path(3), 0)
    last = own_split.manifest.samples - 1
    turns = [turn_of(0, 1), turn_of(2, 3), turn_of(4, last), turn_of(5, 6)]
    with ReadAhead(own_split, turns, readers=2, prefetch=3) as ahead:
        assert next(ahead)[0] is turns[0]
        assert next(ahead)[0] is turns[1]
        with pytest.raises(UserError, match=r"000003\.tar.* ends after 0"):
            next(ahead)


def test_closing_early_leaves_no_thread_and_no_file(tiny_split: Split) -> None:
    with ReadAhead(tiny_split, (turn_of(*range(33)) for _ in range(99)), readers=3, prefetch=8) as ahead:
        next(ahead)
        assert reader_threads() == 3
        assert open_tars() == 4
    assert reader_threads() == 0
    assert open_tars() == 0


def foreign_split(folder: Path, form: int, samples: list[list[tuple[str, bytes]]]) -> Split:
    """Index one tar of these (name, content) members, in a tar format of the standard library, as a split."""
    folder.mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, content in (member for sample in samples for member in sample):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    (folder / "photos [a].tar").write_bytes(stream.getvalue())
    with tarfile.open(folder / "photos [a].tar") as tar:
        at = {
            member.name: f"{member.name.split('.')[-1]} {member.offset_data} {member.size} x"
            for member in tar
        }
    lines = [" ".join(at[name] for name, _ in sample) for sample in samples]
    (folder / "photos [a].idx").write_bytes(index_text(lines))
    digest = hashlib.sha256(stream.getvalue()).hexdigest()
    shards = (
        Shard(name="photos [a].tar", samples=len(samples), bytes=len(stream.getvalue()), sha256=digest),
    )
    manifest = Manifest(
        name="photos",
        split="train",
        shards=shards,
        classes=(),
        fingerprint=fingerprint_of(shards),
        made={"by": "test", "indexed": {"image": ["jpg", "jpeg"], "label": "cls"}},
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return open_split(folder)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_foreign_tars(tmp_path: Path, form: int) -> None:
    """Labels right before, far before, after or nowhere; long names, for which PAX and GNU add blocks."""
    long = "k" * (90 if form == tarfile.USTAR_FORMAT else 300)
    split = foreign_split(
        tmp_path / "split",
        form,
        [
            [("a.cls", b"7\n"), ("a.jpg", b"first")],
            [("b.cls", b"3"), ("b.json", b"{}" * 5000), ("b.jpeg", b"second" * 200)],
            [("c.jpg", b"third"), ("c.txt", b""), ("c.cls", b"0")],
            [("d.txt", b"no label"), ("d.jpg", b"")],
            [(f"{long}.cls", b"12"), (f"{long}.jpg", b"fifth")],
        ],
    )
    files = ShardFiles(split)
    samples = read_samples(split, files, np.array([4, 0, 1, 2, 3, 0]))
    files.close()
    assert [image.tobytes() for image in samples.images] == [
        b"fifth",
        b"first",
        b"second" * 200,
        b"third",
        b"",
        b"first",
    ]
    assert samples.labels_B.tolist() == [12, 7, 3, 0, -1, 7]


@pytest.mark.parametrize("label", [b"cat", b"", b"-1", b"-2", b"1 2"])
def test_a_foreign_label_is_a_number_or_none(tmp_path: Path, label: bytes) -> None:
    split = foreign_split(
        tmp_path / "split", tarfile.PAX_FORMAT, [[("a.jpg", b"x"), ("a.txt", b""), ("a.cls", label)]]
    )
    files = ShardFiles(split)
    # -1 is what a sample without a label has in shards of our own
    if label not in (b"", b"-1"):
        with pytest.raises(UserError, match="not a decimal number"):
            read_samples(split, files, np.array([0]))
    else:
        assert read_samples(split, files, np.array([0])).labels_B.tolist() == [-1]
    files.close()


def endless(split: Split) -> Iterator[Turn]:
    while True:
        yield turn_of(*range(split.manifest.samples))


def overwrite(path: Path) -> None:
    with open(path, "r+b") as tar:
        tar.write(b"\7" * path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: os.truncate(path, 0), "the file ends after 0 of"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "the file ends after"),
        (overwrite, "no tar header"),
    ],
    ids=["emptied", "cut to half", "overwritten"],
)
def test_damage_under_a_running_reader(
    own_split: Split, damage: Callable[[Path], object], problem: str
) -> None:
    path = own_split.shard_path(2)
    with ReadAhead(own_split, endless(own_split), readers=2, prefetch=2) as ahead:
        for _ in range(3):
            next(ahead)
        damage(path)
        with pytest.raises(UserError, match=rf"000002\.tar' at byte \d+: {problem}"):
            for _ in range(4):
                next(ahead)


def rename_over(path: Path) -> None:
    path.with_name("other").write_bytes(b"\7" * path.stat().st_size)
    os.replace(path.with_name("other"), path)


@pytest.mark.parametrize("change", [rename_over, Path.unlink])
def test_an_open_shard_outlives_its_name(own_split: Split, change: Callable[[Path], None]) -> None:
    """Whoever renames over a shard or deletes it leaves the old file to those who have it open."""
    with ReadAhead(own_split, endless(own_split), readers=2, prefetch=1) as ahead:
        before = [image.tobytes() for image in next(ahead)[1].images]
        change(own_split.shard_path(2))
        for _ in range(5):
            assert [image.tobytes() for image in next(ahead)[1].images] == before


def test_memory_is_used_again_but_never_under_a_view(tiny_split: Split) -> None:
    files = ShardFiles(tiny_split)
    kept = read_samples(tiny_split, files, np.array([5])).images[0]
    content = kept.tobytes()
    for sample in (7, 8, 9, 10):
        assert read_samples(tiny_split, files, np.array([sample])).images[0].ctypes.data != kept.ctypes.data
    assert kept.tobytes() == content
    files.close()
    memory = Memory()
    first = memory.take(1000)
    first[:] = 7
    view = torch.from_numpy(first)[500:]
    del first
    assert not memory.take(1000).any()
    del view
    assert (memory.take(900) == 7).all()


def test_a_long_wait_is_told(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    read, told, heard = os.preadv, list[str](), threading.Event()

    def slow(*arguments: object) -> int:
        assert heard.wait(60)
        return read(*arguments)  # type: ignore[arg-type]

    def hear(line: str) -> None:
        told.append(line)
        heard.set()

    monkeypatch.setattr(os, "preadv", slow)
    with ReadAhead(tiny_split, [turn_of(13)], readers=1, prefetch=1, on_wait=hear, wait_s=0.1) as ahead:
        next(ahead)
    assert told
    where = f"{str(tiny_split.shard_path(1))!r} at byte {tiny_split.index.offset_N[13]}"
    assert all(re.match(rf"waiting for {re.escape(where)}, \d+ s so far", line) for line in told)


def test_a_short_wait_is_not_told(tiny_split: Split) -> None:
    told: list[str] = []
    with ReadAhead(tiny_split, [turn_of(13)], readers=1, prefetch=1, on_wait=told.append) as ahead:
        next(ahead)
    assert not told
