"""webdataset on our own shards, which it reads as they are: torchvision's decode and v2 in its workers.

Shards are resampled and batches made in the workers, as its documentation advises for training.
Source: github.com/webdataset/webdataset, README "The WebDataset Format" and "WebLoader".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from turbomim.benchmarks.loader.job import Job, worker_options
from turbomim.benchmarks.loader.peers.torchvision_io import bytes_transform

PACKAGE = "webdataset"
READS = "shards"


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    import webdataset as wds

    tars = [str(path) for path in sorted(job.folder.glob("*.tar"))]
    transform = bytes_transform(job)
    samples = wds.WebDataset(tars, resampled=job.train, shardshuffle=False, empty_check=False)
    if job.train:
        samples = samples.shuffle(1000)
    samples = samples.to_tuple("jpg").map(lambda sample: transform(sample[0]))
    samples = samples.batched(job.batch, partial=False, collation_fn=torch.stack)
    loader = wds.WebLoader(
        samples,
        batch_size=None,
        **worker_options(job),
    )
    return cast(Iterator[Tensor], iter(loader))
