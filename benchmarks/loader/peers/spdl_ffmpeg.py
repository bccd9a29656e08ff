"""SPDL: its pipeline of threads, FFmpeg's decoder and FFmpeg's filters, frames gathered into one batch.

One task decodes one photograph and no tensor is made of it: batches are made of frames, as its guide advises.
Source: facebookresearch.github.io/spdl, "Best Practices" and "Filter Graphs".
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from turbomim.benchmarks.loader.job import Job, Notes, endless, sorted_files

PACKAGE = "spdl.io"
READS = "files"

NOTES: Notes = {
    "original": "FFmpeg's decoder and bicubic, resized in YUV; no reflection: the window stays inside"
}


def filters(width: int, height: int, job: Job) -> str:
    """The work as a graph of FFmpeg filters, for one photograph."""
    short, size = min(width, height), job.size
    wide, high = width * size // short, height * size // short
    x, y = (wide - size) // 2, (high - size) // 2
    flip = ""
    if job.train:
        x, y = random.randint(0, wide - size), random.randint(0, high - size)
        flip = ",hflip" if random.random() < 0.5 else ""
    return f"scale={wide}:{high}:flags=bicubic,format=rgb24,crop={size}:{size}:{x}:{y}{flip}"


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    io: Any = importlib.import_module("spdl.io")
    files = sorted_files(job.folder)

    def decode(index: int) -> Any:
        packets = io.demux_image(files[index].read_bytes())
        return io.decode_packets(packets, filter_desc=filters(packets.width, packets.height, job))

    def gather(frames: list[Any]) -> Tensor:
        tensor: Tensor = io.to_torch(io.convert_frames(frames))
        return tensor

    return threaded(job, decode, gather)


def threaded(
    job: Job, decode: Callable[[int], Any], gather: Callable[[list[Any]], Tensor]
) -> Iterator[Tensor]:
    """Batches by SPDL's pipeline: `decode` of each file's number on many threads, `gather` on one."""
    spdl: Any = importlib.import_module("spdl.pipeline")
    count, threads = len(sorted_files(job.folder)), (job.workers or job.cores) if job.train else 1
    pipeline = (
        spdl.PipelineBuilder()
        .add_source(endless(count, job.train))
        .pipe(decode, concurrency=threads, output_order="completion" if job.train else "input")
        .aggregate(job.batch)
        .pipe(gather)
        .add_sink(3)
        .build(num_threads=threads + 1)
    )
    with pipeline.auto_stop():
        yield from pipeline
