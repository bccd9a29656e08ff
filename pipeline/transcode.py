"""Encoded images to what a store keeps: the deterministic half of the simple resized crop, done once.

The decoder, the sides and the resize are the loader's.
Shape suffixes: B batch, C channels, H W pixels.
"""

import importlib.metadata
import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, features

from turbomim.pipeline.crops import resized_sides
from turbomim.pipeline.dali_package import import_dali
from turbomim.pipeline.decode import Decoder
from turbomim.pipeline.header import check_header
from turbomim.pipeline.image_file import EncodedImage, RefusedImage
from turbomim.pipeline.photographs import MAX_PIXELS
from turbomim.pipeline.ppm import ppm_bytes
from turbomim.pipeline.resize import resize
from turbomim.pipeline.store import Store
from turbomim.pipeline.strict import decode_strictly

# of libjpeg
MAX_JPEG_SIDE = 65_500

MAX_REASON = 200


class Transcoder:
    """Makes stored images out of encoded ones, and refuses those that do not decode."""

    def __init__(self, store: Store, *, strict: bool = False) -> None:
        """Make a decoder of its own.  strict: refuse, too, what libjpeg only warns of."""
        self._store, self._strict = store, strict
        self._decoder = Decoder()

    def transcode(self, images: list[EncodedImage]) -> list[EncodedImage | RefusedImage]:
        """Give for each image what the store keeps, or why it keeps nothing; equal bytes give equal bytes."""
        contents = [np.frombuffer(image.content, np.uint8) for image in images]
        problems = [_header_problem(content) for content in contents]
        fit = [content for content, problem in zip(contents, problems, strict=True) if not problem]
        decoded = iter(decode_strictly(self._decoder, fit) if self._strict else self._decoder.decode(fit))
        return [
            self._store_or_refuse(image, problem or next(decoded))
            for image, problem in zip(images, problems, strict=True)
        ]

    def _store_or_refuse(
        self, image: EncodedImage, decoded: NDArray[np.uint8] | str
    ) -> EncodedImage | RefusedImage:
        """Store decoded pixels, or refuse with the reason why there are none."""
        if isinstance(decoded, str):
            return RefusedImage(f"does not decode: {ascii(decoded)[1:-1][:MAX_REASON]}")
        if self._store.kind == "original":
            return image
        try:
            return store_pixels(decoded, self._store)
        except RefusedImage as refused:
            return refused


def store_pixels(pixels_HWC: NDArray[np.uint8], store: Store) -> EncodedImage:
    """Resize and encode an image, (H, W, 3) uint8 RGB, for a resized or raw store.

    Raises RefusedImage if its sides after the resize are too long.
    """
    resized_HWC = resize_for(pixels_HWC, store)
    height, width, _ = resized_HWC.shape
    if store.kind == "raw":
        return EncodedImage(content=ppm_bytes(resized_HWC), extension="ppm", height=height, width=width)
    assert store.quality is not None
    out = io.BytesIO()
    sampling = {"4:4:4": 0, "4:2:0": 2}[store.subsampling or "4:4:4"]
    Image.fromarray(resized_HWC).save(out, "JPEG", quality=store.quality, subsampling=sampling)
    return EncodedImage(content=out.getvalue(), extension="jpg", height=height, width=width)


def resize_for(pixels_HWC: NDArray[np.uint8], store: Store) -> NDArray[np.uint8]:
    """Resize the short side to the store's, the other to the same scale, rounded down.

    Pixels (H, W, 3) uint8 in and out.  Raises RefusedImage for sides that cannot be stored.
    """
    assert store.short_side is not None and store.resampling is not None
    sides = np.array(pixels_HWC.shape[:2])
    height, width = resized_sides(sides, sides.min(), store.short_side).tolist()
    if height * width > MAX_PIXELS or max(height, width) > MAX_JPEG_SIDE:
        raise RefusedImage(
            f"{width} x {height} pixels after the resize, over the limit of {MAX_JPEG_SIDE} a side"
        )
    return resize(pixels_HWC, height, width, store.resampling)


def encoders(store: Store) -> dict[str, str]:
    """Name the library versions that the bytes of a store depend on."""
    versions = {"dali": import_dali().__version__, "torch": importlib.metadata.version("torch")}
    if store.kind == "resized":
        versions |= {"pillow": PIL.__version__, "libjpeg_turbo": str(features.version("libjpeg_turbo"))}
    return versions


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as there is a process for each core, and the caller's number afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _header_problem(content_N: NDArray[np.uint8]) -> str:
    """Say why the loader would not give an image to its decoder; "" if it would."""
    try:
        check_header(content_N)
    except ValueError as error:
        return str(error)
    return ""
