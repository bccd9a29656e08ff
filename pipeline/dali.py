"""The DALI graph: encoded photographs to uint8 crops.  One definition for CPU and GPU.

Decode, one of the crops of crops.py, and a flip with probability 0.5; EXIF orientation is ignored.
Shape suffixes: B samples, H W pixels, C channels.
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from turbomim.pipeline.crops import GRAPHS, MIN_SIZE, Crop, Inputs, Interpolation
from turbomim.pipeline.decode import Backend, decode_node, failure_reason, without_webp_exif


def build_pipeline(
    crop: Crop,
    size: int,
    *,
    interpolation: Interpolation = "bicubic",
    batch: int,
    device: str,
    threads: int,
    prefetch: int,
) -> Pipeline:
    """Build the graph with its output `images_BHWC`.  device: "cpu", or "cuda" for torch's current device.

    batch: samples of a run; threads: DALI's own; prefetch: runs in flight.  Then `feed`, `schedule`, `take`.
    """
    on_gpu = device == "cuda"
    pipeline = Pipeline(
        batch_size=batch,
        num_threads=threads,
        device_id=torch.cuda.current_device() if on_gpu else None,
        prefetch_queue_depth=prefetch,
    )
    with pipeline:
        pipeline.set_outputs(_graph(crop, size, interpolation, decoder="mixed" if on_gpu else "cpu"))
    pipeline.build()
    return pipeline


def feed(pipeline: Pipeline, images: list[NDArray[np.uint8]], inputs: Inputs) -> None:
    """Queue the images and the other inputs of one run.

    Nothing is copied: DALI holds each array until the run has used it.
    """
    pipeline.feed_input("images", [without_webp_exif(image) for image in images])
    for name, array in inputs.items():
        pipeline.feed_input(name, array)


def schedule(pipeline: Pipeline) -> None:
    """Start the next run in the background; the first call starts `prefetch` runs: feed that many before."""
    pipeline.schedule_run()


def take(pipeline: Pipeline, device: str) -> Tensor:
    """Wait for the oldest run; return its images_BHWC, uint8, contiguous, on the device; nothing is copied.

    On a GPU the host does not wait for the pixels: they are ordered on torch's current stream, and so is the
    return of their memory to DALI.  Raises RuntimeError if DALI failed.
    """
    stream = torch.cuda.current_stream() if device == "cuda" else None
    (images,) = pipeline.outputs(stream)
    return from_dlpack(images.as_tensor())


def find_undecodable(images: list[NDArray[np.uint8]], device: str) -> dict[int, str]:
    """Run a small crop of each image alone; return place and decoder's message of those that fail."""
    failures = {}
    inputs: Inputs = {"words": np.zeros((1, 2), np.int64), "flips": np.zeros(1, np.int32)}
    pipeline = build_pipeline("src", MIN_SIZE, batch=1, device=device, threads=1, prefetch=1)
    for place, image in enumerate(images):
        feed(pipeline, [image], inputs)
        schedule(pipeline)
        try:
            take(pipeline, device)
        except RuntimeError as error:
            failures[place] = failure_reason(error)
    return failures


def _graph(crop: Crop, size: int, interpolation: Interpolation, *, decoder: Backend) -> DataNode:
    """Define the graph.  Windows and flips are CPU nodes on both backends: no run waits for the GPU."""
    encoded = fn.external_source(name="images", no_copy=True)
    flips = fn.external_source(name="flips", no_copy=True)
    pixels = decode_node(encoded, decoder)
    return fn.flip(GRAPHS[crop](pixels, size, interpolation), horizontal=flips)
