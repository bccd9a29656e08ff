"""Who takes part: readers of one set of photographs, from a folder and from S3.

Each is a function of a ReadJob that gives an epoch of batches whenever it is asked; what it needs is imported
there.  All decode and crop with what they have in `bench loader`.
"""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from turbomim.benchmarks.loader.job import Job, worker_options
from turbomim.benchmarks.loader.peers.torchvision_io import bytes_transform, chain
from turbomim.benchmarks.stores.job import ReadJob
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.system.errors import to_stderr
from turbomim.pipeline.tars.fill_cache import CacheFiller
from turbomim.pipeline.tars.shard_cache import ShardCache
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.loop.shares import filling

Epochs = Iterator[Iterator[Tensor]]

SEED: Final = 0
# AWS's own tool is another Python a shard
CURL: Final = (
    "pipe:curl -s -f --aws-sigv4 aws:amz:$AWS_REGION:s3 --user $AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY "
    "{endpoint}/{key}"
)


def open_for(job: ReadJob) -> Split:
    """Open our shards, with a cache for the first `kept` of them."""
    split = open_split(job.where)
    if not job.kept:
        return split
    space = sum(shard.bytes for shard in split.manifest.shards[: job.kept])
    cache = ShardCache(
        Path(job.cache), space, place=split.tars, manifest=split.manifest, versions=split.versions
    )
    return replace(split, cache=cache)


def fill_cache(job: ReadJob) -> None:
    """Fill the cache of a job."""
    cache = open_for(job).cache
    assert cache is not None
    with cache, CacheFiller(cache):
        while any(cache.path(shard) is None for shard in range(job.kept)):
            time.sleep(0.05)


def loader_job(job: ReadJob) -> Job:
    """What the peers of `bench loader` are told."""
    return Job(folder=Path(), cores=job.cores, batch=job.batch, size=job.side)


def stream_of(job: ReadJob) -> SampleStream:
    """The order of our epochs."""
    cut = BatchCut(global_batch=job.batch, micro_batch=job.batch)
    if job.window:
        return SampleStream(seed=SEED, shuffle="window", window=job.window, cut=cut)
    return SampleStream(seed=SEED, cut=cut)


def ours(job: ReadJob) -> Epochs:
    """Our loader, and what fills its cache beside it."""
    speed = LoaderSpeed(threads=job.cores, readers=1 if not job.server else 2, prefetch=3)
    split = open_for(job)
    with (
        filling(split, to_stderr),
        Loader(split, Crop(size=job.side), stream_of(job), speed, BadSampleLimits()) as loader,
    ):
        while True:
            yield (batch.images_BHWC for batch in itertools.islice(loader, job.samples // job.batch))


def webdataset(job: ReadJob) -> Epochs:
    """webdataset, which reads our shards whole, each by a pipe from curl: it keeps nothing."""
    import webdataset as wds

    endpoint, key = os.environ["AWS_ENDPOINT_URL"], job.where.removeprefix("s3://")
    names = [shard.name for shard in open_split(job.where).manifest.shards]
    urls = [CURL.format(endpoint=endpoint, key=f"{key}/{name}") for name in names]
    transform = bytes_transform(loader_job(job))
    samples = wds.WebDataset(
        urls, shardshuffle=len(urls), empty_check=False, workersplitter=wds.split_by_worker
    )
    samples = samples.shuffle(1000).to_tuple("jpg").map(lambda sample: transform(sample[0]))
    samples = samples.batched(job.batch, partial=True, collation_fn=torch.stack)
    loader = wds.WebLoader(samples, batch_size=None, **worker_options(loader_job(job)))
    while True:
        yield iter(loader)


def litdata(job: ReadJob) -> Epochs:
    """LitData: chunks of 64 MB, which it keeps in its cache."""
    library: Any = importlib.import_module("litdata")
    crop = chain(loader_job(job))
    data = library.StreamingDataset(
        job.where,
        cache_dir=job.cache,
        shuffle=True,
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        transform=crop,
    )
    # its client of S3, obstore, does not survive a fork
    options = worker_options(loader_job(job)) | {"multiprocessing_context": "spawn"}
    loader = library.StreamingDataLoader(data, batch_size=job.batch, worker_init_fn=_allow_http, **options)
    while True:
        yield iter(loader)


def _allow_http(worker: int) -> None:
    """Let LitData's client take a server without TLS, for which it has no setting."""
    client: Any = importlib.import_module("litdata.streaming.downloader")
    client._OBSTORE_CLIENT_OPTIONS["allow_http"] = True


def mosaic(job: ReadJob) -> Epochs:
    """MosaicML Streaming: its shards of 64 MB, which it keeps in its local folder."""
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    library: Any = importlib.import_module("streaming")
    transform = bytes_transform(loader_job(job))

    class Crops(library.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Tensor:
            tensor: Tensor = transform(super().__getitem__(at)["jpeg"])
            return tensor

    library.base.util.clean_stale_shared_memory()
    data = Crops(remote=job.where, local=job.cache, shuffle=True, batch_size=job.batch)
    loader: Any = torch.utils.data.DataLoader(data, batch_size=job.batch, **worker_options(loader_job(job)))
    while True:
        yield iter(loader)
