"""Strict decoding: which of the images in a tar are not whole.

The loader's own decoder looks at each, and what libjpeg only warns of counts: of JPEGs with some changed
bytes it paints over most and refuses few.  Pillow refuses none that this does not.  A change that decodes
without a word, in a WebP or in raw pixels nearly every one, shows only in the sha256 of the tar.
Shape suffixes: N bytes.
"""

import os

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.decode import decode_stored
from turbomim.pipeline.tars.store import Kind
from turbomim.pipeline.tars.stored_image import StoredImage


def check_images(descriptor: int, images: list[StoredImage], kind: Kind) -> list[tuple[StoredImage, str]]:
    """Decode images of an open tar.  Returns those that are not whole, and why.

    Raises OSError if the tar cannot be read.
    """
    bad: list[tuple[StoredImage, str]] = []
    for image in images:
        content_N = np.frombuffer(os.pread(descriptor, image.size, image.offset), np.uint8)
        reason = _fault(content_N, image, kind)
        if reason is not None:
            bad.append((image, reason))
    return bad


def _fault(content_N: NDArray[np.uint8], image: StoredImage, kind: Kind) -> str | None:
    """Say why an image is not whole."""
    if len(content_N) < image.size:
        return f"its tar ends after {len(content_N):,} of {image.size:,} bytes"
    decoded = decode_stored(content_N, kind, strict=True)
    return decoded if isinstance(decoded, str) else None
