"""The DALI graph: photographs, encoded or decoded, to uint8 crops, on a GPU or on the host.

One of the crops of crop_graphs.py, and a flip with probability 0.5.  Only a GPU's graph decodes ("mixed"),
what `check_header` admits; for every other the host does (decode.py).  EXIF orientation is ignored.
Shape suffixes: B samples, H W pixels, C channels.
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import Inputs
from turbomim.pipeline.decoding.crop_graphs import GRAPHS, STORED_GRAPHS
from turbomim.pipeline.decoding.dali_package import import_dali
from turbomim.pipeline.decoding.decode import BadImages, Pixels, decode_or_say, find_undecodable
from turbomim.pipeline.decoding.failures import DeviceFault, failure_reason, of_machine
from turbomim.pipeline.tars.store import Kind

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.pipeline import Pipeline

# an extended WebP: a byte of flags after the header of its first chunk, VP8X
WEBP_FLAGS: Final = 20
WEBP_EXIF: Final = np.uint8(8)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuDecoding:
    """What only "mixed" uses. hw_decoder_load: share of the JPEGs for the hardware engine, 0 to 1.

    height, width: pixels for which the engine's memory is taken at the start; a larger image takes more then.
    """

    hw_decoder_load: float = 0.65
    height: int = 0
    width: int = 0


class CropGraph:
    """Batches of crops in order, a few under way.

    device: "cpu", or "cuda" for torch's current device, where it resizes; encoded: a "cuda" graph decodes,
    too, with these settings.  batch: samples of a run; threads: DALI's own; prefetch: runs in flight.
    """

    def __init__(
        self,
        crop: Crop,
        *,
        store: Kind = "original",
        batch: int,
        device: str,
        encoded: GpuDecoding | None = None,
        threads: int,
        prefetch: int,
    ) -> None:
        fn = import_dali().fn
        self._device = device
        self.prefetch = prefetch
        self._fed = 0
        on_gpu = device == "cuda"
        self._pipeline = _empty_pipeline(batch=batch, device=device, threads=threads, prefetch=prefetch)
        with self._pipeline:
            pixels = fn.external_source(name="images", no_copy=True, layout=None if encoded else "HWC")
            flips = fn.external_source(name="flips", no_copy=True)
            if encoded is not None:
                pixels = decode_node(pixels, encoded)
            graphs = GRAPHS if store == "original" else STORED_GRAPHS
            # windows and flips are CPU nodes on both backends: no run waits for the GPU
            crops = graphs[crop.kind](pixels, crop, "gpu" if on_gpu else "cpu")
            self._pipeline.set_outputs(fn.flip(crops, horizontal=flips))
        self._pipeline.build()

    def feed(self, images: list[NDArray[np.uint8]], inputs: Inputs) -> None:
        """Queue the images and the other inputs of one run; runs go on in the background from the
        `prefetch`-th on.

        images: encoded, (bytes,) uint8 each, or pixels, (H, W, 3) uint8 each.  Nothing is copied: DALI holds
        each array until the run has used it.
        """
        self._pipeline.feed_input("images", [without_webp_exif(i) if i.ndim == 1 else i for i in images])
        for name, array in inputs.items():
            self._pipeline.feed_input(name, array)
        self._fed += 1
        # the first call starts `prefetch` runs, which must be fed by then; every other call starts one
        if self._fed >= self.prefetch:
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


class DecodedGraph:
    """A graph of pixels that the host decodes: batches in order, as many under way as the graph takes.

    graph: of pixels; threads: that decode.
    """

    def __init__(self, graph: CropGraph, *, threads: int) -> None:
        self._graph = graph
        self._prefetch = graph.prefetch
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="turbomim-decode")
        self._decoding: deque[tuple[list[Future[Pixels | str]], Inputs]] = deque()
        # of the graph: runs fed and not taken, and whether it has enough of them to run
        self._fed = 0
        self._begun = False

    def feed(self, images: list[Pixels], inputs: Inputs, *, again: bool = False) -> None:
        """Begin to decode a batch; again: in the place of the one that failed."""
        batch = [self._pool.submit(decode_or_say, image) for image in images], inputs
        if again:
            self._decoding[0] = batch
        else:
            self._decoding.append(batch)

    def take(self) -> Tensor:
        """Wait for the oldest batch, as `CropGraph.take` does.  Raises BadImages where an image is bad."""
        # the graph starts when all of its runs are fed
        while self._fed < (1 if self._begun else self._prefetch):
            self._feed_decoded()
        while (
            self._decoding and self._fed < self._prefetch and all(one.done() for one in self._decoding[0][0])
        ):
            self._feed_decoded()
        images_BHWC = self._graph.take()
        self._fed -= 1
        return images_BHWC

    def close(self) -> None:
        """Drop what is under way, end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _feed_decoded(self) -> None:
        futures, inputs = self._decoding[0]
        images: list[Pixels] = []
        reasons: dict[int, str] = {}
        for place, future in enumerate(futures):
            result = future.result()
            if isinstance(result, str):
                reasons[place] = result
            else:
                images.append(result)
        if reasons:
            raise BadImages(reasons, behind=self._fed)
        self._decoding.popleft()
        self._graph.feed(images, inputs)
        self._fed += 1
        self._begun = self._begun or self._fed == self._prefetch


def find_undecodable_on_gpu(images: list[NDArray[np.uint8]], *, threads: int) -> dict[int, str]:
    """Return place and decoder's message of each encoded image that a GPU does not decode even alone.

    By halving: DALI gives up a whole batch for one bad image and does not always say which.
    Raises RuntimeError or MemoryError for what is no image's fault, see failures.py: also where it
    decodes none of several images, and the CPU some of them.
    """
    fn = import_dali().fn

    def search(places: range) -> dict[int, str]:
        # a pipeline that failed is not used again: DALI calls it no longer valid
        pipeline = _empty_pipeline(batch=len(places), device="cuda", threads=threads, prefetch=1)
        with pipeline:
            encoded = fn.external_source(name="images", no_copy=True)
            pipeline.set_outputs(decode_node(encoded, GpuDecoding()))
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
    if len(found) == len(images) > 1:
        on_cpu = len(images) - len(find_undecodable(images))
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


def decode_node(encoded: DataNode, gpu: GpuDecoding, backend: str = "mixed") -> DataNode:
    """Define the decoding of encoded images to (H, W, 3) uint8 RGB.  "mixed" leaves the pixels on the GPU."""
    return image_decoder()(
        encoded,
        device=backend,
        hw_decoder_load=gpu.hw_decoder_load,
        preallocate_height_hint=gpu.height,
        preallocate_width_hint=gpu.width,
        output_type=import_dali().types.RGB,
        adjust_orientation=False,
        # the chroma interpolation of libjpeg, which nvJPEG otherwise skips
        jpeg_fancy_upsampling=True,
    )


def image_decoder() -> Callable[..., DataNode]:
    """Return DALI's operator over nvImageCodec, which can ignore an orientation: experimental before 2.2."""
    dali = import_dali()
    early = tuple(map(int, dali.__version__.split(".")[:2])) < (2, 2)
    decoder: Callable[..., DataNode] = (dali.fn.experimental if early else dali.fn).decoders.image
    return decoder


def without_webp_exif(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image, or if it is a WebP that announces EXIF a copy that does not.

    On its way to the EXIF, nvImageCodec 0.9 forgets the padding of chunks of odd size, and fails there.
    """
    if image[8:16].tobytes() != b"WEBPVP8X" or not (image[WEBP_FLAGS : WEBP_FLAGS + 1] & WEBP_EXIF).any():
        return image
    image = image.copy()
    image[WEBP_FLAGS] &= ~WEBP_EXIF
    return image
