"""Indexed reads: the right bytes, a changed shard is named, reading ahead keeps order and cleans up."""

import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from turbomim.pipeline.errors import UserError
from turbomim.pipeline.order import Turn
from turbomim.pipeline.read import ReadAhead, ShardFiles, read_samples
from turbomim.pipeline.shards import Split, open_split


def turn_of(*ids: int) -> Turn:
    return Turn(position=0, epochs_B=np.zeros(len(ids), np.int64), ids_B=np.array(ids, np.int64))


def open_tars() -> int:
    """Tar files that this process holds open."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(os.readlink(link).endswith(".tar") for link in links if os.path.lexists(link))


def reader_threads() -> int:
    return sum(thread.name.startswith("turbomim-read") for thread in threading.enumerate())


@pytest.fixture
def own_split(tiny_split: Split, tmp_path: Path) -> Split:
    """A copy of the split whose files a test may damage."""
    shutil.copytree(tiny_split.path, tmp_path / "split")
    return open_split(tmp_path / "split")


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


def test_open_files_are_bounded(tiny_split: Split) -> None:
    files = ShardFiles(tiny_split, limit=2)
    assert open_tars() == 0
    first_of_shard = [int(np.argmax(tiny_split.index.shard_N == shard)) for shard in range(4)]
    for sample in first_of_shard * 2:
        read_samples(tiny_split, files, np.array([sample]))
        assert 1 <= open_tars() <= 2
    files.close()
    assert open_tars() == 0


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
    assert "sha256sum -c SHA256SUMS" in message
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
