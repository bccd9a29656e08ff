"""Files of a cache that change behind its back, and objects that are not the manifest's.

Planted, and seen to fail `test_damage_behind_its_back`: a file that is believed by its name alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
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
    touch,
    write_shards,
)
from tests.pipeline.tars.counted_place import CountedPlace
from tests.waiting import wait_until

from turbomim.pipeline.places import download
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.fill_cache import CacheFiller
from turbomim.pipeline.tars.manifest import Manifest
from turbomim.pipeline.tars.shard_cache import ShardCache


def cut(path: Path) -> None:
    os.truncate(path, BYTES // 2)


def change(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"other")


def exchange(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"\7" * BYTES)
    os.replace(other, path)


def remove(path: Path) -> None:
    path.unlink()


def lose_note(path: Path) -> None:
    path.with_suffix(".ok").unlink()


def other_note(path: Path) -> None:
    path.with_suffix(".ok").write_text("{}")


DAMAGES: dict[Callable[[Path], None], bool] = {
    cut: True,
    change: True,
    exchange: True,
    remove: True,
    touch: False,
    lose_note: False,
    other_note: False,
}


@pytest.mark.parametrize("running", [True, False], ids=["while it is read", "between two runs"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_behind_its_back(
    damage: Callable[[Path], None], running: bool, place: CountedPlace, manifest: Manifest, tmp_path: Path
) -> None:
    cache, said = cache_of(tmp_path, place, manifest), list[str]()
    fill(cache, SHARDS)
    assert read(cache, 5) == content_of(5)
    path = cache.file(5)
    damage(path)
    if not running:
        cache = cache_of(tmp_path, place, manifest)
        assert 5 not in kept(cache)
    # a note that is lost is of no use to who knows it, and needed by the next
    known = running and damage in (lose_note, other_note)
    assert read(cache, 5) == (content_of(5) if known else None)
    with CacheFiller(cache, notify=said.append):
        wait_until(lambda: read(cache, 5) == content_of(5))
        wait_until(lambda: damage not in (cut, change, exchange) or said)
    fetched = DAMAGES[damage]
    assert sum(place.bytes.values()) == (SHARDS + fetched) * BYTES
    if damage in (cut, change, exchange):
        assert said[0] == f"cache: {path} is not as it was fetched: removed, to be fetched again"
    assert kept(cache_of(tmp_path, place, manifest)) == [n for n in range(SHARDS) if n != 5 or not known]


def test_shards_that_nobody_hashed(place: CountedPlace, manifest: Manifest, tmp_path: Path) -> None:
    """Their ETag is the check; what is half there is fetched from the beginning."""
    shards = tuple(replace(shard, sha256="", index_sha256=shard.sha256) for shard in manifest.shards)
    bare = replace(manifest, shards=shards)
    versions = [f"etag-{number}" for number in range(SHARDS)]
    place.versions = dict(zip((shard.name for shard in shards), versions, strict=True))

    def opened() -> ShardCache:
        return ShardCache(tmp_path, SHARDS * 2 * BYTES, place=place, manifest=bare, versions=versions)

    cache = opened()
    download.part_path(cache.file(0)).write_bytes(b"\7" * PARTS)
    fill(cache, SHARDS)
    assert read(cache, 0) == content_of(0)
    touch(cache.file(3))
    versions[5] = place.versions[shards[5].name] = "etag-new"
    again, said = opened(), list[str]()
    assert kept(again) == [0, 1, 2, 4, 6, 7]
    with CacheFiller(again, notify=said.append):
        wait_until(lambda: len(kept(again)) == SHARDS)
    assert place.bytes[shards[3].name] == BYTES and place.bytes[shards[5].name] == 2 * BYTES


def test_another_object_than_the_manifest_s(manifest: Manifest, tmp_path: Path) -> None:
    """It is not kept, and whoever wants a sample of it is told."""
    place = CountedPlace(tmp_path / "far")
    write_shards(tmp_path / "far")
    (tmp_path / "far" / "x-000001.tar").write_bytes(content_of(1, seed=9))
    cache = cache_of(tmp_path / "c", place, manifest)
    with CacheFiller(cache, notify=lambda _: None):
        wait_until(lambda: cache.path(0) and cache.path(2) and cache.path(7))
        with pytest.raises(UserError, match=r"far://far/x-000001.tar: its sha256 is .*, not "):
            cache.path(1)
        time.sleep(0.1)
    assert place.bytes["x-000001.tar"] == BYTES, "once"
    assert not [*cache.own.glob(".*")]


def test_an_object_that_changes_or_goes(manifest: Manifest, tmp_path: Path) -> None:
    place = CountedPlace(tmp_path / "far")
    write_shards(tmp_path / "far")
    place.versions["x-000002.tar"] = "new"
    (tmp_path / "far" / "x-000003.tar").unlink()
    cache = cache_of(tmp_path / "c", place, manifest)
    with CacheFiller(cache, notify=lambda _: None):
        wait_until(lambda: cache.path(7))
    with pytest.raises(UserError, match=r"x-000002.tar: .*was changed since it was opened"):
        cache.path(2)
    with pytest.raises(UserError, match=r"x-000003.tar: No such file"):
        cache.path(3)
