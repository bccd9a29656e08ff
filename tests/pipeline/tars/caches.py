"""Caches of a few small shards, for tests: made, filled and read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from tests.waiting import wait_until

from turbomim.pipeline.places.place import Place
from turbomim.pipeline.tars.fill_cache import CacheFiller
from turbomim.pipeline.tars.manifest import Manifest, Shard, fingerprint_of
from turbomim.pipeline.tars.shard_cache import ShardCache
from turbomim.pipeline.tars.split import Split

SHARDS, BYTES = 8, 200_000


PARTS = 1 << 16


def content_of(number: int, seed: int = 0) -> bytes:
    return np.random.default_rng((seed, number)).bytes(BYTES)


def manifest_of(contents: list[bytes]) -> Manifest:
    shards = tuple(
        Shard(name=f"x-{n:06d}.tar", samples=10, bytes=len(c), sha256=hashlib.sha256(c).hexdigest())
        for n, c in enumerate(contents)
    )
    return Manifest(
        name="x", split="train", shards=shards, classes=(), fingerprint=fingerprint_of(shards), made={}
    )


def write_shards(folder: Path, seed: int = 0) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    contents = [content_of(number, seed) for number in range(SHARDS)]
    manifest = manifest_of(contents)
    for shard, content in zip(manifest.shards, contents, strict=True):
        (folder / shard.name).write_bytes(content)
    return manifest


def cache_of(folder: Path, place: Place, manifest: Manifest, shards: float = SHARDS) -> ShardCache:
    """A cache with space for so many shards."""
    versions = [""] * len(manifest.shards)
    return ShardCache(folder, int(shards * BYTES), place=place, manifest=manifest, versions=versions)


def kept(cache: ShardCache) -> list[int]:
    return [shard for shard in range(len(cache.manifest.shards)) if cache.path(shard) is not None]


def filled(split: Split, folder: Path, shards: int) -> ShardCache:
    """A cache that has a split's first so many shards, and no space for more."""
    space = sum(shard.bytes for shard in split.manifest.shards[:shards])
    cache = ShardCache(folder, space, place=split.tars, manifest=split.manifest, versions=split.versions)
    said = list[str]()
    with CacheFiller(cache, notify=said.append):
        wait_until(lambda: said or not shards)
    return cache


def fill(cache: ShardCache, shards: int, said: list[str] | None = None) -> None:
    """Fill a cache until it has so many shards."""
    notes = [] if said is None else said
    with CacheFiller(cache, notify=notes.append):
        wait_until(lambda: len(kept(cache)) == shards)
        wait_until(lambda: any("samples" in note for note in notes))


def read(cache: ShardCache, shard: int, offset: int = 0, size: int = BYTES) -> bytes | None:
    buffer = bytearray(size)
    return bytes(buffer) if cache.read_into(shard, memoryview(buffer), offset) else None


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))
