"""What fills a cache of shards: how it goes on, what it counts, and what it says.

Planted bugs and the test that fails on each: a refused shard that ends the filling or keeps the lock
(`test_a_refused_shard_ends_nothing`); a walk through the folder for each shard, or space that is not counted
(`test_the_space_is_counted_once`); an end that waits for a request, or
says that it failed (`test_an_end_does_not_wait_for_a_silent_place`); no line on the way, or one a shard
(`test_lines_on_the_way`); space for not one shard without a word (`test_space_for_no_shard_is_said`); one
remedy for whatever is missing (`test_what_would_help`).
"""

from __future__ import annotations

import fcntl
import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.pipeline.tars.caches import BYTES, SHARDS, cache_of, content_of, fill, kept, read, write_shards
from tests.pipeline.tars.counted_place import CountedPlace
from tests.waiting import wait_until

from turbomim.pipeline.places import download
from turbomim.pipeline.system import executors
from turbomim.pipeline.system.folder_lock import LOCK
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.pipeline.tars import fill_cache
from turbomim.pipeline.tars.fill_cache import CacheFiller
from turbomim.pipeline.tars.manifest import Manifest
from turbomim.pipeline.tars.shard_cache import ShardCache

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_shards(tmp_path / "far")


@pytest.fixture
def place(tmp_path: Path) -> CountedPlace:
    return CountedPlace(tmp_path / "far")


def is_free(lock: Path) -> bool:
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def comes_back(cache: ShardCache, shard: int) -> bool:
    return read(cache, shard) == content_of(shard)


def test_a_refused_shard_ends_nothing(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    """The others are filled, and kept in order; the lock is given back; a later start does as much."""
    (tmp_path / "far" / "x-000001.tar").write_bytes(content_of(1, seed=9))
    cache, said = cache_of(tmp_path / "c", place, manifest), list[str]()
    for damaged in (5, 6):
        with CacheFiller(cache, notify=said.append):
            wait_until(lambda: all(cache.path(shard) for shard in range(SHARDS) if shard != 1))
            wait_until(lambda: is_free(cache.folder / LOCK))
            cache.file(damaged).unlink()
            wait_until(partial(comes_back, cache, damaged))
            # the line comes last
            wait_until(lambda: is_free(cache.folder / LOCK))
    words = f"cache {tmp_path}/c: 7 of 8 shards, 87.5 % of the samples; 1.4 MB of 1.6 MB used"
    assert said and {*said} == {words}
    assert place.bytes["x-000001.tar"] == BYTES, "once"


def test_the_space_is_counted_once(
    place: CountedPlace, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many shards come."""
    cache, used, walks, walked = cache_of(tmp_path / "c", place, manifest, 7.9), ShardCache.used, 0, 0

    def counting(self: ShardCache) -> dict[Path, int]:
        nonlocal walks
        walks += 1
        return used(self)

    def hear(_: str) -> None:
        nonlocal walked
        walked = walks

    monkeypatch.setattr(ShardCache, "used", counting)
    with CacheFiller(cache, notify=hear):
        wait_until(lambda: walked)
    assert kept(cache) == [*range(7)]
    # to see whether there is something to do, to tidy up, to fill, and for the line
    assert walked == 4


def test_an_end_does_not_wait_for_a_silent_place(
    place: CountedPlace, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request ends later, without a word."""
    monkeypatch.setattr(executors, "LOOK", 0.1)
    place.pause, place.fault = 8.0, PlaceError("no answer in time", passing=True)
    cache, said = cache_of(tmp_path / "c", place, manifest), list[str]()
    filler = CacheFiller(cache, notify=said.append)
    wait_until(lambda: (cache.folder / LOCK).exists() and not is_free(cache.folder / LOCK))
    begun = time.monotonic()
    filler.close()
    assert time.monotonic() - begun < 6
    assert is_free(cache.folder / LOCK) and said == []


def test_lines_on_the_way(
    place: CountedPlace, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then, with what is kept by then; one at the end."""
    cache, said = cache_of(tmp_path / "c", place, manifest), list[str]()
    now = 0.0

    def clock() -> float:
        """Half of the pause between two lines goes by with each shard."""
        nonlocal now
        now += fill_cache.PROGRESS / 2
        return now

    monkeypatch.setattr(fill_cache, "time", SimpleNamespace(monotonic=clock))
    fill(cache, SHARDS, said)
    lines = [line.split(":")[1].split(" shards")[0] for line in said]
    assert lines[-1] == " 8 of 8" and 3 <= len(lines) <= 1 + SHARDS // 2
    assert lines == sorted(set(lines))


def test_space_for_no_shard_is_said(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    """At the start, where a run says what is kept."""
    words = "; not one shard fits, x-000000.tar has 200.0 kB: raise data.cache_gb"
    assert cache_of(tmp_path / "c", place, manifest, 0.9).in_words().endswith(words)
    assert "fits" not in cache_of(tmp_path / "c", place, manifest, 1).in_words()
    fill(cache_of(tmp_path / "c", place, manifest, 1), 1)
    assert "fits" not in cache_of(tmp_path / "c", place, manifest, 0.9).in_words()


def test_what_would_help(
    place: CountedPlace, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More space, where it lacks; not where all is kept, the disk is full, or it is being filled."""
    cache = cache_of(tmp_path / "c", place, manifest, 1)
    assert cache.remedy() == "the cache is not full yet"
    download.part_path(cache.file(0)).write_bytes(content_of(0)[:1000])
    assert cache.remedy() == "the cache is not full yet", "what has begun has its place"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=BYTES - 1001))
        assert cache.remedy() == (
            f"the disk of data.cache {tmp_path}/c is full: free space, then start the same command again"
        )
    cache = cache_of(tmp_path / "c", place, manifest, SHARDS)
    fill(cache, SHARDS)
    assert cache.remedy() == ""
    cache.file(7).unlink()
    cache = cache_of(tmp_path / "c", place, manifest, SHARDS - 0.1)
    assert cache.remedy() == "a larger --data.cache_gb keeps more shards on a local disk"
