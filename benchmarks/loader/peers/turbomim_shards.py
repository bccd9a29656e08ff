"""Our loader, on shards of the original, the resized and the raw store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from turbomim.benchmarks.loader.job import Job
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.stream.philox import CROP, FLIP, draw_u32
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.tars.split import open_split

PACKAGE = "turbomim"
READS = "shards"

SEED = 0


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`, but shuffled with random windows whatever `train` says: see `drawn`."""
    with _loader(job) as loader:
        for batch in loader:
            yield batch.images_BHWC


def drawn(job: Job) -> tuple[Tensor, NDArray[np.int64], NDArray[np.uint32], NDArray[np.bool_]]:
    """The first batch, and for each picture its sample, the words that place its window, and its flip."""
    with _loader(job) as loader:
        batch = next(loader)
        ids_B, epochs_B = batch.ids_B.cpu().numpy(), batch.epochs_B.cpu().numpy()
        words_B2 = draw_u32(SEED, epochs_B, ids_B, CROP, 2)
        flips_B = (draw_u32(SEED, epochs_B, ids_B, FLIP, 1)[:, 0] & 1).astype(bool)
        return batch.images_BHWC.clone(), ids_B, words_B2, flips_B


def _loader(job: Job) -> Loader:
    return Loader(
        open_split(job.folder),
        Crop(size=job.size),
        SampleStream(seed=SEED, cut=BatchCut(global_batch=job.batch, micro_batch=job.batch)),
        # the best of a few: what lies in the system's cache needs one reader
        LoaderSpeed(threads=job.workers or job.cores, readers=1, prefetch=3, decode=job.decode),
        BadSampleLimits(),
        device=job.device,
    )
