"""The cache of shards: what is kept, what is refused, and who fills it.

Planted bugs and the test that fails on each: a file that is written under its name
(`test_killed_again_and_again`); a shard that makes room for another
(`test_fills_in_order_and_removes_nothing`); no lock (`test_one_process_fills`); a disk that is full and ends
the thread without a word, or is tried by each process (`test_a_full_disk`).
"""

from __future__ import annotations

import contextlib
import itertools
import random
import resource
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.pipeline.tars.caches import (
    BYTES,
    PARTS,
    SHARDS,
    cache_of,
    content_of,
    fill,
    kept,
    read,
    write_shards,
)
from tests.pipeline.tars.counted_place import CountedPlace
from tests.runs import finish, killed_at_the_end, launch
from tests.waiting import wait_until

from turbomim.pipeline.places import download
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.pipeline.tars import fill_cache
from turbomim.pipeline.tars.fill_cache import CacheFiller
from turbomim.pipeline.tars.manifest import Manifest
from turbomim.pipeline.tars.shard_cache import ShardCache

KILLS = 10


pytestmark = pytest.mark.usefixtures("small")


def test_fills_in_order_and_removes_nothing(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    cache, said = cache_of(tmp_path / "c", place, manifest, 3.9), list[str]()
    assert kept(cache) == [] and read(cache, 0) is None
    fill(cache, 3, said)
    assert kept(cache) == [0, 1, 2]
    assert said == [f"cache {tmp_path}/c: 3 of 8 shards, 37.5 % of the samples; 600.0 kB of 780.0 kB used"]
    for shard in range(SHARDS):
        whole = read(cache, shard)
        assert whole == (content_of(shard) if shard < 3 else None)
        part = read(cache, shard, 1000, 500)
        assert part == (content_of(shard)[1000:1500] if shard < 3 else None)
    assert (cache.stats.hits, cache.stats.misses) == (6, 11)
    assert cache.stats.filled_bytes == sum(place.bytes.values()) == 3 * BYTES
    # others are read for a long time, and a start later: nothing is fetched for them, nothing goes
    again = cache_of(tmp_path / "c", place, manifest, 3.9)
    with CacheFiller(again, notify=said.append):
        for shard in range(SHARDS):
            read(again, shard)
        time.sleep(0.2)
    assert kept(again) == kept(cache) == [0, 1, 2]
    assert sum(place.bytes.values()) == 3 * BYTES and len(said) == 1
    assert sorted(path.name for path in cache.own.iterdir()) == sorted(
        f"x-{number:06d}.{kind}" for number in range(3) for kind in ("tar", "ok")
    )


def test_more_space_is_used_and_less_removes_nothing(
    place: CountedPlace, manifest: Manifest, tmp_path: Path
) -> None:
    fill(cache_of(tmp_path, place, manifest, 2.5), 2)
    fill(cache_of(tmp_path, place, manifest, 4.5), 4)
    assert sum(place.bytes.values()) == 4 * BYTES
    less = cache_of(tmp_path, place, manifest, 1.5)
    with CacheFiller(less):
        time.sleep(0.1)
    assert kept(less) == [0, 1, 2, 3]


def test_only_what_this_machine_reads(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    wanted = ShardCache(
        tmp_path, 3 * BYTES, place=place, manifest=manifest, versions=[""] * SHARDS, wanted=range(4, 8)
    )
    said = list[str]()
    fill(wanted, 3, said)
    assert kept(wanted) == [4, 5, 6] and {*place.bytes} == {f"x-00000{shard}.tar" for shard in (4, 5, 6)}
    assert "3 of 4 shards, 75.0 % of the samples" in said[0]


def test_another_data_set_takes_space(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "far", seed=1)
    fill(cache_of(tmp_path / "c", CountedPlace(tmp_path / "far"), other, 5.5), 5)
    cache, said = cache_of(tmp_path / "c", place, manifest, 7.5), list[str]()
    fill(cache, 2, said)
    taken = tmp_path / "c" / other.fingerprint[:16]
    assert f"1.0 MB by other data sets, most in {taken}: remove what is not needed, or raise" in said[0]
    assert len([*taken.glob("*.tar")]) == 5 and kept(cache) == [0, 1]


def test_one_process_fills(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    place.pause = 0.002
    caches = [cache_of(tmp_path, place, manifest) for _ in range(4)]
    with contextlib.ExitStack() as fillers:
        for cache in caches:
            fillers.enter_context(CacheFiller(cache, notify=lambda _: None))
        wait_until(lambda: all(len(kept(cache)) == SHARDS for cache in caches))
    # a lock of a file is held by one opening of it, of whatever process
    assert sum(place.bytes.values()) == SHARDS * BYTES
    assert sum(cache.stats.filled_bytes for cache in caches) == SHARDS * BYTES


def fill_slowly(folder: Path, far: Path, manifest: Manifest, pause: float, parts: int) -> None:
    """A process that fills, until it is killed or all is there."""
    download.PART, fill_cache.PAUSE = parts, 0.02  # type: ignore[misc]
    cache = cache_of(folder, CountedPlace(far, pause=pause), manifest)
    with CacheFiller(cache, notify=lambda _: None):
        wait_until(lambda: len(kept(cache)) == SHARDS, 100)


def test_killed_again_and_again(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    """Two processes at a time; one is killed at any moment, and the other takes over; a third one reads."""
    draw = random.Random(0)
    folders = (tmp_path / f"cache-{number}" for number in itertools.count())
    folder = next(folders)
    reader = cache_of(folder, place, manifest)
    seen = set[int]()

    def start() -> BaseProcess:
        return launch(fill_slowly, folder, place.under.folder, manifest, 0.02, PARTS)

    def look() -> None:
        """Nothing is ever wrong, and nothing is lost."""
        reader.look()
        now = {*kept(reader)}
        assert now >= seen
        for shard in now:
            assert read(reader, shard) == content_of(shard)
        seen.update(now)

    running = [start(), start()]
    with killed_at_the_end(running):
        for kill in range(KILLS):
            time.sleep(draw.uniform(0, 0.15))
            running[kill % 2].kill()
            running[kill % 2].join()
            look()
            if len(seen) == SHARDS:
                folder = next(folders)
                reader, seen = cache_of(folder, place, manifest), set()
            running[kill % 2] = start()
        for process in running:
            assert finish(process) == 0
    look()
    assert len(seen) == SHARDS
    assert not [*folder.rglob("*.part")]


@pytest.mark.parametrize("left", [b"\7" * PARTS, b""], ids=["wrong", "right"])
def test_a_fetch_goes_on_behind_its_last_part(
    left: bytes, place: CountedPlace, manifest: Manifest, tmp_path: Path
) -> None:
    cache = cache_of(tmp_path, place, manifest, 1.5)
    part = download.part_path(cache.file(0))
    part.write_bytes(left or content_of(0)[: 2 * PARTS + 100])
    fill(cache, 1)
    assert read(cache, 0) == content_of(0)
    # of a wrong one the rest is fetched, then all
    assert place.bytes["x-000000.tar"] == (2 * BYTES - PARTS if left else BYTES - 2 * PARTS)
    assert not part.exists()


def test_a_place_that_is_down(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    cache, said = cache_of(tmp_path, place, manifest), list[str]()
    place.fault = PlaceError("nobody listens there", passing=True)
    with CacheFiller(cache, notify=said.append):
        wait_until(lambda: said)
        time.sleep(0.2)
        assert said == ["cache: nothing comes from far://far for now: nobody listens there"]
        place.fault = None
        wait_until(lambda: len(kept(cache)) == SHARDS)


def fill_with_a_limit(folder: Path, far: Path, manifest: Manifest) -> None:
    """A process whose files may have no more than half the bytes of a shard."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES // 2, resource.RLIM_INFINITY))
    download.PART, fill_cache.PAUSE = PARTS, 0.02  # type: ignore[misc]
    cache, said = cache_of(folder, CountedPlace(far), manifest), list[str]()
    # two in one process: the second does not try what the first was refused
    with CacheFiller(cache, notify=said.append), CacheFiller(cache, notify=said.append):
        wait_until(lambda: said)
        time.sleep(0.3)
        assert read(cache, 0) is None
    (folder / "said").write_text("\n".join(said))


def test_a_full_disk(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    assert finish(launch(fill_with_a_limit, tmp_path, place.under.folder, manifest)) == 0
    (said,) = (tmp_path / "said").read_text().splitlines()
    assert said.startswith("cache: cannot write ") and "File too large: 200,000 bytes needed" in said
    assert said.endswith("; no more is kept, and the rest comes from far://far")
    assert [*(tmp_path / manifest.fingerprint[:16]).iterdir()] == [], "it takes no space"


def test_ended_while_it_fetches(
    place: CountedPlace, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong or lost, no thread is left, and the next one goes on."""
    place.pause = 0.05
    # of those on their way all are lost
    monkeypatch.setattr(download, "PARTS_AT_ONCE", 1)
    cache = cache_of(tmp_path, place, manifest, 1)
    with CacheFiller(cache, notify=lambda _: None):
        wait_until(lambda: place.bytes["x-000000.tar"] >= PARTS)
    assert not [thread for thread in threading.enumerate() if thread.name == "turbomim-cache"]
    fill(cache, 1)
    assert read(cache, 0) == content_of(0)
    assert place.bytes["x-000000.tar"] < 2 * BYTES


def test_bad_input_is_one_line(manifest: Manifest, tmp_path: Path) -> None:
    far = tmp_path / "far"
    with pytest.raises(
        UserError, match=f"data.cache {tmp_path}/c: the shards are in a folder already, {far}"
    ):
        cache_of(tmp_path / "c", Folder(far), manifest)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; give another folder"):
        cache_of(tmp_path / "file", CountedPlace(far), manifest)
    assert not (tmp_path / "c").exists()
