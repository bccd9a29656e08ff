"""Encoded photographs to pixels: the one decoder behind the loader, the stores and the checks.

One rule on every backend: 8 bits, RGB, the first frame, EXIF orientation ignored, as nvImageCodec decodes.
Shape suffixes: H W pixels, C channels.
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.dali_package import import_dali
from turbomim.pipeline.decode_error import failure_reason, no_image_to_blame, of_machine

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.pipeline import Pipeline

Backend = Literal["cpu", "mixed"]
BACKENDS: tuple[Backend, ...] = ("cpu", "mixed")

# an extended WebP: a byte of flags after the header of its first chunk, VP8X
WEBP_FLAGS: Final = 20
WEBP_EXIF: Final = np.uint8(8)

MORE_MEMORY: Final = "use fewer workers or threads, or give this process more"


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuDecoding:
    """What only "mixed" uses. hw_decoder_load: share of the JPEGs for the hardware engine, 0 to 1.

    height, width: pixels for which the engine's memory is taken at the start; a larger image takes more then.
    """

    hw_decoder_load: float = 0.65
    height: int = 0
    width: int = 0


def decode_node(encoded: DataNode, backend: Backend, gpu: GpuDecoding | None = None) -> DataNode:
    """Define the decoding of encoded images to (H, W, 3) uint8 RGB.  "mixed" leaves the pixels on the GPU."""
    gpu = gpu or GpuDecoding()
    return image_decoder()(
        encoded,
        device=backend,
        hw_decoder_load=gpu.hw_decoder_load,
        preallocate_height_hint=gpu.height,
        preallocate_width_hint=gpu.width,
        output_type=import_dali().types.RGB,
        adjust_orientation=False,
        # the chroma interpolation of libjpeg, which nvJPEG otherwise skips; the CPU decoder always does it
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


def decoding_pipeline(*, batch: int, threads: int, prefetch: int) -> Pipeline:
    """Build the graph that only decodes, on the CPU: from `images`, encoded, to pixels of any sides."""
    dali = import_dali()
    pipeline: Pipeline = dali.Pipeline(
        batch_size=batch, num_threads=threads, device_id=None, prefetch_queue_depth=prefetch
    )
    with pipeline:
        encoded = dali.fn.external_source(name="images", no_copy=True)
        pipeline.set_outputs(decode_node(encoded, "cpu"))
    pipeline.build()
    return pipeline


class Decoder:
    """Decodes images on the CPU, some at a time; one that cannot be decoded harms no other."""

    def __init__(self, *, threads: int = 1, batch: int = 16) -> None:
        self._batch = batch
        self._pipeline = decoding_pipeline(batch=batch, threads=threads, prefetch=1)

    def decode(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8] | str]:
        """Return the pixels of each image, (H, W, 3) uint8 RGB, or the reason why it has none.

        images: encoded, (bytes,) uint8 each.  Raises UserError if memory ran out, even for one image alone.
        """
        results: list[NDArray[np.uint8] | str] = []
        for start in range(0, len(images), self._batch):
            some = images[start : start + self._batch]
            try:
                results += self._run(some)
            except (RuntimeError, MemoryError):
                # DALI gives up the whole batch for one bad image and does not always say which
                results += [self._run_alone(image) for image in some]
        return results

    def _run(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        self._pipeline.feed_input("images", [without_webp_exif(image) for image in images])
        (pixels,) = self._pipeline.run()
        # the memory goes back to DALI with its output
        return [np.array(pixels[place]) for place in range(len(images))]

    def _run_alone(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | str:
        with no_image_to_blame(f"an image of {len(image):,} bytes could not be decoded", MORE_MEMORY):
            try:
                return self._run([image])[0]
            except RuntimeError as error:
                if of_machine(error):
                    raise
                return failure_reason(error)
