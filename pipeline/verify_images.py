"""Strict decoding: which of the images in a tar are not whole.

The loader's own decoder looks at each, and what libjpeg only warns of counts: of JPEGs with some changed
bytes it paints over most and refuses few.  Pillow refuses none that this does not.  A change that decodes
without a word, in a WebP or in raw pixels nearly every one, shows only in the sha256 of the tar.
Shape suffixes: N bytes.
"""

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decode import Decoder
from turbomim.pipeline.repair import admit
from turbomim.pipeline.store import Kind
from turbomim.pipeline.stored_image import StoredImage
from turbomim.pipeline.strict import decode_strictly

BATCH: Final = 16


def check_images(descriptor: int, images: list[StoredImage], kind: Kind) -> list[tuple[StoredImage, str]]:
    """Decode images of an open tar.  Returns those that are not whole, and why.

    Raises OSError if the tar cannot be read.
    """
    decoder = Decoder(batch=BATCH) if kind != "raw" else None
    bad: list[tuple[StoredImage, str]] = []
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH]
        contents = [np.frombuffer(os.pread(descriptor, image.size, image.offset), np.uint8) for image in some]
        reasons = [_refusal(content_N, image, kind) for content_N, image in zip(contents, some, strict=True)]
        if decoder is not None:
            passed = [place for place, reason in enumerate(reasons) if reason is None]
            found = decode_strictly(decoder, [contents[place] for place in passed])
            for place, result in zip(passed, found, strict=True):
                reasons[place] = result if isinstance(result, str) else None
        bad += [(image, reason) for image, reason in zip(some, reasons, strict=True) if reason is not None]
    return bad


def _refusal(content_N: NDArray[np.uint8], image: StoredImage, kind: Kind) -> str | None:
    """Say why the loader would not even try to decode an image."""
    if len(content_N) < image.size:
        return f"its tar ends after {len(content_N):,} of {image.size:,} bytes"
    try:
        admit(content_N, kind)
    except ValueError as error:
        return str(error)
    return None
