"""Encoded photographs to pixels on the host: the one decoder behind the loader, the stores and the checks.

JPEGs by libjpeg-turbo through simplejpeg, PNG, WebP and rare JPEGs by Pillow: of the decoders that were
tried, the fastest of those that no damaged file killed (docs/data.md).  One rule on every backend: 8 bits,
RGB, the first frame, EXIF orientation ignored, alpha dropped.
Shape suffixes: N bytes, H W pixels, C channels.
"""

import functools
import io
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from turbomim.pipeline.decoding.failures import failure_reason, no_image_to_blame
from turbomim.pipeline.decoding.header import Format, Header, check_header, for_pixels
from turbomim.pipeline.decoding.ppm import ppm_pixels
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.store import Kind

Pixels = NDArray[np.uint8]

# of libjpeg, which goes on: what it calls damage, and what it does not.  Anything else is an error, even if
# simplejpeg returns pixels: of those it has written a part, and the rest is what the memory held
DAMAGE: Final = re.compile("Corrupt JPEG data|Premature end of JPEG file|Inconsistent progression sequence")
ODDITY: Final = re.compile("Unknown Adobe color|Warning: unknown JFIF|Invalid SOS parameters for sequential")
MORE_MEMORY = "use fewer workers or threads, or give this process more"
PLUGINS: Final[dict[Format, type[ImageFile]]] = {
    "jpg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
}
END_OF_IMAGE = b"\xff\xd9"


class Undecodable(Exception):
    """An image that has no pixels; the message is the reason."""


class BadImages(Exception):
    """A batch that cannot be made. reasons: by place, of its images that do not decode.

    behind: how many batches come before it.
    """

    def __init__(self, reasons: dict[int, str], *, behind: int = 0) -> None:
        super().__init__(f"{len(reasons)} images of a batch do not decode")
        self.reasons, self.behind = reasons, behind


def decode(image_N: NDArray[np.uint8], *, strict: bool = False) -> Pixels:
    """Decode an image to (H, W, 3) uint8 RGB.  Safe from any thread; the interpreter is free meanwhile.

    strict: refuse, too, a JPEG of which libjpeg says that it is damaged, and which it would paint over.
    Raises Undecodable, with the reason, and UserError if memory ran out.
    """
    try:
        header = check_header(image_N)
    except ValueError as error:
        raise Undecodable(str(error)) from error
    with no_image_to_blame(f"an image of {len(image_N):,} bytes could not be decoded", MORE_MEMORY):
        try:
            return _jpeg(image_N, header, strict) if header.format == "jpg" else _by_pillow(image_N, header)
        except (Undecodable, UserError, MemoryError):
            raise
        # a decoder given damaged bytes may raise anything, and one image must not stop a run of hours
        except Exception as error:
            raise Undecodable(failure_reason(error)) from error


def admit(image_N: NDArray[np.uint8], store: Kind) -> NDArray[np.uint8]:
    """Return what a decoder is fed for a stored image: its bytes, or of the raw store its pixels, uncopied.

    Raises ValueError with the reason: another format, a broken header, more than MAX_PIXELS pixels.
    """
    if store == "raw":
        return ppm_pixels(image_N)
    check_header(image_N)
    return image_N


def decode_stored(image_N: NDArray[np.uint8], store: Kind, *, strict: bool = False) -> Pixels | str:
    """Return the pixels of a stored image, or the reason why it has none."""
    try:
        return decode_or_say(admit(image_N, store), strict=strict)
    except ValueError as error:
        return str(error)


def decode_or_say(admitted: NDArray[np.uint8], *, strict: bool = False) -> Pixels | str:
    """Return the pixels of an image, as `decode` does, or the reason why it has none.

    admitted: of `admit`, bytes (N,) or pixels (H, W, 3), which need no decoder.
    """
    if admitted.ndim == 3:
        return admitted
    try:
        return decode(admitted, strict=strict)
    except Undecodable as error:
        return str(error)


def find_undecodable(images: list[NDArray[np.uint8]]) -> dict[int, str]:
    """Return place and reason of each image that does not decode."""
    found = ((place, decode_or_say(admitted)) for place, admitted in enumerate(images))
    return {place: result for place, result in found if isinstance(result, str)}


@functools.cache
def _simplejpeg() -> Callable[..., Any]:
    """Import the decoder of JPEGs, which what decodes nothing runs without.  Raises UserError: not there."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError as error:
        raise UserError(
            f"simplejpeg, which decodes JPEGs, cannot be imported ({error}): pip install simplejpeg"
        ) from error
    function: Callable[..., Any] = decode_jpeg
    return function


def _jpeg(image_N: NDArray[np.uint8], header: Header, strict: bool) -> Pixels:
    decode_jpeg = _simplejpeg()
    # its values for CMYK are a level off Pillow's and DALI's
    ours = header.components != 4
    try:
        if ours or strict:
            pixels_HWC: Pixels = decode_jpeg(image_N, "RGB", strict=True)
        return pixels_HWC if ours else _by_pillow(image_N, header)
    except ValueError as error:
        said = str(error)
    damaged = bool(DAMAGE.match(said))
    if (strict and damaged) or _is_cut(image_N, header):
        raise Undecodable(said)
    if ours and (damaged or ODDITY.match(said)):
        # it goes on in spite of a scan's warnings, not of a header's
        with suppress(ValueError):
            pixels_HWC = decode_jpeg(image_N, "RGB", strict=False)
            return pixels_HWC
    # of a kind that simplejpeg does not read, or an error
    return _by_pillow(image_N, header)


def _is_cut(image_N: NDArray[np.uint8], header: Header) -> bool:
    """Whether a JPEG has no end after its first scan began."""
    return image_N[header.scan :].tobytes().rfind(END_OF_IMAGE) < 0


def _by_pillow(image_N: NDArray[np.uint8], header: Header) -> Pixels:
    # not through Image.open: its limits and warnings are not ours
    content = io.BytesIO(for_pixels(image_N, header))
    with PLUGINS[header.format](content) as image:
        if (image.height, image.width) != (header.height, header.width):
            raise Undecodable(f"{image.width} x {image.height} pixels, not what its header says")
        return rgb_pixels(image)


def rgb_pixels(image: Image.Image) -> Pixels:
    """Return the first frame of an image of Pillow's as (H, W, 3) uint8 RGB, by the rule above."""
    if image.mode.startswith("I;16"):
        # convert("RGB") cuts off what is over 255
        grey_HW = (np.asarray(image).astype(np.uint32) * 255 + 32_767) // 65_535
        return np.repeat(grey_HW.astype(np.uint8)[..., None], 3, -1)
    return np.array(image.convert("RGB"))
