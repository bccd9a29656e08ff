"""Encoded images to what a store keeps: the deterministic half of the simple resized crop, done once.

The decoder, the sides and the resize are the loader's.
Shape suffixes: B batch, C channels, H W pixels.
"""

import importlib.metadata
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features

from turbomim.pipeline.decoding.crop_draws import resized_sides
from turbomim.pipeline.decoding.header import MAX_PIXELS
from turbomim.pipeline.decoding.ppm import ppm_bytes
from turbomim.pipeline.decoding.resize import resize
from turbomim.pipeline.making.image_file import EncodedImage, RefusedImage, decode_or_refuse
from turbomim.pipeline.tars.store import Store

# of libjpeg
MAX_JPEG_SIDE = 65_500


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as there is a process for each core, and the caller's number afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def transcode(image: EncodedImage, store: Store, *, strict: bool) -> EncodedImage:
    """Return what the store keeps of an image; equal bytes give equal bytes.

    strict: refuse, too, a JPEG that libjpeg only warns of.  Raises RefusedImage if nothing is kept.
    """
    pixels_HWC = decode_or_refuse(image.content, strict=strict)
    if store.kind == "original":
        return image
    return replace(store_pixels(pixels_HWC, store), levels=image.levels, altered=image.altered)


def store_pixels(pixels_HWC: NDArray[np.uint8], store: Store) -> EncodedImage:
    """Resize and encode an image, (H, W, 3) uint8 RGB, for a resized or raw store.

    Raises RefusedImage if its sides after the resize are too long.
    """
    resized_HWC = resize_for(pixels_HWC, store)
    if store.kind == "raw":
        return EncodedImage(content=ppm_bytes(resized_HWC), extension="ppm")
    assert store.quality is not None
    out = io.BytesIO()
    sampling = {"4:4:4": 0, "4:2:0": 2}[store.subsampling or "4:4:4"]
    Image.fromarray(resized_HWC).save(out, "JPEG", quality=store.quality, subsampling=sampling)
    return EncodedImage(content=out.getvalue(), extension="jpg")


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
    versions = {name: importlib.metadata.version(name) for name in ("simplejpeg", "pillow", "torch")}
    if store.kind == "resized":
        versions["libjpeg_turbo"] = str(features.version("libjpeg_turbo"))
    return versions
