"""DALI's own webdataset reader on our shards, and the work as its documentation writes it.

Index files, memory-mapped tars (the default) and zero-copy output are its documented settings; one thread a
core.  Source: docs.nvidia.com/deeplearning/dali, fn.readers.webdataset and "Performance Tuning".
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from turbomim.benchmarks.loader.job import Job
from turbomim.pipeline.decoding.dali import image_decoder

PACKAGE = "nvidia.dali"
READS = "shards"


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    from nvidia.dali.pipeline import Pipeline

    on_gpu = job.device == "cuda"
    pipeline = Pipeline(
        batch_size=job.batch,
        num_threads=job.workers or job.cores,
        device_id=0 if on_gpu else None,
        prefetch_queue_depth=2,
    )
    with pipeline:
        pipeline.set_outputs(_graph(job))
    pipeline.build()
    while True:
        (images,) = pipeline.run(torch.cuda.current_stream() if on_gpu else None)
        yield from_dlpack(images.as_tensor())


def _graph(job: Job) -> Any:
    """Read, decode, resize the short side, a window that may lie 4 pixels outside, flip."""
    from nvidia.dali import fn
    from nvidia.dali.types import DALIDataType, DALIInterpType

    tars = sorted(job.folder.glob("*.tar"))
    encoded: Any = fn.readers.webdataset(
        paths=[str(path) for path in tars],
        index_paths=[str(path.with_suffix(".idx")) for path in tars],
        ext=["jpg"],
        random_shuffle=job.train,
        name="tars",
    )
    pixels: Any = image_decoder()(
        encoded, device="mixed" if job.device == "cuda" else "cpu", adjust_orientation=False
    )
    original = pixels.shape()[:2]
    # resize_shorter would round the long side to nearest, the others round it down
    sides = original * job.size // fn.reductions.min(original)
    pixels = fn.resize(
        pixels,
        size=fn.cast(sides, dtype=DALIDataType.FLOAT),
        interp_type=DALIInterpType.INTERP_CUBIC,
        antialias=True,
    )
    free = sides - job.size
    start: Any = free // 2
    flip: Any = 0
    if job.train:
        start = (
            fn.cast(fn.random.uniform(range=[0.0, 1.0], shape=[2]) * (free + 9), dtype=DALIDataType.INT32) - 4
        )
        flip = fn.random.coin_flip()
    window = fn.slice(
        pixels,
        start=fn.cast(start, dtype=DALIDataType.INT32),
        shape=[job.size, job.size],
        axes=[0, 1],
        out_of_bounds_policy="reflect_101",
    )
    return fn.flip(window, horizontal=flip)
