"""What a run says of the store that it reads from: fields of its records, and lines in its log.

Planted, each seen to fail: counts of all windows; fields for a local split; a line without retries; hits of
all windows; a line a log line; storage that is named though all is kept, or nothing was asked of it.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.pipeline.tars.counted_place import CountedPlace
from tests.runs import config_for, quiet, records
from tests.waiting import wait_until

from turbomim.benchmarks.stores.fault_proxy import fault_proxy
from turbomim.benchmarks.stores.faults import Fault, first
from turbomim.benchmarks.stores.weed import Weed
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.places import retries
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.retries import QUIET, TRAFFIC
from turbomim.pipeline.tars.fill_cache import CacheFiller
from turbomim.pipeline.tars.shard_cache import ShardCache
from turbomim.pipeline.tars.split import Split
from turbomim.train.loop.data import slow_stage
from turbomim.train.loop.storage import StorageWindow
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.world.distributed import World


@pytest.fixture
def remote(tiny_split: Split, s3: str) -> Split:
    """`tiny_split`, as if it were in a store."""
    return dataclasses.replace(tiny_split, place=open_place(s3), tars=open_place(s3))


def test_a_window_counts_its_own(remote: Split, tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: now))
    # else another test's line was the last for ten seconds
    monkeypatch.setattr(TRAFFIC, "_told", float("-inf"))
    world = World(device=torch.device("cpu"))
    window = StorageWindow(split=remote, world=world)
    assert window.retried() == ""
    TRAFFIC.answered(700)
    TRAFFIC.answered(300)
    for cause in ("no answer in time", "the store answered 500", "no answer in time"):
        TRAFFIC.failed(cause, "s3://b/x.tar (bytes 0 to 9)")
    assert window.record() == {"storage_requests": 2, "storage_bytes": 1000, "storage_retries": 3}
    assert window.retried() == (
        "storage: 3 tried again since the last such line (2 x no answer in time, 1 x the store answered "
        "500), the last s3://b/x.tar (bytes 0 to 9)"
    )
    assert window.next().record() == {"storage_requests": 0, "storage_bytes": 0, "storage_retries": 0}
    # what follows is said with the next line
    window = window.next()
    assert window.retried() == ""
    TRAFFIC.failed("no answer in time", "s3://b/y.tar")
    now += QUIET - 1
    assert window.retried() == ""
    window, now = window.next(), now + 1
    assert window.retried() == (
        "storage: 1 tried again since the last such line (1 x no answer in time), the last s3://b/y.tar"
    )
    assert StorageWindow(split=tiny_split, world=world).record() == {}


def with_cache(split: Split, folder: Path, space: int) -> tuple[Split, ShardCache]:
    tars = CountedPlace(split.folder)
    versions = [""] * len(split.manifest.shards)
    cache = ShardCache(folder, space, place=tars, manifest=split.manifest, versions=versions)
    return dataclasses.replace(split, place=tars, tars=tars, cache=cache), cache


def test_a_window_counts_hits(tiny_split: Split, tmp_path: Path) -> None:
    """The share of the samples that came from the cache; none where nothing was read."""
    split, cache = with_cache(tiny_split, tmp_path, 10**9)
    window = StorageWindow(split=split, world=World(device=torch.device("cpu")))
    assert window.record()["cache_hit_pct"] is None
    cache.stats.hits, cache.stats.misses = 3, 1
    assert window.record()["cache_hit_pct"] == 75
    window = window.next()
    assert window.record()["cache_hit_pct"] is None
    cache.stats.misses += 5
    assert window.record()["cache_hit_pct"] == 0


WAITED = {
    "data_wait_pct": 40,
    "read_wait_pct": 35,
    "decode_wait_pct": 1,
    "augment_wait_pct": 0,
    "step_ms": 500,
    "window": 4,
    "storage_requests": 24,
    "storage_bytes": 68_000_000,
    "storage_retries": 3,
}


def test_what_helps_where_there_is_a_cache(tiny_split: Split, tmp_path: Path) -> None:
    """More space only where that lacks; where the disk has all, or nothing was asked for, another stage."""
    speed, world = LoaderSpeed(threads=99), World(device=torch.device("cpu"))
    small, _ = with_cache(tiny_split, tmp_path, 1)
    text = slow_stage(WAITED, small, speed, world) or ""
    assert "most for storage: far://" in text and text.endswith(
        "3 tried again; a larger --data.cache_gb keeps more shards on a local disk"
    )
    split, cache = with_cache(tiny_split, tmp_path, 10**9)
    assert (slow_stage(WAITED, split, speed, world) or "").endswith("; the cache is not full yet")
    own = "40 % of the time was spent waiting for data, most for reading: `turbomim tune loader --data far://"
    down = WAITED | {"storage_requests": 0}
    assert "0 requests a second, 34 MB/s, 3 tried again" in (slow_stage(down, split, speed, world) or "")
    silent = down | {"storage_retries": 0}
    assert (slow_stage(silent, split, speed, world) or "").startswith(own)
    with CacheFiller(cache, notify=lambda _: None):
        wait_until(lambda: next(cache.missing(), None) is None)
    assert (slow_stage(WAITED, split, speed, world) or "").startswith(own)


def test_storage_is_named_where_steps_wait_for_it(remote: Split, s3: str) -> None:
    world = World(device=torch.device("cpu"))
    assert slow_stage(WAITED, remote, LoaderSpeed(threads=99), world) == (
        f"40 % of the time was spent waiting for data, most for storage: {s3}: 12 requests a second, "
        "34 MB/s, 3 tried again; --data.cache FOLDER --data.cache_gb N keeps shards on a local disk"
    )
    down = WAITED | {"storage_requests": 1, "storage_retries": 85}
    text = slow_stage(down, remote, LoaderSpeed(threads=99), world) or ""
    assert text.endswith("85 tried again; it failed, and lines about it say why")
    decoding = WAITED | {"read_wait_pct": 1, "decode_wait_pct": 35}
    assert "most for decoding" in (slow_stage(decoding, remote, LoaderSpeed(threads=99), world) or "")


def test_a_run_tells_of_its_store(
    store: Weed, s3: str, tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_place(s3)
    for path in sorted(tiny_split.folder.iterdir()):
        place.put(path.name, path)
    config = config_for(Path(), tmp_path, data={"path": s3}, optim={"epochs": 1})
    with fault_proxy(store.endpoint, first(1, Fault.SLOW_DOWN, below=".tar")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        # else one line in ten seconds
        monkeypatch.setattr(retries, "QUIET", 0)
        pretrain(config, console=quiet())
        failed = proxy.injected.total()
    found = records(tmp_path / "r")
    assert failed >= sum(record["storage_retries"] for record in found) > 0
    assert sum(record["storage_requests"] for record in found) > 0
    assert sum(record["storage_bytes"] for record in found) > tiny_split.manifest.bytes // 4
    lines = (tmp_path / "r" / "train.log").read_text()
    assert "x the store answered 503 SlowDown), the last s3://" in lines
    # the line of the request itself
    assert "the store answered 503 SlowDown, 0.0 s so far; tried again" in lines
    local = config_for(tiny_split.folder, tmp_path / "local", optim={"epochs": 1})
    pretrain(local, console=quiet())
    assert not [name for record in records(tmp_path / "local" / "r") for name in record if "storage" in name]
