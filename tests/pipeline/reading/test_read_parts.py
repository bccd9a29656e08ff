"""Reads in parts: those that the file system answers so, and requests of which one fails.

Planted, and seen to fail: an error that is raised while other requests still write; a wait for a store that
is told whatever else was told of storage.
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipeline.tars.counted_place import CountedPlace

from turbomim.pipeline.places.retries import Traffic
from turbomim.pipeline.reading import read_ahead
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, turns
from turbomim.pipeline.system import executors
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.pipeline.tars.shard_cache import ShardCache
from turbomim.pipeline.tars.split import Split


def test_a_read_in_parts_is_whole(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from some file systems in user space; the end of the file is still found."""
    files, ids, preadv = ShardFiles(tiny_split), np.arange(33), os.preadv
    expected = read_samples(tiny_split, files, ids)
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:700]], offset))
    found = read_samples(tiny_split, files, ids)
    assert [image.tobytes() for image in found.images] == [image.tobytes() for image in expected.images]
    size = tiny_split.manifest.shards[0].bytes
    assert files.read(0, memoryview(bytearray(3000)), size - 1000) == 1000
    files.close()


class Uneven(CountedPlace):
    """Answers slowly for one shard, and not at all for another."""

    def __init__(self, split: Split, slow: int, failing: int) -> None:
        super().__init__(split.folder)
        self.slow, self.failing = (split.manifest.shards[number].name for number in (slow, failing))
        self.begun = self.written = 0

    def read_into(self, name: str, buffer: memoryview, offset: int, **given: Any) -> int:
        if name == self.failing:
            raise PlaceError("nobody listens there")
        if name == self.slow:
            self.begun += 1
            time.sleep(0.2)
        size = super().read_into(name, buffer, offset, **given)
        self.written += name == self.slow
        return size


@pytest.mark.parametrize("cached", [False, True], ids=["a request", "a file of the cache"])
def test_an_error_waits_for_who_still_writes(
    cached: bool, tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the same memory, which is taken for other reads once nobody looks at it."""
    monkeypatch.setattr(executors, "LOOK", 0.01)
    # requests are made, and heard, in the order of the shards
    slow, failing = (0, 1) if cached else (1, 0)
    place = Uneven(tiny_split, slow, failing)
    split = dataclasses.replace(tiny_split, tars=place)
    if cached:
        versions = [""] * len(split.manifest.shards)
        cache = ShardCache(tmp_path, 0, place=place, manifest=split.manifest, versions=versions)
        cache.refuse(failing, "nobody listens there")
        split = dataclasses.replace(split, cache=cache)
    with ShardFiles(split) as files, pytest.raises(UserError, match="nobody listens there"):
        try:
            read_samples(split, files, np.array([0, 1, 2, 9, 10]))
        finally:
            assert place.begun == place.written > 0


def test_a_wait_for_a_store_is_told_with_the_rest(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in ten seconds says what is wrong with storage, whoever says it."""
    monkeypatch.setattr(read_ahead, "TRAFFIC", Traffic())
    split = dataclasses.replace(tiny_split, tars=CountedPlace(tiny_split.folder, pause=0.3))
    told: list[str] = []
    order = turns(SampleStream(seed=1, cut=BatchCut(global_batch=4, micro_batch=4)), [9, 9, 9, 6])
    with ReadAhead(split, order, readers=1, prefetch=1, on_wait=told.append, wait_s=0.05) as ahead:
        next(ahead)
    assert len(told) == 1 and told[0].startswith("waiting for 'far://")
