"""The DALI graph: encoded photographs to uint8 crops.  One definition for CPU and GPU.

Simple resized crop ("src"): short side to `size` (bicubic, antialiased), reflect padding of 4, a uniform
integer size x size window, a flip with probability 0.5; EXIF orientation is ignored.  Only the window is
resampled: that is faster, and a panorama takes no more memory than a square.
It follows torchvision's Resize, pad(4, reflect) and crop on PIL images, but does not round and clip between
the two passes of the resize as PIL does, and repeats the photograph's edge where PIL cuts its filter short.
Shape suffixes: B samples, H W pixels, C channels.
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, math
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from turbomim.pipeline.order import Turn
from turbomim.pipeline.philox import CROP, FLIP, draw_u32

PAD: Final = 4

# reflection needs PAD pixels beyond the edge pixel, also where the window lies PAD outside
MIN_SIZE: Final = 2 * PAD + 1

# an extended WebP: a byte of flags after the header of its first chunk, VP8X
WEBP_FLAGS: Final = 20
WEBP_EXIF: Final = np.uint8(8)

Integers = TypeVar("Integers", NDArray[np.int64], DataNode)


def resized_sides(sides: Integers, short: Integers, size: int) -> Integers:
    """Return the sides after the short one is resized to `size`, rounded down as torchvision's Resize does.

    sides: int64, (..., 2) or a DALI node of (2,); short: the smaller of the two, (..., 1) or a node.
    """
    return sides * size // short


def window_starts(words: Integers, sides: Integers, size: int) -> Integers:
    """Return where the window starts on each axis: uniform in [-PAD, side - size + PAD].

    words: int64 in [0, 2**32), one an axis; sides: int64, after the resize; (..., 2) or DALI nodes of (2,).
    """
    return (words * (sides - size + 2 * PAD + 1) >> 32) - PAD


def src_offsets(u32_B2: NDArray[np.uint32], sides_B2: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the (y, x) of each sample's window from its CROP words, (B, 2) int64.

    sides (B, 2) int64: height and width after the resize.  A negative offset lies in the padding.
    """
    return window_starts(u32_B2.astype(np.int64), sides_B2, size)


def draw_src(seed: int, turn: Turn) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Draw the crop words (y, x), (B, 2) int64 in [0, 2**32), and the flips, (B,) int32, of a micro-batch."""
    words_B2 = draw_u32(seed, turn.epochs_B, turn.ids_B, CROP, 2).astype(np.int64)
    flips_B = (draw_u32(seed, turn.epochs_B, turn.ids_B, FLIP, 1)[:, 0] & 1).astype(np.int32)
    return words_B2, flips_B


def build_pipeline(size: int, *, batch: int, device: str, threads: int, prefetch: int) -> Pipeline:
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
        pipeline.set_outputs(_src_graph(size, decoder="mixed" if on_gpu else "cpu"))
    pipeline.build()
    return pipeline


def feed(
    pipeline: Pipeline,
    images: list[NDArray[np.uint8]],
    words_B2: NDArray[np.int64],
    flips_B: NDArray[np.int32],
) -> None:
    """Queue the inputs of one run.  Nothing is copied: DALI holds each array until the run has used it."""
    pipeline.feed_input("images", [_without_webp_exif(image) for image in images])
    pipeline.feed_input("words", words_B2)
    pipeline.feed_input("flips", flips_B)


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


def find_undecodable(images: list[NDArray[np.uint8]], size: int, device: str) -> dict[int, str]:
    """Run the graph on each image alone; return the place and the decoder's message of those that fail."""
    failures = {}
    pipeline = build_pipeline(size, batch=1, device=device, threads=1, prefetch=1)
    for place, image in enumerate(images):
        feed(pipeline, [image], np.zeros((1, 2), np.int64), np.zeros(1, np.int32))
        schedule(pipeline)
        try:
            take(pipeline, device)
        except RuntimeError as error:
            failures[place] = _reason(str(error))
    return failures


def _src_graph(size: int, *, decoder: str) -> DataNode:
    """Define the graph.  Sides, starts and flips are CPU nodes on both backends: no run waits for the GPU."""
    encoded = fn.external_source(name="images", no_copy=True)
    words = fn.external_source(name="words", no_copy=True)
    flips = fn.external_source(name="flips", no_copy=True)
    pixels = fn.decoders.image(
        encoded,
        device=decoder,
        output_type=DALIImageType.RGB,
        adjust_orientation=False,
        # the chroma interpolation of libjpeg, which nvJPEG otherwise skips; the CPU decoder always does it
        jpeg_fancy_upsampling=True,
    )
    original = pixels.shape()[:2]
    sides = resized_sides(original, fn.reductions.min(original), size)
    start = window_starts(words, sides, size)
    first = math.max(start, 0)
    last = math.min(start + size, sides)
    scale = fn.cast(original, dtype=DALIDataType.FLOAT) / fn.cast(sides, dtype=DALIDataType.FLOAT)
    inside = fn.resize(
        pixels,
        size=fn.cast(last - first, dtype=DALIDataType.FLOAT),
        roi_start=first * scale,
        roi_end=last * scale,
        interp_type=DALIInterpType.INTERP_CUBIC,
        antialias=True,
    )
    # typed for sequences of nodes too
    assert isinstance(inside, DataNode)
    window = fn.slice(
        inside,
        start=fn.cast(start - first, dtype=DALIDataType.INT32),
        shape=[size, size],
        axes=[0, 1],
        out_of_bounds_policy="reflect_101",
    )
    return fn.flip(window, horizontal=flips)


def _without_webp_exif(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image, or if it is a WebP that announces EXIF a copy that does not.

    On its way to the EXIF, nvImageCodec 0.9 forgets the padding of chunks of odd size, and fails there.
    """
    if image[8:16].tobytes() != b"WEBPVP8X" or not (image[WEBP_FLAGS : WEBP_FLAGS + 1] & WEBP_EXIF).any():
        return image
    image = image.copy()
    image[WEBP_FLAGS] &= ~WEBP_EXIF
    return image


def _reason(message: str) -> str:
    """Return the line of a DALI error that says what happened."""
    text = message.partition("encountered:")[2] or message
    return next((line.strip(" :") for line in text.splitlines() if line.strip()), "no reason given")
