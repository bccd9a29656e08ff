"""Samples that come out of a cache of shards: the same, as many as are kept, and no byte more from the store.

Planted bugs that fail here: a shard that is kept and fetched all the same, a hit that is counted a request,
bytes of a file that was changed.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pipeline.tars.caches import filled
from tests.pipeline.tars.counted_place import CountedPlace

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, turns
from turbomim.pipeline.tars.shard_cache import ShardCache
from turbomim.pipeline.tars.split import Split, open_split

SHARDS, SAMPLES, BATCH = 8, 20, 16


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """A split of equal shards, of images that are far apart within a shard or near each other."""
    photos = tmp_path_factory.mktemp("photos") / "grey"
    photos.mkdir()
    for number in range(SHARDS * SAMPLES):
        side = 40 if number % 3 else 100
        noise = np.random.default_rng(number).integers(0, 256, (side, side), np.uint8)
        Image.fromarray(noise).save(photos / f"{number:03d}.png")
    folder = tmp_path_factory.mktemp("shards") / "grey"
    make_shards(photos, folder, ShardSettings(shard_size=SAMPLES))
    return open_split(folder)


@pytest.fixture
def far(local: Split) -> Split:
    """The same in what passes for a store of objects."""
    return replace(local, tars=CountedPlace(local.folder))


@contextmanager
def with_cache(split: Split, folder: Path, shards: int) -> Iterator[tuple[Split, ShardCache]]:
    """A split with a cache that has its first so many shards."""
    with filled(split, folder, shards) as cache:
        yield replace(split, cache=cache), cache


def fetched(split: Split) -> Counter[str]:
    """Bytes that were read of the place so far, by file."""
    assert isinstance(split.tars, CountedPlace)
    return split.tars.bytes


def epochs(split: Split, count: int) -> Iterator[list[tuple[int, bytes, int]]]:
    """Id, image and label of each sample, an epoch at a time."""
    batches = SHARDS * SAMPLES // BATCH
    cut = BatchCut(global_batch=BATCH, micro_batch=BATCH, rank=0, world=1, start=0)
    order = turns(SampleStream(seed=1, cut=cut), [shard.samples for shard in split.manifest.shards])
    limited = (turn for turn, _ in zip(order, range(count * batches), strict=False))
    with ReadAhead(split, limited, readers=1, prefetch=1) as reads:
        for _ in range(count):
            samples = list[tuple[int, bytes, int]]()
            for _ in range(batches):
                turn, read = next(reads)
                images = (image.tobytes() for image in read.images)
                samples += zip(turn.ids_B.tolist(), images, read.labels_B.tolist(), strict=True)
            yield samples


@pytest.mark.parametrize("quarters", range(5))
def test_hits_are_the_share_that_is_kept(quarters: int, local: Split, far: Split, tmp_path: Path) -> None:
    kept = SHARDS * quarters // 4
    shards = local.manifest.shards
    expected = [*epochs(local, 2)]
    assert len({number for number, _, _ in expected[1]}) == SHARDS * SAMPLES, "every sample once an epoch"
    with with_cache(far, tmp_path, kept) as (split, cache):
        assert fetched(far) == {shard.name: shard.bytes for shard in shards[:kept]}
        assert [*epochs(split, 2)] == expected
    assert cache.stats.hits + cache.stats.misses == 2 * SHARDS * SAMPLES
    assert cache.stats.hits == 2 * SHARDS * SAMPLES * quarters // 4, "to the sample"
    # nothing more of what is kept, and of the rest what is read without a cache
    bare = replace(local, tars=CountedPlace(local.folder))
    assert [*epochs(bare, 2)] == expected
    without = fetched(bare)
    assert fetched(far) == {s.name: s.bytes if n < kept else without[s.name] for n, s in enumerate(shards)}


def test_the_second_epoch_fetches_what_is_not_kept(far: Split, local: Split, tmp_path: Path) -> None:
    """(1 - share) of what is used, and what lies between neighbours that are one request."""
    index = local.index
    used_N = index.image_offset_N + index.image_bytes_N - index.offset_N
    missing = used_N[index.shard_N >= 2].sum()
    with with_cache(far, tmp_path, 2) as (split, _):
        totals = [fetched(far).total()]
        for _ in epochs(split, 2):
            totals.append(fetched(far).total())
    # what is read ahead belongs to either epoch; a sample that both want at once is read once
    assert 0.99 <= (totals[2] - totals[0]) / (2 * missing) <= 1.02


def test_what_was_changed_is_never_handed_out(far: Split, local: Split, tmp_path: Path) -> None:
    ids = np.arange(SHARDS * SAMPLES)
    with ShardFiles(local) as files:
        expected = [image.tobytes() for image in read_samples(local, files, ids).images]
    with with_cache(far, tmp_path, SHARDS) as (split, cache), ShardFiles(split) as files:

        def read() -> list[bytes]:
            return [image.tobytes() for image in read_samples(split, files, ids).images]

        assert read() == expected
        # pixels, so that every header stays as it is
        for shard in (1, 3):
            first = int(np.flatnonzero(local.index.shard_N == shard)[0])
            with open(cache.file(shard), "r+b") as tar:
                tar.seek(int(local.index.image_offset_N[first]) + 60)
                tar.write(b"\7" * 10)
        os.truncate(cache.file(5), 1000)
        cache.file(6).unlink()
        assert read() == expected
        assert cache.stats.misses == 4 * SAMPLES
        cache.look()
        assert read() == expected
