"""The DALI graph: photographs as stored to uint8 crops; for a CPU, the loader uses it for rrc only.

Decode, one of the crops of crops.py, and a flip with probability 0.5; EXIF orientation is ignored.
Shape suffixes: B samples, H W pixels, C channels.
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from turbomim.pipeline.crops import GRAPHS, STORED_GRAPHS, Crop, Inputs, Interpolation
from turbomim.pipeline.dali_package import import_dali
from turbomim.pipeline.decode import Backend, GpuDecoding, decode_node, without_webp_exif
from turbomim.pipeline.decode_error import DeviceFault, failure_reason, of_machine
from turbomim.pipeline.store import Kind

if TYPE_CHECKING:
    from nvidia.dali.pipeline import Pipeline


class CropGraph:
    """Batches of crops in order, a few under way.

    device: "cpu", or "cuda" for torch's current device; decode: where a "cuda" graph decodes; it resizes on
    the GPU either way; gpu: settings of "mixed".  batch: samples of a run; threads: DALI's own; prefetch:
    runs in flight.
    """

    def __init__(
        self,
        crop: Crop,
        size: int,
        *,
        interpolation: Interpolation = "bicubic",
        store: Kind = "original",
        batch: int,
        device: str,
        decode: Backend = "mixed",
        gpu: GpuDecoding | None = None,
        threads: int,
        prefetch: int,
    ) -> None:
        fn = import_dali().fn
        self._device = device
        on_gpu = device == "cuda"
        self._pipeline = _empty_pipeline(batch=batch, device=device, threads=threads, prefetch=prefetch)
        with self._pipeline:
            stored = fn.external_source(name="images", no_copy=True, layout="HWC" if store == "raw" else None)
            flips = fn.external_source(name="flips", no_copy=True)
            pixels = stored if store == "raw" else decode_node(stored, decode if on_gpu else "cpu", gpu)
            graphs = GRAPHS if store == "original" else STORED_GRAPHS
            # windows and flips are CPU nodes on both backends: no run waits for the GPU
            crops = graphs[crop](pixels, size, interpolation, "gpu" if on_gpu else "cpu")
            self._pipeline.set_outputs(fn.flip(crops, horizontal=flips))
        self._pipeline.build()

    def feed(self, images: list[NDArray[np.uint8]], inputs: Inputs) -> None:
        """Queue the images and the other inputs of one run.

        images: encoded, (bytes,) uint8 each, or for the raw store pixels, (H, W, 3) uint8 each.  Nothing is
        copied: DALI holds each array until the run has used it.
        """
        self._pipeline.feed_input("images", [without_webp_exif(i) if i.ndim == 1 else i for i in images])
        for name, array in inputs.items():
            self._pipeline.feed_input(name, array)

    def schedule(self) -> None:
        """Start the next run in the background; the first call starts `prefetch` runs: feed that many
        before.
        """
        self._pipeline.schedule_run()

    def take(self) -> Tensor:
        """Wait for the oldest run; return its images_BHWC, uint8, contiguous, on the device; nothing is
        copied.

        On a GPU the host does not wait for the pixels: they are ordered on torch's current stream, and so is
        the return of their memory to DALI.  Raises RuntimeError if DALI failed; the graph is of no use then.
        """
        stream = torch.cuda.current_stream() if self._device == "cuda" else None
        (images,) = self._pipeline.outputs(stream)
        return from_dlpack(images.as_tensor())

    def close(self) -> None:
        """Nothing to end: DALI's threads end with the graph."""


def find_undecodable(
    images: list[NDArray[np.uint8]], *, device: str, decode: Backend = "mixed", threads: int
) -> dict[int, str]:
    """Return place and decoder's message of each encoded image that does not decode even alone.

    By halving: DALI gives up a whole batch for one bad image and does not always say which.
    Raises RuntimeError or MemoryError for what is no image's fault, see decode_error.py: also where a GPU
    decodes none of several images, and the CPU some of them.
    """
    fn = import_dali().fn

    def search(places: range) -> dict[int, str]:
        # a pipeline that failed is not used again: DALI calls it no longer valid
        pipeline = _empty_pipeline(batch=len(places), device=device, threads=threads, prefetch=1)
        with pipeline:
            encoded = fn.external_source(name="images", no_copy=True)
            pipeline.set_outputs(decode_node(encoded, decode if device == "cuda" else "cpu"))
        pipeline.build()
        pipeline.feed_input("images", [without_webp_exif(images[place]) for place in places])
        try:
            pipeline.run()
        except RuntimeError as error:
            if of_machine(error):
                raise
            if len(places) == 1:
                return {places[0]: failure_reason(error)}
            middle = len(places) // 2
            return search(places[:middle]) | search(places[middle:])
        return {}

    found = search(range(len(images)))
    if (device, decode) == ("cuda", "mixed") and len(found) == len(images) > 1:
        on_cpu = len(images) - len(find_undecodable(images, device="cpu", threads=threads))
        if on_cpu:
            raise DeviceFault(f"the GPU decodes none of {len(images)} images, the CPU {on_cpu} of them")
    return found


def _empty_pipeline(*, batch: int, device: str, threads: int, prefetch: int) -> Pipeline:
    pipeline: Pipeline = import_dali().Pipeline(
        batch_size=batch,
        num_threads=threads,
        device_id=torch.cuda.current_device() if device == "cuda" else None,
        prefetch_queue_depth=prefetch,
    )
    return pipeline
